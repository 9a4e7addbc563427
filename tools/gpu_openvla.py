"""Latency of a full-size OpenVLA with random weights on one GPU, against rooflines computed for that very card.

    python tools/gpu_openvla.py --out build/gpu.json            # a GPU with 20 GB or more
    python tools/gpu_openvla.py --sizes tiny --device cpu       # the same program on any machine, to try it

Measured are one action of seven ids, one after the other, and an OFT chunk of eight (one and two cameras, L1 head), each eager and as a
CUDA graph. First the card: copy rate and bf16 matrix rate on random data (zeros run faster). Each figure is the median and the 95 %
quantile of `--iterations` runs with new random images. The rooflines are the larger of arithmetic / matrix rate and bytes / copy rate, of
vision, prefill and each decode step. Before a graph is timed its ids are compared with the eager ones.
"""

import argparse
import contextlib
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ideomotor.core.files import write_json
from ideomotor.model.batch import TokenBatch
from ideomotor.model.config import LanguageConfig, OpenVLAConfig, Parallel, Tower, VisionConfig
from ideomotor.model.decode import Within, fuse
from ideomotor.model.openvla import OpenVLA
from ideomotor.model.presets import openvla_7b, openvla_oft_7b

PROMPT = 32  # ids, BOS included: the sequence of an action is 287 to 288 tokens
ACTION = 7  # ids of an action
BYTES = 2  # of a bf16 number


@dataclass(frozen=True)
class Card:
    """What the device can do at best, measured."""

    name: str
    copy: float  # [B/s] read and written together
    matrix: float  # [FLOP/s] bf16


@dataclass(frozen=True)
class Line:
    """One measured mode."""

    mode: str
    median_ms: float
    p95_ms: float
    floor_ms: float
    share: float  # of the roofline: floor / median


def main() -> None:
    """Measure the card, then each mode; print a table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/gpu.json"))
    parser.add_argument("--sizes", choices=["7b", "tiny"], default="7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--iterations", type=int, default=50)
    options = parser.parse_args()
    device = torch.device(options.device)
    card = measure_card(device, small=options.sizes == "tiny")
    print(f"{card.name}: copy {card.copy / 1e12:.3f} TB/s, bf16 matrix {card.matrix / 1e12:.1f} TFLOP/s", flush=True)
    lines: list[Line] = []
    for name, config in networks(options.sizes).items():
        began = time.perf_counter()
        network = build(config, device)
        print(f"{name}: {count(network) / 1e9:.2f} G parameters in {time.perf_counter() - began:.0f} s", flush=True)
        lines += measure_network(name, network, card, options.iterations)
        del network
        if device.type == "cuda":
            torch.cuda.empty_cache()
    for line in lines:
        print(
            f"{line.mode:34} {line.median_ms:8.2f} ms, p95 {line.p95_ms:8.2f}, floor {line.floor_ms:7.2f}: {line.share:.0%}"
        )
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    result: dict[str, Any] = {"card": asdict(card), "torch": torch.__version__, "peak_bytes": memory}
    write_json(options.out, {**result, "lines": [asdict(line) for line in lines]})
    print(json.dumps(result))


def networks(sizes: str) -> dict[str, OpenVLAConfig]:
    """Return the networks by name."""
    two = openvla_oft_7b()
    assert isinstance(two.decoding, Parallel)
    one = replace(two, cameras=1, decoding=replace(two.decoding, state_width=None))
    found = {"autoregressive": openvla_7b(), "oft, 1 image": one, "oft, 2 images + state": two}
    return found if sizes == "7b" else {name: shrunk(config) for name, config in found.items()}


def shrunk(config: OpenVLAConfig) -> OpenVLAConfig:
    """Return a network of the same structure that any machine runs in a second."""

    def tower(one: Tower) -> Tower:
        small = VisionConfig(
            one.vision.stem, 56, 64, 3, 4, 128, one.vision.gelu, one.vision.cls_tokens, one.vision.register_tokens
        )
        return replace(one, vision=replace(small, layer_scale=one.vision.layer_scale, output_block=1))

    language = LanguageConfig(32064, width=64, depth=2, heads=4, kv_heads=4, mlp=128, rms_eps=config.language.rms_eps)
    return replace(config, towers=tuple(tower(one) for one in config.towers), language=language)


def build(config: OpenVLAConfig, device: torch.device) -> OpenVLA:
    """Return a network in bf16 with random weights, made where it stays."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            network = OpenVLA(config)
    finally:
        torch.set_default_dtype(before)
    network.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.02)
            else:
                parameter.fill_(1.0 if name.endswith("weight") or "scale_factor" in name else 0.0)
    network.eval().requires_grad_(requires_grad=False)
    fuse(network.language_model)
    return network


def count(network: OpenVLA) -> int:
    """Return the number of weights."""
    return sum(parameter.numel() for parameter in network.parameters())


def measure_network(name: str, network: OpenVLA, card: Card, iterations: int) -> list[Line]:
    """Time one network, eager and as a graph."""
    batch = random_batch(network)
    assert batch.images is not None
    work = action(network, batch)
    floor = floor_ms(network.config, card)
    lines = [timed(f"{name}, eager", work, batch.images, floor, iterations)]
    if batch.images.device.type == "cuda":
        fill(batch.images)
        eager = work().clone()
        replay, output = captured(work)
        replay()
        same = float((output == eager).float().mean())
        print(f"{name}: {same:.1%} of the graph's output equal to the eager one", flush=True)
        lines.append(timed(f"{name}, CUDA graph", replay, batch.images, floor, iterations))
    return lines


