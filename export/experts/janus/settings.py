"""Settings of Janus-Pro, read without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast, get_args

from export.config.settings import COMMON_KEYS, WHOLE_YEARS, choice, optional, read_age_grid
from export.experts.janus.prompt import IMAGE, PromptOptions, Readout
from export.experts.janus.trie import Termination
from runtime.json_reader import JsonReader, shown

HEADS = ("prompt", "light")
SIZES = ("1B", "7B", "demo")
CROP_KEYS = ("crop_margin", "margins", "offset", "before")
"""Keys of the geometry that the checkpoint does not define."""
_QUESTION_KEYS = ("prompt", "answer_prefix", "system_prompt", "ages", "termination", "readout")


@dataclass(frozen=True, slots=True)
class JanusSettings:
    """Janus-Pro with a fixed question; the checkpoint's own files describe the pixels."""

    head: str
    """`prompt`: the language model answers; `light`: a distilled head on the image tokens."""
    question: PromptOptions
    """The question; a light head uses only its ages."""
    size: str
    """Shape of random and demo weights, `1B`, `7B` or `demo`; ignored with a checkpoint."""


def read_janus(entry: JsonReader) -> JanusSettings:
    """Reads the table of a Janus-Pro."""
    entry.only((*COMMON_KEYS, "head", "size", *_QUESTION_KEYS))
    if entry.has("geometry"):
        for key, value in entry.child("geometry").items():
            if key not in CROP_KEYS:
                value.problem("comes from the checkpoint's own processor files; leave it out")
    head = optional(entry, "head", choice(HEADS), "prompt")
    if entry.has("views") and entry.has("readout") and entry.child("readout").value == "greedy":
        entry.child("views").problem(
            "readout = 'greedy' writes one number per picture, or none: there is no mean of two "
            "answers. Use readout = 'expectation', or leave views out"
        )
    for key in _QUESTION_KEYS:
        if head == "light" and key != "ages" and entry.has(key):
            entry.child(key).problem("belongs to head = 'prompt'; a light head has no prompt")
    return JanusSettings(head, _question(entry), optional(entry, "size", choice(SIZES), "1B"))


def _question(entry: JsonReader) -> PromptOptions:
    default = PromptOptions()
    prompt = optional(entry, "prompt", JsonReader.string, default.prompt)
    if prompt.count(IMAGE) != 1:
        entry.child("prompt").problem(
            f"must hold {IMAGE} exactly once, at the picture's place; found {prompt.count(IMAGE)}"
        )
    ages = optional(entry, "ages", read_age_grid, WHOLE_YEARS)
    if ages != tuple(range(int(ages[0]), int(ages[-1]) + 1)):
        entry.child("ages").problem(f'must be whole years, like "0..100", got {shown(ages)}')
    return PromptOptions(
        prompt=prompt,
        answer_prefix=optional(entry, "answer_prefix", JsonReader.string, default.answer_prefix),
        system_prompt=optional(entry, "system_prompt", JsonReader.boolean, default.system_prompt),
        ages=(int(ages[0]), int(ages[-1])),
        termination=optional(entry, "termination", _termination, default.termination),
        readout=optional(entry, "readout", _readout, default.readout),
    )


def _readout(entry: JsonReader) -> Readout:
    return cast("Readout", entry.choice(get_args(Readout)))


def _termination(entry: JsonReader) -> Termination:
    return cast("Termination", entry.choice(get_args(Termination)))
