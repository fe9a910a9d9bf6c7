"""The prompt's tokens, the trie of answers and the attention mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.errors import ExportError
from export.experts.janus.prompt import HIDDEN, ImageTokens, PromptOptions, build_prompt
from export.experts.janus.trie import nodes, tree_of, tree_rows
from tests.export.janus_fixtures import BOS, OPTIONS, tiny_prompt, write_tokenizer


def test_single_digits_need_ten_nodes(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path, merged=False)
    prompt = tiny_prompt(tokenizer)
    spelling = {i: token for token, i in tokenizer.tokens().items()}
    nodes = [spelling[i] for i in prompt.tree.node_ids]
    assert sorted(nodes[:9]) == list("123456789")
    assert nodes[9:] == ["0"]  # of "10", which "100" extends
    assert prompt.tree.depths == (1,) * 9 + (2,)
    assert len(prompt.tree.ends) == 10
    assert [spelling[i] for i in prompt.age_token_ids[100]] == ["1", "0", "0"]
    assert prompt.prompt_token_ids[0] == tokenizer.tokens()[BOS]
    assert sorted(spelling[i] for i in prompt.digit_ids) == list("0123456789")


def test_merged_digits_make_a_flat_trie(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path, merged=True)
    prompt = tiny_prompt(tokenizer, replace(OPTIONS, answer_prefix=""))
    assert prompt.age_token_ids[37] == (tokenizer.tokens()["37"],)
    assert [len(answer) for answer in prompt.age_token_ids] == [1] * 100 + [2]
    assert prompt.tree.node_ids == (tokenizer.tokens()["10"],)


def test_a_space_merged_with_the_digits_belongs_to_the_answers(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path, merged=True)
    spaced, bare = (
        tiny_prompt(tokenizer, replace(OPTIONS, answer_prefix=prefix)) for prefix in (" ", "")
    )
    assert spaced.prompt_token_ids == bare.prompt_token_ids
    assert spaced.age_token_ids[37] == (tokenizer.tokens()["Ġ37"],)


def test_strict_termination_reads_every_answer(tmp_path: Path) -> None:
    prompt = tiny_prompt(
        write_tokenizer(tmp_path, merged=False), replace(OPTIONS, termination="all")
    )
    assert len(prompt.tree.node_ids) == len(prompt.tree.ends) == 101


def test_the_path_of_an_answer_has_all_its_steps() -> None:
    answers = [(1,), (1, 2), (1, 2, 3), (4,), (4, 2)]
    tree = tree_of(answers, "all", tree_rows(nodes(answers, "all")))
    assert tree.node_ids == (1, 4, 2, 2, 3)
    assert tree.parents == (0, 0, 1, 2, 3)
    steps = [*(f"{row}>{token}" for row, token in tree.edges), *(f"{e}." for e in tree.ends), ""]
    paths = ["".join(steps[step] for step in path) for path in tree.paths]
    assert paths == ["0>11.", "0>11>23.", "0>11>23>35.", "0>42.", "0>42>24."]


def test_mask_and_positions(tmp_path: Path) -> None:
    prompt = tiny_prompt(write_tokenizer(tmp_path, merged=False), replace(OPTIONS, ages=(9, 12)))
    length = prompt.prompt_length
    mask = prompt.mask()
    assert mask.shape == (1, 1, length + 1, length + 1)
    assert set(np.unique(mask)) == {0.0, HIDDEN}
    np.testing.assert_array_equal(mask[0, 0, :length, :length] == 0, np.tri(length, dtype=bool))
    assert (mask[0, 0, length] == 0).all()
    assert np.isfinite(mask.astype(np.float16)).all()
    np.testing.assert_array_equal(prompt.positions(), np.arange(length + 1))


def test_nodes_attend_to_their_ancestors_only(tmp_path: Path) -> None:
    prompt = tiny_prompt(write_tokenizer(tmp_path, merged=False))
    visible = prompt.mask()[0, 0, prompt.prompt_length :, prompt.prompt_length :] == 0
    expected = np.eye(10, dtype=bool)
    expected[9, prompt.tree.parents[9] - 1] = True  # "10" attends to "1"
    np.testing.assert_array_equal(visible, expected)
    np.testing.assert_array_equal(
        prompt.positions()[-10:], [prompt.prompt_length] * 9 + [prompt.prompt_length + 1]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (replace(OPTIONS, prompt="How old?"), "exactly once, found 0 times"),
        (replace(OPTIONS, prompt="{image}{image}?"), "exactly once, found 2 times"),
        (
            replace(OPTIONS, prompt="{image}<image_placeholder>?"),
            "contains 2 × '<image_placeholder>'",
        ),
        (replace(OPTIONS, ages=(9, 3)), "got 9 to 3"),
        (replace(OPTIONS, answer_prefix="1"), "merges prompt and answer"),
    ],
)
def test_invalid_prompts_are_rejected(tmp_path: Path, options: PromptOptions, message: str) -> None:
    tokenizer = write_tokenizer(tmp_path, merged=True)
    with pytest.raises(ExportError, match=message):
        tiny_prompt(tokenizer, options)


def test_a_tokenizer_without_image_tokens_is_rejected(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path, merged=False)
    image = ImageTokens(9, placeholder="<img>")
    with pytest.raises(ExportError, match="lacks <img>"):
        build_prompt(tokenizer, OPTIONS, image)
