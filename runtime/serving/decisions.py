"""A decision about one person, from the results of the pictures in a request.

Every picture must show exactly one face, or have the box of one. A picture that cannot be used is
left out, and its reason is in the answer; without any usable one the person is referred. A picture
with several faces always refers: the service does not guess which of them is meant.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from runtime.decisions import Decision, Policy, Reason, reasons_by_picture
from runtime.errors import (
    AgeMoEError,
    DeadlineError,
    ImageError,
    ImageTooLargeError,
    InputError,
    PredictionError,
)
from runtime.person import PersonEstimate, combine
from runtime.results import AgeEstimate
from runtime.serving.audit import AuditLog
from runtime.serving.generation import Generation
from runtime.serving.prediction import JsonObject, Predictions, photo_json
from runtime.serving.problems import NoFaceError, NotRecordedError
from runtime.serving.request_body import Photo

log = logging.getLogger("agemoe")

_CODES: tuple[tuple[type[AgeMoEError], str], ...] = (
    (NoFaceError, "no_face"),
    (ImageError, "unreadable"),
    (ImageTooLargeError, "unreadable"),
    (DeadlineError, "late"),
)
"""Reason codes of errors that a policy does not know."""


@dataclass(frozen=True, slots=True)
class Person:
    """A decision about one person and what it rests on."""

    decision: Decision
    estimate: PersonEstimate | None
    """None if no picture has a usable face."""
    photos: Sequence[Predictions]

    def to_dict(self) -> JsonObject:
        """Returns the decision, the estimate and each picture, ready for JSON."""
        estimate = None if self.estimate is None else self.estimate.to_dict()
        frames = [None] * len(self.photos) if self.estimate is None else self.estimate.frames
        return {
            "decision": self.decision.to_dict(),
            "estimate": estimate and {k: v for k, v in estimate.items() if k != "frames"},
            "images": [
                {
                    **photo_json(photo, None),
                    "weight": 0.0 if frame is None else frame.weight,
                    "left_out": frame and frame.left_out,
                }
                for photo, frame in zip(self.photos, frames, strict=True)
            ],
        }


def decide(policy: Policy, photos: Sequence[Predictions], no_answers: Collection[str]) -> Person:
    """Decides on the one person in all pictures.

    Args:
        policy: decides.
        photos: with one face each, or an error.
        no_answers: reasons of working experts that have no age for a face.

    Raises:
        BaseException: no picture has an estimate, and one failed for another reason than its
            content or the time: the service is at fault.
    """
    results = [_result_of(photo) for photo in photos]
    try:
        estimate = combine(results)
    except PredictionError as error:
        for result in results:
            if isinstance(result, AgeMoEError) and not _is_refusal(result, no_answers):
                raise result from None
        reasons = reasons_by_picture([_reasons(policy, result) for result in results])
        return Person(replace(policy.decide(error), reasons=tuple(reasons)), None, photos)
    return Person(policy.decide(estimate), estimate, photos)


def policy_json(policy: Policy) -> JsonObject:
    """Returns what clients may know of a policy, ready for JSON."""
    evidence = policy.evidence
    return {
        "id": policy.id,
        "threshold": policy.threshold,
        "challenge": policy.challenge,
        "floor": policy.floor,
        "max_false_positive": policy.max_false_positive,
        "confidence": policy.confidence,
        "claimed": evidence is not None and evidence.claimed,
    }


def record_decision(
    audit: AuditLog, person: Person, photos: Sequence[Photo], generation: Generation
) -> None:
    """Records a decision: digests, no pixels and no names.

    Raises:
        NotRecordedError: there is no record, whatever the reason.
    """
    decision = person.decision
    try:
        audit.append(
            {
                "pictures": [audit.digest(photo.data) for photo in photos],
                "engines": generation.fingerprint,
                "fusion": generation.moe.binding.fusion_sha256,
                "policy": decision.policy,
                "outcome": decision.outcome,
                "reasons": [reason.code for reason in decision.reasons],
            }
        )
    except Exception as error:
        log.exception("a decision could not be recorded and is not given")
        raise NotRecordedError(
            "The decision could not be recorded, so it is not given. See the log of the service."
        ) from error


def _result_of(photo: Predictions) -> AgeEstimate | AgeMoEError:
    """Returns the estimate or error of a picture; raises an error that is not the library's."""
    if photo.error is not None:
        return photo.error
    (result,) = photo.results
    if not isinstance(result, AgeEstimate | AgeMoEError):
        raise result
    return result


def _is_refusal(error: AgeMoEError, no_answers: Collection[str]) -> bool:
    """Returns whether an error is about the picture or the time, and not of the service."""
    if isinstance(error, InputError | DeadlineError):
        return True
    return isinstance(error, PredictionError) and set(error.missing.values()) <= set(no_answers)


def _reasons(policy: Policy, result: AgeEstimate | AgeMoEError) -> Iterator[Reason]:
    """Yields the reasons of one picture, with the codes of the service."""
    known = next((code for kind, code in _CODES if isinstance(result, kind)), None)
    for code, sentence in policy.decide(result).reasons:
        yield Reason(known or code, sentence)
