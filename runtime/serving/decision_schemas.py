"""Schemas of requests for a decision and of their answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from runtime.serving.schemas import (
    ONE_FACE,
    BoxList,
    EstimateAnswer,
    FaceLandmarks,
    ImageAnswer,
    Options,
    PictureDocument,
    Schemas,
)


class DecisionOptions(Options):
    """Options of a request for a decision about one person."""

    boxes: list[Annotated[BoxList, Field(max_length=1)] | None] | None = Field(
        None,
        description="The person's face in each picture; null detects it, and there may be no other "
        "face in the picture then.",
    )
    landmarks: list[Annotated[list[FaceLandmarks | None], Field(max_length=1)] | None] | None = (
        Field(None, description="The landmarks of each face in `boxes`; null: they are detected.")
    )


class DecisionRequest(DecisionOptions, PictureDocument):
    """Pictures in JSON, all of one person."""


DECISIONS = Schemas(DecisionOptions, DecisionRequest, ONE_FACE)


class ReasonAnswer(BaseModel):
    """Why a decision was made."""

    code: str = Field(description="Stable, for programs.", examples=["challenge_met"])
    sentence: str = Field(description="For people.")


class OutcomeAnswer(BaseModel):
    """A decision about one person."""

    outcome: Literal["pass", "refer", "fail"] = Field(
        description="Old enough; ask for another proof of age; too young."
    )
    reasons: list[ReasonAnswer] = Field(min_length=1, description="The first is the weightiest.")
    policy: str = Field(description="Id of the policy.")
    threshold: float = Field(description="The required age in years.")
    challenge: float = Field(description="The estimated age from which a person passes.")
    age_years: float | None = Field(description="The estimated age; null without an estimate.")
    interval: list[float] | None = Field(description="Ends of the 90 % interval in years.")
    probability: float | None = Field(
        description="Probability of being at least `threshold` years old; null if uncalibrated."
    )
    probability_bounds: list[float] | None = Field(
        description="They differ where the tables state no more than a bound."
    )


class PersonAnswer(EstimateAnswer):
    """The age of one person from all pictures."""

    stability_years: float | None = Field(
        description="Spread of the pictures' own estimates; null for one picture."
    )
    effective_frames: float = Field(description="Number of equally weighted pictures.")
    correlation: float | None = Field(description="Of the pictures' errors; null: not allowed for.")
    disagreement: str | None = Field(description="Set where the pictures do not agree.")


class PersonImageAnswer(ImageAnswer):
    """A picture of the person: its one face, or a `problem` if it cannot be used."""

    weight: float = Field(description="Share in the person's age.")
    left_out: str | None = Field(description="Why an estimate has no share.")


class DecisionAnswer(BaseModel):
    """A decision and what it rests on."""

    decision: OutcomeAnswer
    estimate: PersonAnswer | None = Field(description="null if no picture has a usable face.")
    images: list[PersonImageAnswer] = Field(description="In the order of the request.")
    version: str = Field(description="Version of the engines and the policy.")
    calibrated: bool
    stand_ins: dict[str, str] = Field(description="Experts with placeholder weights.")
    times_ms: dict[str, float] = Field(description="Time of this request, by stage.")
    experts_ms: dict[str, float] = Field(description="As in the answer of `/v1/ages`.")
