"""Taking the last ids from a tokenizer, against the `tokenizers` library's own training with fewer ids."""

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ideomotor.core.errors import UserError
from ideomotor.tokenize.shorten import shorten
from ideomotor.tokenize.text import TextTokenizer

CORPUS = ["pick up the red cube and put it on the blue plate", "the quick brown fox picks the lazy dog up"] * 5
TEXTS = [*CORPUS[:2], "quickly pick cubes", "pu\u0308nktlich \u4f60\u597d \U0001f916", "  two  spaces", ""]


def trained(ids: int, **model: Any) -> Tokenizer:
    """Byte-level BPE with so many ids, the bytes first."""
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=ids, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def test_the_shortened_tokenizer_is_the_one_trained_with_fewer_ids():
    """Merges are learned one after the other, so the first ones do not depend on how many come later."""
    whole, fewer = trained(310), trained(280)
    shortened = Tokenizer.from_str(shorten(whole.to_str(), 280))
    assert shortened.get_vocab() == fewer.get_vocab()
    for text in TEXTS:
        assert shortened.encode(text).ids == fewer.encode(text).ids
        assert shortened.decode(shortened.encode(text).ids) == text
    assert any(whole.encode(text).ids != fewer.encode(text).ids for text in TEXTS)


def test_merges_spelled_as_one_string_are_read_as_well():
    """As older versions of the library wrote them."""
    whole = json.loads(trained(310).to_str())
    expected = shorten(json.dumps(whole), 280)
    whole["model"]["merges"] = [" ".join(pair) for pair in whole["model"]["merges"]]
    assert shorten(json.dumps(whole), 280) == expected


def test_added_tokens_beyond_the_end_go_and_those_below_stay():
    whole = trained(300)
    whole.add_special_tokens(["<last>"])
    text = TextTokenizer(shorten(whole.to_str(), 300))
    assert text.vocabulary == 300
    ids, mask = text.encode(["pick <last>"], 32)
    assert text.decode(ids[0][mask[0]].tolist()) == "pick <last>"
    assert TextTokenizer(shorten(whole.to_str(), 301)).encode(["<last>"], 4)[0][0, 0] == 300


def test_what_a_tokenizer_adds_around_a_text_goes():
    """Instructions of a fixed length are padded by the pipeline; a BOS might have one of the lost ids."""
    whole = trained(300)
    whole.enable_padding(length=12)
    whole.enable_truncation(2)
    text = TextTokenizer(shorten(whole.to_str(), 290))
    ids, mask = text.encode(["pick up the red cube"], 32)
    assert text.decode(ids[0][mask[0]].tolist()) == "pick up the red cube"


def test_what_is_no_bpe_tokenizer_is_refused():
    unigram = Tokenizer(models.Unigram([("a", 0.0), ("b", -1.0)])).to_str()
    for text in ("no JSON", "[]", '{"model": null}', unigram):
        with pytest.raises(UserError, match="that file is no BPE tokenizer in JSON form"):
            shorten(text, 1, "that file")


def test_a_tokenizer_that_would_lose_its_sign_for_the_unknown_is_refused():
    model = models.BPE(vocab={"a": 0, "b": 1, "<unk>": 2}, merges=[], unk_token="<unk>")
    with pytest.raises(UserError, match="has its unknown token '<unk>' among the last ids"):
        shorten(Tokenizer(model).to_str(), 2)
