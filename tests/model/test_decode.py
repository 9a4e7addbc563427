"""Decoding with buffers against transformers, against the whole pass without buffers, and against OpenVLA's reference."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from ideomotor.model.attention import Causal, Everybody
from ideomotor.model.config import LanguageConfig
from ideomotor.model.decode import Decoder, Whole, Within, fuse
from ideomotor.model.fused import layers_of
from ideomotor.model.language import Llama

PLAIN = LanguageConfig(vocabulary=320, width=64, depth=3, heads=4, kv_heads=4, mlp=96)
GROUPED_TIED = LanguageConfig(
    vocabulary=300, width=96, depth=2, heads=6, kv_heads=2, mlp=128, tied=True, rope_theta=1e5
)
CONFIGS = pytest.mark.parametrize("config", [PLAIN, GROUPED_TIED], ids=["plain", "grouped-tied"])


def llama(config: LanguageConfig, seed: int = 0) -> Llama:
    torch.manual_seed(seed)
    network = Llama(config).eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    return network


def prompts(network: Llama, lengths: list[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(lengths))
    ids = torch.randint(0, network.config.vocabulary, (len(lengths), max(lengths)), generator=generator)
    seen = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ids, seen


@torch.inference_mode()
def without_buffers(network: Llama, ids: Tensor, count: int) -> Tensor:
    for _ in range(count):
        hidden = network(network.model.embed_tokens(ids), Causal())[:, -1:]
        ids = torch.cat([ids, network.logits(hidden, 0, network.config.vocabulary).argmax(-1)], dim=1)
    return ids[:, -count:]


@CONFIGS
@pytest.mark.parametrize("fused", [False, True])
def test_decoding_with_buffers_is_decoding_without(config: LanguageConfig, fused: bool):
    network = llama(config)
    ids, _ = prompts(network, [17])
    expected = without_buffers(network, ids, 9)
    if fused:
        fuse(network)
    assert torch.equal(Decoder(network).generate(network.model.embed_tokens(ids), None, 9, Whole()), expected)


@CONFIGS
def test_ids_and_logits_are_those_of_transformers(config: LanguageConfig):
    transformers = pytest.importorskip("transformers")
    network = llama(config)
    peer = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.mlp,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            rms_norm_eps=config.rms_eps,
            rope_theta=config.rope_theta,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tied,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    ).eval()
    peer.load_state_dict(network.state_dict(), strict=not config.tied)
    fuse(network)
    ids, _ = prompts(network, [21, 21])
    decoder, embeddings = Decoder(network), network.model.embed_tokens(ids)
    with torch.inference_mode():
        ours = torch.stack([step.logits for step in decoder.steps(embeddings, None, 8, Whole())], dim=1)
        theirs = peer.generate(
            ids, max_new_tokens=8, do_sample=False, output_logits=True, return_dict_in_generate=True,
            attention_mask=torch.ones_like(ids),
        )  # fmt: skip
    assert torch.equal(decoder.generate(embeddings, None, 8, Whole()), theirs.sequences[:, 21:])
    torch.testing.assert_close(ours, torch.stack(theirs.logits, dim=1), rtol=0, atol=2e-4)


@CONFIGS
def test_unequal_prompts_together_are_the_single_runs(config: LanguageConfig):
    network = llama(config)
    lengths = [5, 23, 11, 22]
    ids, seen = prompts(network, lengths)
    decoder = Decoder(network)
    together = decoder.generate(network.model.embed_tokens(ids), seen, 7, Whole())
    for row, length in enumerate(lengths):
        alone = decoder.generate(network.model.embed_tokens(ids[row : row + 1, :length]), None, 7, Whole())
        assert torch.equal(together[row : row + 1], alone)


def test_what_stands_in_the_padding_does_not_matter():
    network = llama(PLAIN)
    ids, seen = prompts(network, [4, 9])
    embeddings = network.model.embed_tokens(ids)
    other = torch.where(seen[..., None], embeddings, torch.full_like(embeddings, 1e4))
    decoder = Decoder(network)
    first = decoder.generate(embeddings, seen, 6, Whole())
    assert torch.equal(first, decoder.generate(other, seen, 6, Whole()))


def test_a_choice_is_never_left_and_is_the_likeliest_in_it():
    network = llama(PLAIN)
    ids, _ = prompts(network, [12, 12, 12])
    embeddings = network.model.embed_tokens(ids)
    inside = Decoder(network).generate(embeddings, None, 10, Within(100, 20))
    assert ((inside >= 100) & (inside < 120)).all()
    whole = next(Decoder(network).steps(embeddings, None, 1, Whole())).logits
    assert torch.equal(inside[:, 0], whole[:, 100:120].argmax(-1) + 100)


def test_a_row_that_has_ended_stays_ended_and_the_others_go_on():
    network = llama(PLAIN)
    ids, _ = prompts(network, [10, 10, 10])
    embeddings = network.model.embed_tokens(ids)
    free = Decoder(network).generate(embeddings, None, 12, Whole())
    stop = int(free[0, 3])
    ended = Decoder(network).generate(embeddings, None, 12, Whole(), stop=stop)
    for row in range(3):
        places = (free[row] == stop).nonzero()
        end = int(places[0]) if len(places) else 12
        assert torch.equal(ended[row, :end], free[row, :end])
        assert (ended[row, end:] == stop).all()


def test_fusing_changes_no_name_no_value_and_no_memory():
    network = llama(GROUPED_TIED)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def memory() -> int:
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in network.state_dict().values()}
        return sum(storages.values())

    size = memory()
    fuse(network)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert memory() == size
    layer = next(iter(layers_of(network))).self_attn
    assert layer.q_proj.weight.untyped_storage().data_ptr() == layer.v_proj.weight.untyped_storage().data_ptr()


@pytest.mark.parametrize("change", ["load", "in-place", "copy", "half"])
def test_a_decoder_notices_other_weights(change: str):
    network, other = llama(PLAIN, 0), llama(PLAIN, 1)
    fuse(network)
    decoder = Decoder(network)
    decoder.pack()
    ids, _ = prompts(network, [15])
    decoder.generate(network.model.embed_tokens(ids), None, 6, Whole())
    if change == "copy":
        network = copy.deepcopy(network)
        decoder = Decoder(network)
    if change == "half":
        network.bfloat16()
        decoder.pack()
        network.float()
    elif change == "in-place":
        with torch.no_grad():
            for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
                mine.copy_(theirs)
    else:
        network.load_state_dict(other.state_dict())
    expected = without_buffers(copy.deepcopy(network), ids, 6)
    assert torch.equal(decoder.generate(network.model.embed_tokens(ids), None, 6, Whole()), expected)


def test_calls_of_many_sizes_in_turns_do_not_disturb_each_other():
    first, second = llama(PLAIN, 0), llama(GROUPED_TIED, 1)
    decoders = {id(network): Decoder(network) for network in (first, second)}
    for lengths in ([3], [70, 70], [5, 5, 5], [130], [2, 2]):
        for network in (first, second):
            ids, _ = prompts(network, lengths)
            ours = decoders[id(network)].generate(network.model.embed_tokens(ids), None, 4, Whole())
            assert torch.equal(ours, without_buffers(network, ids, 4))


@pytest.mark.parametrize("mask", [Everybody(), Causal()])
@pytest.mark.parametrize("padded", [False, True])
def test_a_single_pass_gives_the_states_of_forward(mask: Everybody | Causal, padded: bool):
    network = llama(GROUPED_TIED)
    ids, seen = prompts(network, [20, 13] if padded else [20, 20])
    embeddings = network.model.embed_tokens(ids)
    rows = torch.tensor([[4, 9, 12], [0, 2, 11]])
    with torch.inference_mode():
        whole = network(embeddings, mask, seen if padded else None)
        expected = whole.gather(1, rows[..., None].expand(-1, -1, whole.shape[-1]))
    ours = Decoder(network).states(embeddings, mask, seen if padded else None, rows)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_packed_weights_in_bfloat16_give_nearly_the_same_states():
    network = llama(PLAIN).bfloat16()
    fuse(network)
    ids, _ = prompts(network, [40])
    embeddings = network.model.embed_tokens(ids)
    decoder = Decoder(network)
    plain = decoder.states(embeddings, Everybody()).float()
    decoder.pack()
    packed = decoder.states(embeddings, Everybody()).float()
    exact = Decoder(copy.deepcopy(network).float()).states(embeddings.float(), Everybody())
    assert functional.l1_loss(packed, exact) <= 1.2 * functional.l1_loss(plain, exact)


def test_gradients_do_not_pass_through_fused_weights_twice():
    network, twin = llama(PLAIN), llama(PLAIN)
    fuse(network)
    ids, _ = prompts(network, [9])
    for one in (network, twin):
        one(one.model.embed_tokens(ids), Causal()).square().sum().backward()
    for (name, mine), theirs in zip(network.named_parameters(), twin.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, msg=name)


def test_the_reference_ids_of_openvla_come_out(fixtures: Path):
    """Seven and ten ids after each of the six prompts, illegal ones included; within the action ids until the first illegal one."""
    folder = fixtures / "openvla-parity-a"
    state = load_file(folder / "checkpoint" / "model.safetensors")
    network = Llama(LanguageConfig(32064, 64, 3, 4, 4, 172, rms_eps=1e-6)).eval()
    prefix = "language_model."
    network.load_state_dict({n.removeprefix(prefix): t.float() for n, t in state.items() if n.startswith(prefix)})
    fuse(network)
    decoder = Decoder(network)
    with np.load(folder / "expected.npz") as arrays:
        for i in range(6):
            words = network.model.embed_tokens(torch.from_numpy(arrays[f"{i}.input_ids_29871"]))
            x = torch.cat([words[:1], torch.from_numpy(arrays[f"{i}.projector"]), words[1:]])[None]
            golden = torch.from_numpy(arrays[f"{i}.generated_ids.fixture_ten_dims_no_mask"])
            assert torch.equal(decoder.generate(x, None, 10, Whole())[0], golden)
            assert torch.equal(decoder.generate(x, None, 7, Whole())[0], torch.from_numpy(arrays[f"{i}.generated_ids"]))
            legal = decoder.generate(x, None, 10, Within(31744, 256))[0]
            wrong = ((golden < 31744) | (golden > 31999)).nonzero()
            end = int(wrong[0]) if len(wrong) else 10
            assert torch.equal(legal[:end], golden[:end])
            assert ((legal >= 31744) & (legal <= 31999)).all()
