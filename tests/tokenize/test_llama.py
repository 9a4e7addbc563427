"""Llama-2's tokenizer from both of its files, against ids of the reference libraries. Skips where the files are absent."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from ideomotor.core.errors import UserError
from ideomotor.tokenize.llama import EOS, LlamaTokenizer, pad_rows, training_ids
from ideomotor.tokenize.prompt import OpenVLA, Vicuna, prompt_text
from ideomotor.tokenize.text import TextTokenizer

FILES = (
    "llama2-tokenizer/tokenizer.json",  # without <PAD>
    "llama2-tokenizer/tokenizer.model",
    "openvla-parity-a/checkpoint/tokenizer.json",  # with <PAD>
)


@pytest.fixture(scope="module", params=FILES)
def llama(fixtures: Path, request):
    return LlamaTokenizer.from_file(fixtures / request.param)


@pytest.fixture(scope="module")
def rows(fixtures: Path):
    return json.loads((fixtures / "llama2-tokenizer" / "strings_ids.json").read_text(encoding="utf-8"))["rows"]


@pytest.fixture(scope="module")
def model(fixtures: Path) -> bytes:
    return (fixtures / "llama2-tokenizer" / "tokenizer.model").read_bytes()


def test_two_hundred_strings_give_the_reference_ids_and_come_back(llama: LlamaTokenizer, rows):
    assert len(rows) == 200
    for row in rows:
        assert llama.encode(row["text"]) == row["ids"], row["text"]
        assert llama.encode_bare(row["text"]) == row["ids_no_bos"], row["text"]
        assert llama.decode(row["ids"]) == row["decoded_skip_special"]
        assert llama.decode_marked(row["ids"]) == row["decoded"]


def test_prompts_give_the_reference_ids_with_and_without_the_bare_space(llama: LlamaTokenizer, fixtures: Path):
    folder = fixtures / "openvla-parity-a"
    golden = np.load(folder / "expected.npz")
    inputs = json.loads((folder / "inputs" / "inputs.json").read_text(encoding="utf-8"))
    for sample in inputs:
        text = prompt_text(OpenVLA(), sample["instruction"])
        assert llama.encode(text) == golden[f"{sample['index']}.input_ids"].tolist()
        assert llama.prompt_ids(text) == golden[f"{sample['index']}.input_ids_29871"].tolist()


def test_training_sequences_are_those_of_the_reference(llama: LlamaTokenizer, fixtures: Path):
    """The reference writes action ids as characters and tokenizes prompt, characters and `</s>` as one string."""
    golden = np.load(fixtures / "openvla-parity-a" / "expected.npz")
    batch = []
    for i in range(6):
        expected = golden[f"{i}.train_input_ids"].tolist()
        batch.append(training_ids(golden[f"{i}.input_ids_29871"].tolist(), expected[-8:-1], EOS))
        assert batch[-1] == expected
        assert llama.decode(batch[-1][-8:-1])  # each of them has characters
    ids, mask = pad_rows(batch)
    np.testing.assert_array_equal(ids, golden["batch.input_ids"])
    np.testing.assert_array_equal(mask, golden["batch.attention_mask"])


def test_training_strings_with_action_characters_are_built_directly(llama: LlamaTokenizer, rows):
    whole = [row for row in rows if row["text"].endswith("</s>") and "\nOut: " in row["text"]]
    assert whole
    for row in whole:
        prompt, _ = row["text"].split("\nOut: ")
        actions = row["ids"][row["ids"].index(29871, -10) + 1 : -1]
        assert min(actions) >= 31744
        assert training_ids(llama.prompt_ids(prompt + "\nOut:"), actions, 2) == row["ids"]


def test_the_published_ids_of_a_prompt_hold(llama: LlamaTokenizer):
    # ids of openvla-7b
    instruction = "put both the alphabet soup and the tomato sauce in the basket"
    words = [1925, 1716, 278, 22968, 22300, 322, 278, 6454, 1219, 12507, 346, 297, 278, 25972]
    before, after = [1, 512, 29901, 1724, 3158, 881, 278, 19964, 2125, 304], [29973, 13, 3744, 29901, 29871]
    assert llama.prompt_ids(prompt_text(OpenVLA(), instruction)) == [*before, *words, *after]


def test_the_bare_space_is_appended_once_and_to_vicunas_prompt_too(llama: LlamaTokenizer):
    ids = llama.prompt_ids(prompt_text(Vicuna(), "open the drawer"))
    assert ids[-2:] == [29901, 29871]  # ":", bare space
    assert llama.prompt_ids("Out: ") == llama.encode("Out: ")
    assert llama.prompt_ids("Out: ").count(29871) == 1


def test_every_action_id_is_one_piece(llama: LlamaTokenizer, fixtures: Path):
    pieces = json.loads((fixtures / "llama2-tokenizer" / "action_token_pieces.json").read_text(encoding="utf-8"))
    assert len(pieces) == 256
    for piece in pieces:
        assert llama.decode([29871, piece["id"]]).strip() == piece["text"].strip()


def test_padding_is_a_special_token_of_its_own(llama: LlamaTokenizer):
    assert llama.vocabulary == 32001
    assert llama.encode_bare("<PAD>") == [32000]
    assert llama.decode([1, 512, 32000, 2]) == "In"
    again = LlamaTokenizer.from_json(llama.json_text, "again")
    assert again.vocabulary == 32001
    assert again.encode("In: a 🤖\tb") == llama.encode("In: a 🤖\tb")


def test_the_model_file_merges_in_the_order_of_the_json_file(fixtures: Path, model: bytes):
    wanted = json.loads((fixtures / "llama2-tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    built = json.loads(LlamaTokenizer.from_model(model, "m").json_text)
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in wanted["model"]["merges"]]
    assert built["model"]["vocab"] == wanted["model"]["vocab"]
    assert built["model"]["merges"] == pairs
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        assert built[part] == wanted[part], part
    assert built["added_tokens"][:3] == wanted["added_tokens"]


def test_sentencepiece_itself_agrees_on_plain_text(llama: LlamaTokenizer, model: bytes, rows):
    import sentencepiece

    other = sentencepiece.SentencePieceProcessor()
    other.LoadFromSerializedProto(model)
    plain = [row["text"] for row in rows if "<" not in row["text"] and row["sentencepiece_slow_ids_equal"]]
    assert len(plain) > 100
    for text in plain:
        assert other.EncodeAsIds(text) == llama.encode_bare(text), text


def test_a_model_file_cut_anywhere_is_refused(model: bytes):
    ends = [*range(24), 500, 501, 12_345, len(model) - 60, len(model) - 1]  # the settings are the last 250 bytes
    for end in ends:
        with pytest.raises(UserError, match=r"m\.model.*tokenizer\.json"):
            LlamaTokenizer.from_model(model[:end], "m.model")


def test_a_damaged_model_file_is_refused_as_such(model: bytes):
    random = np.random.default_rng(1)
    for _ in range(20):
        damaged = bytearray(model[:2000] + model[-300:])
        damaged[int(random.integers(len(damaged)))] ^= int(random.integers(1, 256))
        with pytest.raises(UserError, match=r"m\.model"):
            LlamaTokenizer.from_model(bytes(damaged), "m.model")


def test_a_length_beyond_the_file_is_refused_without_reading_it():
    huge = b"\x0a" + b"\xff" * 8 + b"\x7f"  # a piece of 2^63 - 1 bytes
    with pytest.raises(UserError, match="are announced, 0 are left"):
        LlamaTokenizer.from_model(huge, "m.model")


def piece(text: str, kind: int, score: float = 0.0) -> bytes:
    body = (
        b"\x0a" + bytes([len(text.encode())]) + text.encode() + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind])
    )
    return b"\x0a" + bytes([len(body)]) + body


BYTES = b"".join(piece(f"<0x{i:02X}>", 6) for i in range(256))
CONTROLS = piece("<unk>", 2) + piece("<s>", 3) + piece("</s>", 3)
TRAINER = b"\x12\x05" + b"\x18\x02" + b"\x98\x02\x01"  # model_type = BPE, byte_fallback
NORMALIZER = b"\x1a\x02" + b"\x20\x00"  # remove_extra_whitespaces = false


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTROLS + BYTES + TRAINER + NORMALIZER, r"not the tokenizer of Llama-2: id 29871"),
        (CONTROLS + BYTES + NORMALIZER, "lacks its settings"),
        (CONTROLS + BYTES + TRAINER, "lacks its settings"),
        (CONTROLS + TRAINER + NORMALIZER, "0 are bytes, not 256"),
        (CONTROLS + BYTES + piece("<s>", 1) + TRAINER + NORMALIZER, "or two are equal"),
        (CONTROLS + BYTES + b"\x12\x03\x98\x02\x01" + NORMALIZER, "states model_type = 1.*with 2"),
        (CONTROLS + BYTES + b"\x12\x02\x18\x02" + NORMALIZER, "states byte_fallback = 0"),
        (CONTROLS + BYTES + TRAINER + b"\x1a\x00", "states remove_extra_whitespaces = 1"),
        (CONTROLS + BYTES + TRAINER + b"\x1a\x05\x12\x01x\x20\x00", "states precompiled_charsmap"),
        (piece("x", 4), "is of kind 4"),
        (b"\x0a\x02\x18\x01", "no readable text"),
        (b"\x0b", "wire type 3"),
    ],
)
def test_other_model_files_are_refused_by_what_is_wrong(content: bytes, message: str):
    with pytest.raises(UserError, match=message):
        LlamaTokenizer.from_model(content, "m.model")


def test_other_tokenizers_in_json_are_refused(tmp_path: Path, fixtures: Path):
    with pytest.raises(UserError, match=r"text\.json is not the tokenizer of Llama-2: id 0 is .* not '<unk>'"):
        LlamaTokenizer.from_json(TextTokenizer.shipped().json_text, "text.json")
    with pytest.raises(UserError, match=r"x is no tokenizer in JSON form"):
        LlamaTokenizer.from_json('{"version": "1.0"}', "x")
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UserError, match="no tokenizer in JSON form"):
        LlamaTokenizer.from_file(path)
    with pytest.raises(UserError, match=r"cannot be read \(No such file.*tokenizer\.model"):
        LlamaTokenizer.from_file(tmp_path / "tokenizer.model")
    other = Tokenizer.from_file(str(fixtures / "llama2-tokenizer" / "tokenizer.json"))
    other.add_tokens(["robot_token"])
    with pytest.raises(UserError, match="<PAD> takes id 32001, not 32000"):
        LlamaTokenizer.from_json(other.to_str(), "x")


def test_rows_are_padded_on_the_right():
    ids, mask = pad_rows([[1, 2, 3], [], [4]], 0)
    assert ids.tolist() == [[1, 2, 3], [0, 0, 0], [4, 0, 0]]
    assert mask.tolist() == [[True, True, True], [False, False, False], [True, False, False]]
    assert ids.dtype == np.int64
    empty, none = pad_rows([], 0)
    assert empty.shape == none.shape == (0, 0)
