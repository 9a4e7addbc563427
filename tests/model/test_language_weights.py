"""Language models written by other programs, against what those programs compute with them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ideomotor.core.errors import UserError
from ideomotor.model.attention import Causal
from ideomotor.model.config import LanguageConfig
from ideomotor.model.decode import Decoder, Whole
from ideomotor.model.language import Llama
from ideomotor.model.language_weights import (
    language_config,
    language_tokenizer,
    load_language,
    read_language_into,
)

VOCABULARY, WIDTH, DEPTH, HEADS, MLP = 320, 48, 2, 6, 80


def reference(**options: Any) -> Any:
    """A random Llama of `transformers`, with norms that are not all one."""
    from transformers import LlamaConfig, LlamaForCausalLM, logging

    logging.disable_progress_bar()  # pyright: ignore[reportPrivateImportUsage]
    torch.manual_seed(1)
    sizes = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=MLP,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        **options,
    )
    network = LlamaForCausalLM(sizes).eval()
    for name, parameter in network.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            torch.nn.init.normal_(parameter, std=0.1)
    return network


@torch.inference_mode()
def assert_same_logits(ours: Llama, theirs: Any):
    ids = torch.randint(VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(0))
    hidden = ours(ours.model.embed_tokens(ids), Causal())
    expected = theirs(ids).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(ours.logits(hidden, 0, VOCABULARY), expected, rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """The smallest of them, to be spoiled."""
    path = tmp_path_factory.mktemp("language")
    reference(num_key_value_heads=2).save_pretrained(path)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def change_config(path: Path, **values: Any):
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps({**config, **values}), encoding="utf-8")


# ------------------------------------------------------------------------------------------------ Hugging Face folders


@pytest.mark.parametrize(
    "options",
    [
        {"num_key_value_heads": 6},
        {"num_key_value_heads": 2, "tie_word_embeddings": True},
        {"num_key_value_heads": 1, "rms_norm_eps": 1e-3, "rope_theta": 500.0},
    ],
    ids=["every head has keys", "grouped and tied", "other norm and rotation"],
)
def test_a_folder_gives_the_logits_of_the_program_that_wrote_it(options: dict[str, Any], tmp_path: Path):
    theirs = reference(**options)
    theirs.save_pretrained(tmp_path)
    ours = load_language(tmp_path)
    assert ours.config.kv_heads == options["num_key_value_heads"]
    assert ours.config.tied == options.get("tie_word_embeddings", False)
    assert_same_logits(ours, theirs)


@torch.inference_mode()
def test_any_llama_writes_on_as_transformers_does_alone_and_in_a_batch(tmp_path: Path):
    theirs = reference(num_key_value_heads=2, tie_word_embeddings=True, rope_theta=500.0)
    theirs.save_pretrained(tmp_path)
    ours = load_language(tmp_path)
    ids = torch.randint(3, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(0))
    lengths = (12, 5, 9)
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = [
        theirs.generate(row[None, :n], attention_mask=torch.ones(1, n), **options)[0, n:].tolist()
        for row, n in zip(ids, lengths, strict=True)
    ]
    embeddings = ours.model.embed_tokens(ids)
    decoder = Decoder(ours)
    for row, n, text in zip(embeddings, lengths, expected, strict=True):
        assert decoder.generate(row[None, :n], None, 20, Whole())[0].tolist() == text
    seen = torch.arange(12) < torch.tensor(lengths)[:, None]
    assert decoder.generate(embeddings, seen, 20, Whole()).tolist() == expected


def test_shards_and_16_bit_weights_are_read_to_the_bit(tmp_path: Path):
    theirs = reference(num_key_value_heads=2).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    for dtype in (torch.bfloat16, torch.float32):
        ours = load_language(tmp_path, dtype).state_dict()
        assert ours.keys() == theirs.state_dict().keys()
        for name, tensor in theirs.state_dict().items():
            assert ours[name].dtype == dtype
            assert torch.equal(ours[name], tensor.to(dtype)), name


def test_the_old_spelling_of_the_rotation_is_read_as_well(copy: Path):
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    del config["rope_parameters"]
    (copy / "config.json").write_text(json.dumps({**config, "rope_theta": 500.0, "rope_scaling": None}))
    assert language_config(copy).rope_theta == 500.0


def test_what_has_no_influence_is_skipped_and_a_tied_head_may_be_stored_twice(copy: Path):
    state = load_file(copy / "model.safetensors")
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, copy / "model.safetensors")
    change_config(copy, tie_word_embeddings=True)
    assert load_language(copy).config.tied
    state["lm_head.weight"][0, 0] += 1
    save_file(state, copy / "model.safetensors")
    with pytest.raises(UserError, match=r"1 extra: lm_head\.weight"):
        load_language(copy)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral'; read here: 'llama'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type 'yarn'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
        ({"rope_parameters": "long"}, "rope_type 'long'"),
        ({"attention_bias": True}, r"attention_bias True \(ours: False\)"),
        ({"mlp_bias": True}, "mlp_bias True"),
        ({"hidden_act": "gelu"}, r"hidden_act 'gelu' \(ours: 'silu'\)"),
        ({"head_dim": 16}, r"head_dim 16 \(ours: 8\)"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two', not a number from 1 up"),
        ({"rms_norm_eps": None}, "rms_norm_eps is None, not a positive number"),
        ({"num_key_value_heads": 4}, "6 heads, 4 of them with keys"),
        ({"num_attention_heads": 5, "head_dim": None}, "do not divide the width 48"),
    ],
)
def test_a_model_that_is_not_computed_here_is_refused_by_the_name_of_its_difference(
    copy: Path, values: dict[str, Any], message: str
):
    change_config(copy, **values)
    with pytest.raises(UserError, match=message):
        load_language(copy)


def test_missing_extra_and_mis_shaped_tensors_are_listed(copy: Path):
    state = load_file(copy / "model.safetensors")
    state["model.layers.1.mlp.up_projection.weight"] = state.pop("model.layers.1.mlp.up_proj.weight")
    state["model.norm.weight"] = torch.ones(WIDTH + 1)
    save_file(state, copy / "model.safetensors")
    with pytest.raises(UserError) as error:
        load_language(copy)
    text = str(error.value)
    assert "1 missing: model.layers.1.mlp.up_proj.weight" in text
    assert "1 extra: model.layers.1.mlp.up_projection.weight" in text
    assert "1 of another shape: model.norm.weight (49,) for (48,)" in text


def test_a_network_of_other_sizes_is_refused_and_keeps_its_weights(folder: Path):
    config = language_config(folder)
    llama = Llama(replace(config, rms_eps=1e-2))
    before = llama.model.norm.weight.clone()
    with pytest.raises(UserError, match="Build it from the file's own sizes"):
        read_language_into(llama, folder)
    assert torch.equal(llama.model.norm.weight, before)


def test_what_is_no_language_model_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere does not exist; a language model is a folder"):
        language_config(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"neither model\.safetensors nor"):
        language_config(tmp_path)
    (tmp_path / "text.gguf").write_text("no model", encoding="utf-8")
    with pytest.raises(UserError, match=r"text\.gguf is no whole GGUF file"):
        language_config(tmp_path / "text.gguf")


# ------------------------------------------------------------------------------------------------ GGUF files


TOKENS = ["<|end|>", "a", "b", "c", "\u0120", "ab", "\u0120a", "\u0120ab", "1", "2", "\u0120\u0120"]
KINDS = [3, *[1] * 10]
MERGES = ["a b", "\u0120 a", "\u0120a b", "\u0120 \u0120"]


def interleaved(weight: np.ndarray, heads: int):
    """As llama.cpp's converter stores q and k: row 2i of a head is row i, row 2i + 1 is row i + d/2."""
    rows = weight.reshape(heads, -1, weight.shape[1])
    half = rows.shape[1] // 2
    order = [i // 2 + half * (i % 2) for i in range(rows.shape[1])]
    return np.ascontiguousarray(rows[:, order].reshape(weight.shape))


def write_gguf(path: Path, network: Any, quantization: Any = None, **metadata: Any):
    """Write a Llama of `transformers` as llama.cpp's converter does; `metadata` is added or replaces."""
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    config = network.config
    writer = GGUFWriter(path, metadata.pop("architecture", "llama"))
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model(metadata.pop("tokenizer", "gpt2"))
    writer.add_tokenizer_pre(metadata.pop("pre", "smollm"))
    writer.add_token_list(TOKENS)
    writer.add_token_types(KINDS)
    writer.add_token_merges(MERGES)
    for key, value in metadata.items():
        name = f"llama.{key.replace('__', '.')}"
        if isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_uint32(name, value)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    layer = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    layer |= {f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"} | {"self_attn.o_proj": "attn_output"}
    layer |= {f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")}
    for i in range(config.num_hidden_layers):
        names |= {f"model.layers.{i}.{ours}": f"blk.{i}.{theirs}" for ours, theirs in layer.items()}
    for name, tensor in network.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            values = interleaved(values, config.num_attention_heads if "q_" in name else config.num_key_value_heads)
        kind = quantization if quantization is not None and values.ndim > 1 else GGMLQuantizationType.F32
        stored = quantize(values, kind)
        writer.add_tensor(f"{names[name.removesuffix('.weight')]}.weight", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_gives_the_logits_of_the_network_it_was_written_from(tmp_path: Path, tied: bool):
    theirs = reference(num_key_value_heads=2, tie_word_embeddings=tied, rms_norm_eps=1e-3, rope_theta=500.0)
    ours = load_language(write_gguf(tmp_path / "model.gguf", theirs))
    expected = LanguageConfig(VOCABULARY, WIDTH, DEPTH, HEADS, 2, MLP, rope_theta=500.0, rms_eps=1e-3, tied=tied)
    assert ours.config == expected
    assert_same_logits(ours, theirs)


def test_half_precision_is_undone_to_the_bit(tmp_path: Path):
    from gguf import GGMLQuantizationType

    theirs = reference(num_key_value_heads=2)
    for kind, dtype in ((GGMLQuantizationType.F16, torch.float16), (GGMLQuantizationType.BF16, torch.bfloat16)):
        ours = load_language(write_gguf(tmp_path / f"{kind.name}.gguf", theirs, kind)).state_dict()
        for name, tensor in theirs.state_dict().items():
            rounded = tensor.to(dtype).float() if tensor.ndim > 1 else tensor
            assert torch.equal(ours[name], rounded), name


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"architecture": "qwen2"}, "of architecture 'qwen2'; read here: llama"),
        (
            {"rope__scaling__type": "yarn"},
            r"llama\.rope\.scaling\.type is 'yarn'; our decoder computes with 'none' only",
        ),
        ({"expert_count": 8}, r"llama\.expert_count is 8"),
        ({"attention__key_length": 16}, r"llama\.attention\.key_length is 16; our decoder computes with 8"),
        ({"rope__dimension_count": 4}, r"llama\.rope\.dimension_count is 4"),
    ],
)
def test_a_gguf_file_of_another_model_is_refused(tmp_path: Path, metadata: dict[str, Any], message: str):
    path = write_gguf(tmp_path / "model.gguf", reference(num_key_value_heads=2), **metadata)
    with pytest.raises(UserError, match=message):
        load_language(path)


