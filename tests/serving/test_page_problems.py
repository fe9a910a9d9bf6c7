"""What visitors read for each problem of the API: the page's sentences in Playwright's Node."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from runtime.serving import problems
from runtime.serving.generation import PAGE
from runtime.serving.problems import ServiceError

LIMITS = {"image_bytes": 32 << 20, "body_bytes": 48 << 20, "images": 16, "faces": 64, "pixels": 5e7}
API_WORDS = re.compile(r"[a-z][A-Z][a-z]|_|Authorization|Bearer|header|JSON|API|box|--|HTTP|\d{3} ")


def evaluated(expression: str) -> Any:
    """Evaluates an expression with the names of problems.js."""
    found = find_spec("playwright")
    if found is None or found.origin is None:
        pytest.skip("no playwright, which brings Node")
    node = Path(found.origin).parent / "driver" / "node"
    script = f"{(PAGE / 'problems.js').read_text()}\nconsole.log(JSON.stringify({expression}));"
    command = [str(node), "--input-type=module", "-"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _slugs(kind: type[ServiceError] = ServiceError) -> set[str]:
    return {kind.slug}.union(*map(_slugs, kind.__subclasses__()))


def test_every_problem_has_a_sentence_for_visitors() -> None:
    library = {slug for _, _, slug in problems._LIBRARY_ERRORS}
    framework = {problems.problem_of_status(status, "", None).slug for status in (404, 405)}
    slugs = sorted(_slugs() | library | framework | {problems.problem_of(ValueError()).slug})
    contexts = [{}, {"limits": LIMITS, "sizes": [1], "key": True}]
    sentences, known, unknown, refused = evaluated(
        f"[{slugs}.map((slug) => {json.dumps(contexts)}.map((each) => sentenceOf(slug, each))), "
        "Object.keys(SENTENCES), sentenceOf('new', {}, 500), sentenceOf('toString', {}, 422)]"
    )
    assert set(slugs) <= set(known)
    for slug, texts in zip(slugs, sentences, strict=True):
        for text in texts:
            assert re.fullmatch(r"[A-Z].+\.", text), slug
            assert not API_WORDS.search(text), text
    assert unknown.startswith("The service has a fault.")
    assert refused == "The service does not accept this picture. Choose another one."


def test_pictures_are_checked_before_they_are_sent() -> None:
    most, body = LIMITS["image_bytes"], LIMITS["body_bytes"]
    sent = [[most], [most + 1], [1, most + 1], [most] * 2, [1] * 16, [1] * 17, [int(body)]]
    found = evaluated(
        f"{json.dumps(sent)}.map((sizes) => {{ try {{ "
        f"checkFiles(sizes.map((size) => ({{ size }})), {json.dumps(LIMITS)}); return ''; "
        "} catch (failure) { return failure.message; } })"
    )
    one = "This picture is too large. Choose one under 32 MB."
    several = "A picture is too large. Choose one under 32 MB."
    together = (
        "These pictures are too large together. Choose fewer, or smaller ones: 48 MB at most."
    )
    assert found == ["", one, several, together, "", "Choose at most 16 pictures.", one]


def test_answers_of_gateways_have_sentences_too() -> None:
    answers = [(413, ""), (429, ""), (502, ""), (503, "<html>"), (504, "[]"), (418, ""), (500, "")]
    found = evaluated(
        f"await Promise.all({json.dumps(answers)}.map(async ([status, body]) => {{ "
        "const failure = await failureOf(new Response(body, { status }), {}); "
        "return [failure.message, failure.temporary]; }))"
    )
    starts = [
        "This picture is too large. Choose a smaller one.",
        "The service is busy.",
        "The service cannot be reached behind its gateway.",
        "The service is busy.",
        "The estimate took too long.",
        "The service does not accept this picture.",
        "The service has a fault.",
    ]
    assert all(text.startswith(start) for (text, _), start in zip(found, starts, strict=True))
    assert [temporary for _, temporary in found] == [False, True, True, True, True, False, True]
