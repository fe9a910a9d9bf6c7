"""Schemas of requests and responses, from which the OpenAPI document is generated."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    Strict,
    WithJsonSchema,
)

from runtime.serving.base64_text import decoded_base64

_TINY_JPEG = "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAA=="
_BINARY = "application/octet-stream"
MAX_DEADLINE_MS = 600_000.0

Picture = Annotated[
    bytes,
    BeforeValidator(decoded_base64),
    WithJsonSchema(
        {
            "type": "string",
            "contentEncoding": "base64",
            "pattern": r"^([Dd][Aa][Tt][Aa]:[^,]{0,200};[Bb][Aa][Ss][Ee]64,)?"
            r"[A-Za-z0-9+/_\- \t\r\n]*[= \t\r\n]*$",
        }
    ),
]
"""A JPEG, PNG or WebP file in base64, plain or URL-safe, or as a data URI."""

BoxList = Annotated[
    list[Annotated[list[Annotated[FiniteFloat, Strict()]], Field(min_length=4, max_length=4)]],
    Field(description="x, y, width, height in pixels of the upright picture."),
]

Pair = Annotated[list[Annotated[FiniteFloat, Strict()]], Field(min_length=2, max_length=2)]
FaceLandmarks = Annotated[
    list[Pair],
    Field(
        min_length=5,
        max_length=5,
        description="x, y of left eye, right eye, nose, left and right mouth corner in pixels of "
        "the upright picture; left and right as seen in it.",
    ),
]


class Options(BaseModel):
    """Options of every request with pictures."""

    model_config = ConfigDict(extra="forbid")

    boxes: list[BoxList | None] | None = Field(
        None, description="The faces of each picture; null detects them."
    )
    landmarks: list[list[FaceLandmarks | None] | None] | None = Field(
        None,
        description="The landmarks of each face in `boxes`, for experts that align it; null: they "
        "are detected in the box.",
    )
    person_boxes: list[BoxList | None] | None = Field(
        None, description="Whole persons in each picture; matched to the faces by overlap."
    )
    deadline_ms: FiniteFloat | None = Field(
        None, ge=1, le=MAX_DEADLINE_MS, description="From the arrival of the whole request."
    )


class PictureDocument(Options):
    """Pictures in JSON."""

    images: list[Picture] = Field(min_length=1, description="JPEG, PNG or WebP, in base64.")


class AgesOptions(Options):
    """Options of a request for ages."""

    detect: bool = Field(
        default=True,
        description="Detect faces in pictures without boxes; false: such a picture is one face.",
    )
    threshold: FiniteFloat | None = Field(
        None, ge=0, le=150, description="Also return the probability of at least this age."
    )


class AgesRequest(AgesOptions, PictureDocument):
    """Pictures in JSON, of any number of people."""


class Schemas(NamedTuple):
    """The schemas of one kind of request."""

    options: type[Options]
    """Of a form, beside its files."""
    document: type[PictureDocument]
    """Of JSON."""
    example: dict[str, Any]
    """Of JSON."""

    def request_body(self) -> dict[str, Any]:
        """Returns the OpenAPI description of a request, as JSON and as a form."""
        options = self.options.model_json_schema()["properties"]
        files = {"type": "string", "contentMediaType": _BINARY, "format": "binary"}
        as_form = {
            "type": "object",
            "required": ["image"],
            "additionalProperties": False,
            "properties": {"image": {"type": "array", "items": files, "minItems": 1}, **options},
        }
        as_json = {
            "schema": self.document.model_json_schema(),
            "examples": {"one_face": {"summary": "One face with its box", "value": self.example}},
        }
        return {
            "required": True,
            "content": {"application/json": as_json, "multipart/form-data": {"schema": as_form}},
        }


ONE_FACE = {"images": [_TINY_JPEG], "boxes": [[[10, 20, 64, 64]]]}
AGES = Schemas(AgesOptions, AgesRequest, {**ONE_FACE, "threshold": 18})


class ProblemAnswer(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(examples=["urn:agemoe:problem:image"])
    title: str
    status: int
    detail: str = Field(description="The problem, what was found, and the remedy.")
    reasons: list[str] | None = Field(
        None, description="Only of `quality`: a sentence for each limit that the face misses."
    )
    request_id: str | None = Field(
        None, description="The header X-Request-ID, where the problem is the whole answer."
    )


class ExpertAnswer(BaseModel):
    """One expert's prediction for one face."""

    age_years: float = Field(description="The expert's raw prediction.")
    corrected_years: float = Field(description="The prediction after bias correction.")
    weight: float = Field(description="Weight in the fused age.")
    answer_mass: float | None = None


