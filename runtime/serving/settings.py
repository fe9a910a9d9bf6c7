"""Settings of the service and their validation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from runtime.quality import QualityLimits
from runtime.serving.origins import check_origins


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on requests and connections; all of them apply by default."""

    body_bytes: int = 48 << 20
    """Per request."""
    image_bytes: int = 32 << 20
    """Per encoded picture."""
    pixels: int = 50_000_000
    """Width times height, summed over the pictures of a request; decoded, a pixel takes 3 bytes."""
    decode_bytes: int = 512 << 20
    """Memory of all requests for decoding and for decoded pictures; a request waits for its share.
    A request that needs more gets it alone."""
    decode_seconds: float = 1.25
    """Of processor time for all pictures of a request, as `DecoderPool` measures it."""
    search_pixels: int = 4_500_000
    """That the network of the face detector may look at for the pictures of a request: enough for
    one that is searched in every size and turn, and for 16 with a clear face."""
    images: int = 16
    """Per request."""
    faces: int = 64
    """Per request, given or detected; also the limit on given persons."""
    requests: int = 32
    """Concurrent requests with pictures; each may hold a body and its pictures in memory."""
    connections: int = 512
    """Open connections."""
    header_seconds: float = 10.0
    """For a request's head, and for the rest of a body that the service does not read."""
    body_seconds: float = 30.0
    """For a request's body, and for the client to receive the response."""
    deadline_ms: float = 60_000.0
    """For a request without a deadline or with a later one, from the arrival of its body."""

    def __post_init__(self) -> None:
        """Validates that every limit is positive."""
        wrong = [name for name, value in asdict(self).items() if not value > 0]
        if wrong:
            raise ValueError(f"Limits must be positive; these are not: {', '.join(wrong)}.")


@dataclass(frozen=True, slots=True)
class Batching:
    """Options of `runtime.serving.batching.Batcher`."""

    max_batch: int | None = None
    """None: 8 if an expert runs on a GPU, else 1: on a CPU a batch takes as long as its faces one
    after the other, and its results are ready only when the last face is."""
    max_wait_ms: float = 2.0
    queue_limit: int = 256
    workers: int = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a service."""

    engines: Path = Path("engines")
    device: str = "auto"
    """As for `AgeMoE`."""
    precision: str = "auto"
    """As for `AgeMoE`."""
    detector: str = "auto"
    """A name, as in `AgeMoE`."""
    quality: QualityLimits = field(default_factory=QualityLimits)
    """Limits below which a face is refused."""
    liveness: Path | None = None
    """Description of a liveness model that checks each face, as for `OnnxLiveness`; None: none."""
    policy: bool = False
    """Whether the service decides by the policy of the engines folder."""
    keys: Path | None = None
    """File of API keys; None serves requests without keys and rejects reloads over HTTP."""
    allowed_hosts: tuple[str, ...] | None = None
    """Names, without port, that the header Host of a request may have; None allows any."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of other sites' pages whose scripts may use the service (CORS); `*` allows any."""
    audit: Path | None = None
    """File that decisions are recorded in; None: they are not."""
    audit_key: Path | None = None
    """File of the key of the pictures' digests in `audit`; None: they have none."""
    decoders: int | None = None
    """Processes that decode pictures; None as in `DecoderPool`."""
    limits: Limits = field(default_factory=Limits)
    batching: Batching = field(default_factory=Batching)

    def __post_init__(self) -> None:
        """Validates the origins, and the options that depend on one another."""
        check_origins(self.allowed_origins)
        if self.audit_key is not None and self.audit is None:
            raise ValueError("An audit key needs an audit log. Give --audit FILE, too.")
        if self.audit is not None and not self.policy:
            raise ValueError("An audit log records decisions, which need --policy. Give it, too.")
        if self.decoders is not None and self.decoders < 1:
            raise ValueError(f"At least one decoder is needed, got {self.decoders}.")
        if self.limits.faces > self.batching.queue_limit:
            raise ValueError(
                f"A request may have {self.limits.faces} faces, but the queue holds only "
                f"{self.batching.queue_limit}. Raise the queue limit, or lower the limit on faces."
            )
