"""What a service is told when it starts, and what it refuses."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused. All of them hold by default."""

    body_bytes: int = 48 << 20
    """Of one request."""
    image_bytes: int = 32 << 20
    """Of one encoded picture."""
    pixels: int = 50_000_000
    """Width times height, of all pictures of one request together: decoded, each takes 3 bytes."""
    images: int = 16
    """In one request."""
    faces: int = 64
    """In one request, given or found; and as many persons may be given."""
    requests: int = 32
    """For ages, under way at a time; each may hold a body and its pictures in memory."""
    connections: int = 512
    """Open at a time."""
    header_seconds: float = 10.0
    """Until a request's head is there, or the rest of one that was answered before it was read."""
    body_seconds: float = 30.0
    """Until a request's body is there, and until its answer is taken."""

    def __post_init__(self) -> None:
        """Refuses what would refuse everything."""
        wrong = [name for name, value in asdict(self).items() if not value > 0]
        if wrong:
            raise ValueError(f"Limits must be positive; these are not: {', '.join(wrong)}.")


@dataclass(frozen=True, slots=True)
class Batching:
    """How faces become batches, see `runtime.serving.batching.Batcher`."""

    max_batch: int | None = None
    """None: 8 where an expert runs on a GPU; 1 on the CPU, where a batch takes as long as its faces
    one after the other, and is answered only when the last of them is."""
    max_wait_ms: float = 2.0
    queue_limit: int = 256
    workers: int = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a service is told when it starts."""

    engines: Path = Path("engines")
    device: str = "auto"
    """As for `AgeMoE`."""
    precision: str = "auto"
    """As for `AgeMoE`."""
    detector: str = "haar"
    """Finds the faces of a photograph: see `runtime.detectors.detector_named`."""
    keys: Path | None = None
    """File of API keys; None lets everybody in and nobody reload over HTTP."""
    limits: Limits = field(default_factory=Limits)
    batching: Batching = field(default_factory=Batching)

    def __post_init__(self) -> None:
        """Refuses limits that contradict one another."""
        if self.limits.faces > self.batching.queue_limit:
            raise ValueError(
                f"A request may have {self.limits.faces} faces, but only "
                f"{self.batching.queue_limit} may wait. Raise the queue's limit, or lower the "
                f"faces'."
            )