class AtLeastAnswer(BaseModel):
    """The probability of being at least `threshold` years old."""

    threshold: float
    probability: float = Field(description="The nearest probability that the tables state.")
    low: float = Field(description="Lower bound; equals `probability` where the tables state it.")
    high: float = Field(description="Upper bound.")


class QualityAnswer(BaseModel):
    """Quality of a face."""

    face_pixels: float = Field(description="Shorter side of the face's box.")
    inter_eye_pixels: float | None = Field(
        description="Distance between the eyes; null, as yaw and roll, without landmarks."
    )
    sharpness: float = Field(description="Variance of the Laplacian on a sample of fixed size.")
    luminance: float = Field(description="Mean, 0..255.")
    contrast: float = Field(description="Standard deviation of the luminance.")
    underexposed: float = Field(description="Share of dark pixels.")
    overexposed: float = Field(description="Share of bright pixels.")
    yaw_degrees: float | None
    roll_degrees: float | None
    cut_off: float = Field(description="Share of the box outside the picture.")
    score: float | None = Field(description="Confidence of the detector, on its own scale.")
    face_found: bool | None = Field(
        description="Whether a detector finds a face there; null if none was asked."
    )


class EstimateAnswer(BaseModel):
    """The fused age of a face."""

    age_years: float
    low_years: float | None = Field(description="Lower end of the interval; null if uncalibrated.")
    high_years: float | None
    interval_level: float | None = Field(description="Coverage of the interval; 0.9.")
    experts: dict[str, ExpertAnswer]
    missing: dict[str, str] = Field(description="Experts without a prediction, with the reasons.")
    notes: list[str] = Field(description="What was replaced, as landmarks by average ones.")
    quality: QualityAnswer | None = Field(description="null if only a person is visible.")
    at_least: AtLeastAnswer | None = None


class FaceAnswer(BaseModel):
    """A face with either `estimate` or `problem`."""

    box: list[float] | None = Field(description="null: the whole picture is the face.")
    person_box: list[float] | None
    score: float | None = Field(description="Confidence of the detector, on its own scale.")
    landmarks: list[list[float]] | None = Field(
        description="Five points, as in the request; null if neither given nor detected."
    )
    estimate: EstimateAnswer | None
    problem: ProblemAnswer | None


class ImageAnswer(BaseModel):
    """A picture with its faces from left to right, or a `problem` if it cannot be used."""

    width: int | None = Field(description="Of the upright picture, in pixels.")
    height: int | None
    faces: list[FaceAnswer]
    problem: ProblemAnswer | None


class AgesAnswer(BaseModel):
    """One entry per picture, in the order of the request."""

    images: list[ImageAnswer]
    version: str = Field(description="Version of the engines that served the request.")
    calibrated: bool
    stand_ins: dict[str, str] = Field(
        description="Experts with placeholder weights (`demo`, `random`), whose ages of real "
        "photographs are meaningless; empty in production."
    )
    times_ms: dict[str, float] = Field(description="Time of this request, by stage.")
    experts_ms: dict[str, float] = Field(
        description="Median time of each expert's latest batches, over all callers."
    )


class ExpertDescription(BaseModel):
    """An expert of the engines in use."""

    name: str
    architecture: str
    source: str = Field(description="`checkpoint`, `onnx`; placeholders: `demo`, `random`.")
    source_sha256: str | None
    location: str | None = Field(
        description="Public address of the weights; null for a file of the machine that built them."
    )
    license: str | None = Field(description="Of the weights; null where none is stated.")
    backend: str
    inputs: list[str]


class PolicyAnswer(BaseModel):
    """The policy that decides."""

    id: str
    threshold: float = Field(description="Age in years that is required.")
    challenge: float = Field(description="Estimated age in years from which a person passes.")
    floor: float | None = Field(description="Estimated age below which a person fails.")
    max_false_positive: float | None = Field(
        description="Rate of younger people who pass that the challenge age was chosen for."
    )
    confidence: float | None = Field(description="Of the claim that the rate stays below it.")
    claimed: bool = Field(description="Whether labeled people show that it does.")


class ExpertsAnswer(BaseModel):
    """The engines in use."""

    version: str
    opened: str = Field(description="Time of loading: UTC, ISO 8601.")
    calibrated: bool
    concurrency: str
    stand_ins: dict[str, str]
    experts: list[ExpertDescription]
    detector: str
    policy: PolicyAnswer | None = Field(description="null: the service makes no decisions.")
    limits: dict[str, float]
    quality_limits: dict[str, bool | float | None] = Field(
        description="Below which a face is refused with the problem `quality`; null: no limit."
    )


class StatusAnswer(BaseModel):
    """State of the service."""

    status: str
    version: str | None = None
    last_reload: str | None = Field(None, description="Outcome of the latest reload.")
