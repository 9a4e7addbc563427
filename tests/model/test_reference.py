"""Our vision transformer and Llama with a tiny OpenVLA checkpoint, against what the reference code computes.

The fixture's README tells where the numbers come from and how far float32 may be off.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from ideomotor.model.attention import Causal, Everybody
from ideomotor.model.config import LanguageConfig, PatchStem, VisionConfig
from ideomotor.model.language import Llama
from ideomotor.model.vision import VisionTransformer

DINO = VisionConfig(PatchStem(14), 56, 64, 4, 4, 256, cls_tokens=1, register_tokens=4, layer_scale=1e-5, output_block=2)
SIGLIP = VisionConfig(PatchStem(14), 56, 96, 3, 4, 358, output_block=1)
LLAMA = LanguageConfig(32064, 64, 3, 4, 4, 172, rms_eps=1e-6)
SAMPLES = range(6)


@pytest.fixture(scope="module")
def folder(fixtures: Path):
    return fixtures / "openvla-parity-a"


@pytest.fixture(scope="module")
def weights(folder: Path):
    return {name: tensor.float() for name, tensor in load_file(folder / "checkpoint" / "model.safetensors").items()}


@pytest.fixture(scope="module")
def expected(folder: Path):
    with np.load(folder / "expected.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def part(weights: dict[str, Tensor], prefix: str):
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def tower(config: VisionConfig, weights: dict[str, Tensor], prefix: str):
    network = VisionTransformer(config)
    state = part(weights, prefix)
    network.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("attn_pool.")})
    return network.eval()


def llama(weights: dict[str, Tensor], config: LanguageConfig = LLAMA):
    network = Llama(config)
    network.load_state_dict(part(weights, "language_model."))
    return network.eval()


def embeddings(network: Llama, expected: dict[str, Tensor], sample: int, ids: str = "input_ids_29871"):
    """[BOS, patches, rest of the prompt], as models.md 1.7."""
    words = network.model.embed_tokens(expected[f"{sample}.{ids}"])
    return torch.cat([words[:1], expected[f"{sample}.projector"], words[1:]])[None]


@torch.inference_mode()
def test_the_dinov2_tower_gives_the_reference_features(weights: dict[str, Tensor], expected: dict[str, Tensor]):
    network = tower(DINO, weights, "vision_backbone.featurizer.")
    for i in SAMPLES:
        features = network(expected[f"{i}.pixel_values"][None, :3])[0]
        torch.testing.assert_close(features, expected[f"{i}.dino_patches"], rtol=0, atol=2e-5)


@torch.inference_mode()
def test_the_siglip_tower_gives_the_reference_features(weights: dict[str, Tensor], expected: dict[str, Tensor]):
    network = tower(SIGLIP, weights, "vision_backbone.fused_featurizer.")
    for i in SAMPLES:
        features = network(expected[f"{i}.pixel_values"][None, 3:])[0]
        torch.testing.assert_close(features, expected[f"{i}.siglip_patches"], rtol=0, atol=2e-5)


@torch.inference_mode()
def test_a_slip_in_the_tower_would_show(weights: dict[str, Tensor], expected: dict[str, Tensor]):
    """The README names what a mistake costs; the comparison above has to be able to see the smallest of them."""
    slip = tower(replace(SIGLIP, gelu="tanh"), weights, "vision_backbone.fused_featurizer.")
    features = slip(expected["0.pixel_values"][None, 3:])[0]
    assert (features - expected["0.siglip_patches"]).abs().max() > 2e-4


@torch.inference_mode()
def test_every_hidden_state_of_llama_is_that_of_the_reference(weights: dict[str, Tensor], expected: dict[str, Tensor]):
    network = llama(weights)
    seen = []
    for layer in network.model.layers:
        layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output[0]))
    x = embeddings(network, expected, 0)
    final = network(x, Causal())[0]
    golden = expected["0.hidden_all"]  # embeddings, after layer 1, after layer 2, after the final norm
    for ours, theirs in zip([x[0], seen[0], seen[1], final], golden, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)
    without_mask = network(x, Everybody())[0]
    assert (without_mask - final).abs().max() > 0.1


@torch.inference_mode()
def test_the_logits_after_the_prompt_are_those_of_the_reference(
    weights: dict[str, Tensor], expected: dict[str, Tensor]
):
    network = llama(weights)
    for i in SAMPLES:
        hidden = network(embeddings(network, expected, i), Causal())[:, -1:]
        logits = network.logits(hidden, 0, 32064)[0, 0]
        torch.testing.assert_close(logits, expected[f"{i}.logits_last_prompt"], rtol=0, atol=6e-4)
        actions = network.logits(hidden, 31744, 256)[0, 0]
        torch.testing.assert_close(actions, expected[f"{i}.logits_last_prompt"][31744:32000], rtol=0, atol=6e-4)


@torch.inference_mode()
def test_teacher_forcing_gives_the_reference_logits(weights: dict[str, Tensor], expected: dict[str, Tensor]):
    network = llama(weights)
    for i in SAMPLES:
        hidden = network(embeddings(network, expected, i, "train_input_ids"), Causal())[:, -8:-1]
        logits = network.logits(hidden, 0, 32064)[0]
        torch.testing.assert_close(logits, expected[f"{i}.logits_action_positions"], rtol=0, atol=6e-4)


@torch.inference_mode()
def test_the_other_epsilon_of_the_norm_gives_its_own_logits(
    weights: dict[str, Tensor], expected: dict[str, Tensor], folder: Path
):
    network = llama(weights, replace(LLAMA, rms_eps=1e-5))
    with np.load(folder / "expected_rms_norm_eps_1e-5.npz") as arrays:
        golden = torch.from_numpy(arrays["0.logits_last_prompt"])
    hidden = network(embeddings(network, expected, 0), Causal())[:, -1:]
    torch.testing.assert_close(network.logits(hidden, 0, 32064)[0, 0], golden, rtol=0, atol=6e-4)
    assert (golden - expected["0.logits_last_prompt"]).abs().max() > 0.1


def test_losses_and_gradients_through_everything_are_those_of_the_reference(
    weights: dict[str, Tensor], expected: dict[str, Tensor]
):
    """All six samples, back through Llama, OpenVLA's projector and both towers; the fixture holds six whole gradients."""
    dino = tower(DINO, weights, "vision_backbone.featurizer.")
    siglip = tower(SIGLIP, weights, "vision_backbone.fused_featurizer.")
    projector = {name: t.clone().requires_grad_() for name, t in part(weights, "projector.").items()}
    network = llama(weights)

    def project(x: Tensor):
        for layer in ("fc1", "fc2", "fc3"):
            x = functional.linear(x, projector[f"{layer}.weight"], projector[f"{layer}.bias"])
            x = x if layer == "fc3" else functional.gelu(x)
        return x

    losses = []
    for i in SAMPLES:
        pixels, ids = expected[f"{i}.pixel_values"][None], expected[f"{i}.train_input_ids"]
        patches = project(torch.cat([dino(pixels[:, :3]), siglip(pixels[:, 3:])], dim=-1))[0]
        words = network.model.embed_tokens(ids)
        hidden = network(torch.cat([words[:1], patches, words[1:]])[None], Causal())
        logits = network.logits(hidden, 0, 32064)[0, -9:-1]
        losses.append(functional.cross_entropy(logits, expected[f"{i}.train_labels"][-8:]))
        assert losses[i].item() == pytest.approx(expected[f"{i}.loss"].item(), abs=5e-5)
    loss = torch.stack(losses).mean()  # each sample has eight supervised tokens
    assert loss.item() == pytest.approx(expected["batch.loss"].item(), abs=5e-5)
    loss.backward()

    ours = {f"vision_backbone.featurizer.{name}": p.grad for name, p in dino.named_parameters()}
    ours |= {f"vision_backbone.fused_featurizer.{name}": p.grad for name, p in siglip.named_parameters()}
    ours |= {f"language_model.{name}": p.grad for name, p in network.named_parameters()}
    ours |= {f"projector.{name}": p.grad for name, p in projector.items()}
    golden = {name.removeprefix("batch.grad."): g for name, g in expected.items() if name.startswith("batch.grad.")}
    assert len(golden) == 6
    for name, theirs in golden.items():
        gradient = ours[name]
        assert gradient is not None
        assert (gradient - theirs).norm() <= 1e-4 * theirs.norm(), name
    unused = {name for name, gradient in ours.items() if gradient is None}
    assert unused == {
        name
        for name in ours
        if name.startswith(
            ("vision_backbone.featurizer.blocks.3.", "vision_backbone.featurizer.norm.")
            + ("vision_backbone.fused_featurizer.blocks.2.", "vision_backbone.fused_featurizer.norm.")
        )
    }