def test_a_gguf_file_that_ends_early_is_refused_wherever_it_ends(tmp_path: Path):
    whole = write_gguf(tmp_path / "model.gguf", reference(num_key_value_heads=2)).read_bytes()
    for size in [0, 3, 10, 24, *range(30, len(whole), len(whole) // 60), len(whole) - 1]:
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"cut\.gguf is no whole GGUF file"):
            load_language(tmp_path / "cut.gguf")


def test_a_gguf_file_that_claims_more_than_it_has_is_refused_without_reading_on(tmp_path: Path):
    whole = write_gguf(tmp_path / "model.gguf", reference(num_key_value_heads=2)).read_bytes()
    numbers = whole.index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 8  # behind both types
    for at in (8, 16, 24, numbers):  # tensors, entries, length of the first name, length of an array
        claim = whole[:at] + (1 << 60).to_bytes(8, "little") + whole[at + 8 :]
        (tmp_path / "claim.gguf").write_bytes(claim)
        with pytest.raises(UserError, match=r"claim\.gguf is no whole GGUF file"):
            load_language(tmp_path / "claim.gguf")


def test_the_tokenizer_of_a_gguf_file_gives_the_ids_of_transformers(tmp_path: Path):
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    write_gguf(tmp_path / "model.gguf", reference(num_key_value_heads=2))
    ours = Tokenizer.from_str(language_tokenizer(tmp_path / "model.gguf"))
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for text in ("", "ab", "a ab  ab", "12 1a", "<|end|>ab", " a", "abc<|end|> "):
        assert ours.encode(text).ids == theirs(text)["input_ids"], text
        assert ours.decode(ours.encode(text).ids, skip_special_tokens=False) == text


def test_numbers_are_cut_off_before_spaces_are_joined(tmp_path: Path):
    """What `smollm` names: digits stand alone first, then comes GPT-2's splitting, whose last space belongs to the next word.

    So two spaces before a digit are one token, before a letter two; plain GPT-2 splitting makes two of both.
    """
    from tokenizers import Tokenizer

    network = reference(num_key_value_heads=2)
    ids = {
        pre: [
            Tokenizer.from_str(language_tokenizer(write_gguf(tmp_path / "m.gguf", network, pre=pre))).encode(t).ids
            for t in ("b  1", "b  a")
        ]
        for pre in ("smollm", "gpt-2")
    }
    assert ids["smollm"] == [[2, 10, 8], [2, 4, 6]]
    assert ids["gpt-2"] == [[2, 4, 4, 8], [2, 4, 6]]


def test_a_tokenizer_that_cuts_texts_otherwise_is_refused_with_the_remedy(tmp_path: Path):
    network = reference(num_key_value_heads=2)
    for options in ({"pre": "llama-bpe"}, {"tokenizer": "llama"}):
        path = write_gguf(tmp_path / "model.gguf", network, **options)
        with pytest.raises(UserError, match=r"read here: 'gpt2' with one of gpt-2, smollm\. Give a folder"):
            language_tokenizer(path)


def test_a_folder_without_tokenizer_says_what_is_missing(folder: Path):
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        language_tokenizer(folder)
