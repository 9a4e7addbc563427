"""Prompts and text tokens."""

import json
from pathlib import Path

import numpy as np
import pytest

from ideomotor.cli.names import tasks
from ideomotor.core.errors import UserError
from ideomotor.model.presets import TEXT_IDS, small
from ideomotor.sim.objects import COLOURS, SHAPES
from ideomotor.tokenize.prompt import Bare, OpenVLA, prompt_text
from ideomotor.tokenize.text import TextTokenizer, drop_words, foreign_words


def sentences():
    """Everything the tabletop can say, in both wordings."""
    return [
        template.format(colour=colour.name, shape=shape.name, destination=f"{other} plate")
        for task in tasks().values()
        for wording in ("train", "held_out")
        for template in task.templates(wording)
        for colour in COLOURS
        for shape in SHAPES
        for other in ("red", "purple", "orange")
    ]


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer.shipped()


def test_the_prompt_of_openvla_gives_its_published_string():
    expected = "In: What action should the robot take to put both in the basket?\nOut:"
    assert prompt_text(OpenVLA(), "Put both in the Basket") == expected


def test_the_prompt_of_openvla_gives_the_reference_strings(fixtures: Path):
    inputs = json.loads((fixtures / "openvla-parity-a" / "inputs" / "inputs.json").read_text(encoding="utf-8"))
    assert len(inputs) == 6
    for sample in inputs:
        assert prompt_text(OpenVLA(), sample["instruction"]) == sample["prompt"]


def test_case_and_white_space_do_not_matter_to_a_bare_prompt():
    assert prompt_text(Bare(), "\tPICK up\n the Red  cube ") == "pick up the red cube"


def test_every_sentence_of_the_tabletop_comes_back_and_fits_the_small_network(tokenizer: TextTokenizer):
    texts = sentences()
    assert len(texts) > 1000
    ids, mask = tokenizer.encode(texts, small().text_length)  # refuses longer ones
    assert ids.max() < TEXT_IDS
    for row in range(0, len(texts), 17):
        assert tokenizer.decode(ids[row][mask[row]].tolist()) == texts[row]


@pytest.mark.parametrize("text", ["", "a", "hole den Würfel: 積み木 🤖", "x" * 20, "two  spaces\nand a line"])
def test_any_text_comes_back(tokenizer: TextTokenizer, text: str):
    ids, mask = tokenizer.encode([text], 64)
    assert tokenizer.decode(ids[0][mask[0]].tolist()) == text


def test_padding_is_zero_and_masked_and_does_not_depend_on_the_batch(tokenizer: TextTokenizer):
    together, mask = tokenizer.encode(["lift the red can", "lift"], 10)
    alone, alone_mask = tokenizer.encode(["lift"], 10)
    np.testing.assert_array_equal(together[1], alone[0])
    np.testing.assert_array_equal(mask[1], alone_mask[0])
    assert (together[~mask] == 0).all()
    count = mask.sum(1)
    assert count[0] > count[1] >= 1
    assert (mask == (np.arange(10) < count[:, None])).all()


def test_a_long_instruction_is_refused_with_its_length(tokenizer: TextTokenizer):
    with pytest.raises(UserError, match=r"has \d+ tokens, this network reads 4; say it shorter"):
        tokenizer.encode(["pick up the red cube and put it on the blue plate"], 4)


def test_something_else_than_a_tokenizer_is_refused():
    with pytest.raises(UserError, match=r"text\.json is no tokenizer"):
        TextTokenizer('{"hello": 1}', "text.json")


def test_the_shipped_file_is_what_the_json_says(tokenizer: TextTokenizer):
    again = TextTokenizer(tokenizer.json_text)
    assert again.vocabulary == tokenizer.vocabulary <= TEXT_IDS
    np.testing.assert_array_equal(again.encode(["grab the bar"], 8)[0], tokenizer.encode(["grab the bar"], 8)[0])


def test_dropped_words_depend_on_the_sample_number_alone():
    rng = np.random.default_rng(0)
    mask = rng.random((64, 16)) < 0.8
    numbers = rng.permutation(64)
    whole = drop_words(mask, 0.3, seed=7, numbers=numbers)
    order = rng.permutation(64)[:10]
    np.testing.assert_array_equal(drop_words(mask[order], 0.3, seed=7, numbers=numbers[order]), whole[order])
    assert (drop_words(mask, 0.3, seed=8, numbers=numbers) != whole).any()


def test_half_of_the_rows_lose_the_stated_share_of_their_words():
    mask = np.ones((4000, 16), bool)
    kept = drop_words(mask, 0.25, seed=0, numbers=np.arange(4000))
    assert mask.all()  # the argument is untouched
    touched = ~kept.all(1)
    # a touched row shows with probability 1 - 0.75^16 = 0.990
    assert touched.mean() == pytest.approx(0.5 * 0.990, abs=0.03)
    assert 1 - kept[touched].mean() == pytest.approx(0.25 / 0.990, abs=0.01)


def test_padding_never_becomes_a_word():
    mask = np.zeros((10, 16), bool)
    mask[:, :3] = True
    kept = drop_words(mask, 0.5, seed=0, numbers=np.arange(10))
    assert not (kept & ~mask).any()
    np.testing.assert_array_equal(drop_words(mask, 0.0, seed=0, numbers=np.arange(10)), mask)


def test_a_foreign_word_takes_the_place_of_one_token():
    text = np.tile(np.arange(100, 108, dtype=np.int64), (200, 1))
    text[:, 5:] = 0
    mask = np.zeros((200, 8), bool)
    mask[:, :5] = True
    changed, kept = foreign_words(text, mask, 1.0, 50, 0, np.arange(200))
    lengths = set()
    for row in range(200):
        ids = changed[row][kept[row]].tolist()
        old = [i for i in ids if i >= 100]
        lengths.add(len(ids))
        assert len(old) == 4, "one of the five words is gone"
        assert old == sorted(old), "the others stand in their order"
        assert all(0 <= i < 50 for i in ids if i < 100), "the pieces come from the vocabulary"
    assert lengths == {5, 6, 7}, "one to three pieces"


def test_foreign_words_leave_the_asked_share_of_rows_and_do_not_depend_on_the_batch():
    text = np.tile(np.arange(100, 116, dtype=np.int64), (2000, 1))
    mask = np.zeros((2000, 16), bool)
    mask[:, :6] = True
    numbers = np.arange(2000)
    changed, _ = foreign_words(text, mask, 0.3, 50, 7, numbers)
    assert abs((changed != text).any(axis=1).mean() - 0.3) < 0.05
    alone, _ = foreign_words(text[40:41], mask[40:41], 0.3, 50, 7, numbers[40:41])
    assert (alone[0] == changed[40]).all()
    untouched, _ = foreign_words(text, mask, 0.0, 50, 7, numbers)
    assert (untouched == text).all()
