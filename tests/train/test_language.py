"""A run that starts from somebody's language model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ideomotor.core.errors import UsageError, UserError
from ideomotor.model.config import LanguageConfig
from ideomotor.model.presets import base, smollm2_135m, tiny
from ideomotor.model.weights import load_network
from ideomotor.pipeline.slots import Pipeline
from ideomotor.policy.local import load_policy
from ideomotor.train.batches import load_data
from ideomotor.train.config import TrainConfig
from ideomotor.train.language import around, choose_language, text_ids
from ideomotor.train.loop import run
from ideomotor.train.parallel import Group, StopRequest
from ideomotor.train.stages import build_network

VOCABULARY = 640


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache-language"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama as `transformers` writes it, with a tokenizer that knows "cube" by one of the last ids."""
    from transformers import LlamaConfig, LlamaForCausalLM, logging

    logging.disable_progress_bar()  # pyright: ignore[reportPrivateImportUsage]
    path = tmp_path_factory.mktemp("language")
    torch.manual_seed(5)
    sizes = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(sizes).save_pretrained(path)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    words = [f"{first}{second}" for first in "bcdfgklmnp" for second in ("ack", "ill", "oon", "ust", "erm")]
    tokenizer.train_from_iterator([" ".join(words) + " pick up the red green cube" * 3], trainer)
    filler = [f"<filler-{i}>" for i in range(VOCABULARY - tokenizer.get_vocab_size())]
    tokenizer.add_tokens(filler)
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def config(dataset: Path, out: Path, language: Path) -> TrainConfig:
    return TrainConfig(
        data=str(dataset),
        out=str(out),
        preset="tiny",
        language=str(language),
        steps=2,
        batch=4,
        validation_share=0.1,
        validation_windows=4,
        word_noise=0.5,
        precision="fp32",
        processes=1,
    )


def test_a_run_learns_from_the_file_s_weights_on_and_its_policy_reads_with_the_file_s_words(
    dataset: Path, tmp_path: Path, folder: Path
) -> None:
    from transformers import LlamaForCausalLM

    job = config(dataset, tmp_path / "run", folder)
    before = build_network(job, load_data(job, None), None)
    theirs = LlamaForCausalLM.from_pretrained(folder).state_dict()
    ours = before.language_model.state_dict()
    assert set(ours) == set(theirs) - {"lm_head.weight"}
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name

    assert run(job, Group(), StopRequest())
    folder_of_policy = tmp_path / "run" / "final"
    assert load_policy(str(folder_of_policy)).embodiment == Pipeline.load(folder_of_policy).embodiment
    network = load_network(folder_of_policy)
    assert network.config.language == LanguageConfig(VOCABULARY, 48, 2, 6, 2, 96, rms_eps=1e-6, tied=True)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(network.language_model.state_dict()[name], theirs[name])
    ids, mask = Pipeline.load(folder_of_policy).text.encode(["the red cube"], 16)
    expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("the red cube", add_special_tokens=False).ids
    assert ids[0][mask[0]].tolist() == expected


def test_the_same_run_stopped_and_resumed_does_not_read_the_language_model_again(
    dataset: Path, tmp_path: Path, folder: Path
) -> None:
    job = config(dataset, tmp_path / "run", folder)
    assert run(replace(job, steps=4, checkpoint_every=2), Group(), StopRequest())
    learned = load_network(tmp_path / "run" / "final").language_model.state_dict()
    again = replace(job, steps=4, resume=True, language="moved away")
    continued = build_network(again, load_data(again, tmp_path / "run" / "final"), tmp_path / "run" / "final")
    for name, tensor in continued.language_model.state_dict().items():
        assert torch.equal(tensor, learned[name]), name


def test_actions_take_the_last_ids_and_texts_never_reach_them(folder: Path) -> None:
    sizes, text = choose_language(tiny(), str(folder))
    assert sizes.head.first_id + sizes.head.bins == VOCABULARY
    assert sizes.answers[0].first_id + sizes.answers[0].bins == sizes.head.first_id
    limit = text_ids(sizes)
    assert limit == VOCABULARY - 256 - 64 == text.vocabulary
    whole = Tokenizer.from_file(str(folder / "tokenizer.json"))
    taken = [token for token, i in whole.get_vocab().items() if i >= limit]
    assert "\u0120kill" in taken
    assert "<filler-3>" in taken
    ids, mask = text.encode(taken, 64)
    assert ids.max() < limit
    assert mask.any(axis=1).all()


def test_the_words_of_other_ids_are_spelled_out_and_come_back(folder: Path) -> None:
    _, text = choose_language(tiny(), str(folder))
    for sentence in ("pick up the red cube", "I kill moon <filler-3>", "ünïcode 🤖"):
        ids, mask = text.encode([sentence], 64)
        assert text.decode(ids[0][mask[0]].tolist()) == sentence


def test_base_is_smollm2_with_the_last_ids_for_actions_and_starts_from_scratch_too() -> None:
    sizes = base()
    assert sizes == around(sizes, smollm2_135m(), "SmolLM2"), "the preset puts its ids where a start from a file does"
    assert (text_ids(sizes), sizes.head.first_id, sizes.language.vocabulary) == (48832, 48896, 49152)
    same, text = choose_language(sizes, "")
    assert same == sizes
    assert text.vocabulary < 512


def test_a_start_from_a_policy_brings_its_own_language_model(dataset: Path, tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="--init brings its own language model; leave out --language"):
        load_data(replace(config(dataset, tmp_path, folder), init="shipped"), None)


def test_a_vocabulary_too_small_for_the_actions_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="knows 300 ids, and 320 go to actions and answers; none is left for texts"):
        around(tiny(), LanguageConfig(300, 48, 2, 6, 2, 96), str(folder))


def test_a_tokenizer_that_is_not_bpe_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        choose_language(tiny(), str(tmp_path))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}))
    with pytest.raises(UserError, match="is no BPE tokenizer in JSON form"):
        choose_language(tiny(), str(tmp_path))


def test_foreign_words_stay_below_the_actions(dataset: Path, tmp_path: Path, folder: Path) -> None:
    """Training replaces words by random ids; they come from the ids that texts have."""
    job = config(dataset, tmp_path, folder)
    data = load_data(job, None)
    assert data.network is not None
    assert data.pipeline.text.vocabulary == text_ids(data.network)
    assert np.max(data.loader.batch(0)["text"]) < text_ids(data.network)