def random_batch(network: OpenVLA) -> TokenBatch:
    """Return one observation: random images, a prompt of random ids, and slots where the network decodes in parallel."""
    config, device = network.config, next(network.parameters()).device
    words = config.vocabulary
    ids = [words.bos, *torch.randint(100, 30000, (PROMPT - 2,)).tolist(), words.space]
    state = None
    if isinstance(config.decoding, Parallel):
        ids += [words.placeholder] * (config.decoding.horizon * config.decoding.action_width) + [words.eos]
        if config.decoding.state_width is not None:
            state = torch.rand(1, config.decoding.state_width, device=device)
    size = config.towers[0].vision.image_size
    images = torch.zeros(1, config.cameras, size, size, 3, dtype=torch.uint8, device=device)
    tensor = torch.tensor([ids], device=device)
    return TokenBatch(tensor, torch.ones_like(tensor, dtype=torch.bool), fill(images), state, whole=True)


def fill(images: Tensor) -> Tensor:
    """Put new random pixels into the images."""
    return images.random_(0, 256)


def action(network: OpenVLA, batch: TokenBatch) -> Callable[[], Tensor]:
    """Return the call that gives one action or chunk."""
    if isinstance(network.config.decoding, Parallel):
        return lambda: network.chunk(batch)
    words = network.config.vocabulary
    choice = Within(words.actions_first, words.bins)
    return lambda: network.ids(batch, ACTION, choice)


def captured(work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """Return the call that replays `work` as a CUDA graph, and the tensor that its result is in."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = work()
    return graph.replay, output


def timed(mode: str, work: Callable[[], object], images: Tensor, floor: float, iterations: int) -> Line:
    """Return median and 95 % quantile of a call, new pixels each time."""
    cuda = images.device.type == "cuda"
    times: list[float] = []
    for _ in range(iterations + 5):
        fill(images)
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    times = sorted(times[5:])
    median = statistics.median(times)
    return Line(mode, round(median, 3), round(times[int(0.95 * (len(times) - 1))], 3), round(floor, 3), floor / median)


# ---------------------------------------------------------------------------------------------------- rooflines


def floor_ms(config: OpenVLAConfig, card: Card) -> float:
    """Return the shortest possible time [ms] of one action or chunk (performance: t = max(FLOP / rate, bytes / bandwidth))."""
    language, images = config.language, config.cameras
    tokens = images * config.towers[0].vision.grid ** 2 + PROMPT
    steps, causal = ACTION - 1, 2.0
    if isinstance(config.decoding, Parallel):
        tokens += config.decoding.horizon * config.decoding.action_width + 1 + (config.decoding.state_width is not None)
        steps, causal = 0, 4.0
    linear = layer_weights(language) * language.depth
    vision_flop, vision_weights = vision(config)
    prefill = images * vision_flop + 2 * linear * tokens + causal * language.depth * tokens**2 * language.width
    first = max(prefill / card.matrix, BYTES * (linear + vision_weights) / card.copy)
    cache = 2 * language.depth * language.width * language.kv_heads // language.heads * tokens
    step_bytes = BYTES * (linear + config.vocabulary.bins * language.width + cache)
    return 1e3 * (first + steps * max(2 * linear / card.matrix, step_bytes / card.copy))


def layer_weights(language: LanguageConfig) -> float:
    """Return the weights of the matrices of one layer."""
    keys = language.width * language.kv_heads // language.heads
    return 2 * language.width**2 + 2 * language.width * keys + 3 * language.width * language.mlp


def vision(config: OpenVLAConfig) -> tuple[float, float]:
    """Return the arithmetic [FLOP] of one image through towers and projector, and their weights that are used."""
    flop = weights = 0.0
    for tower in config.towers:
        v = tower.vision
        blocks = v.depth if v.output_block is None else v.output_block + 1
        tokens = v.grid**2 + v.cls_tokens + v.register_tokens
        matrices = blocks * (4 * v.width**2 + 2 * v.width * v.mlp)
        flop += 2 * matrices * tokens + 4 * blocks * tokens**2 * v.width
        weights += matrices
    width, out = sum(t.vision.width for t in config.towers), config.language.width
    projector = 4 * width**2 + 4 * width * out + out**2 if len(config.towers) > 1 else width * out + out**2
    return flop + 2 * projector * config.towers[0].vision.grid ** 2, weights + projector


def measure_card(device: torch.device, *, small: bool) -> Card:
    """Return copy rate and bf16 matrix rate on random data."""
    size = 1 << (24 if small else 30)
    source = torch.empty(size, dtype=torch.uint8, device=device).random_(0, 256)
    target = torch.empty_like(source)
    copy = 2 * size / best(lambda: target.copy_(source), device)
    edge = 512 if small else 8192
    a, b = (torch.randn(edge, edge, device=device, dtype=torch.bfloat16) for _ in range(2))
    matrix = 2 * edge**3 / best(lambda: a @ b, device)
    cuda = device.type == "cuda"
    return Card(torch.cuda.get_device_name(device) if cuda else platform.processor() or "CPU", copy, matrix)


def best(work: Callable[[], object], device: torch.device) -> float:
    """Return the shortest of some runs [s]."""
    wait = torch.cuda.synchronize if device.type == "cuda" else contextlib.nullcontext
    times: list[float] = []
    for _ in range(20):
        wait()
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return min(times[3:])


if __name__ == "__main__":
    main()
