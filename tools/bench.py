"""Measure what the documentation states, one thread a process, and write a JSON list.

Each entry: name, ours, peer, limit (physical or derived), unit, ratio (> 1: ours is better), goal, met, note. `met` is null with a note
where a prerequisite is absent. Where a peer is measured, both sides run in turns in this process, outputs compared first.
"""

import os

os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ideomotor.cli.names import arm_named, tasks_named
from ideomotor.core.errors import UserError
from ideomotor.core.files import write_json
from ideomotor.data.mixture import Mixture
from ideomotor.sim.env import EnvConfig, TabletopEnv
from ideomotor.sim.render import Egl, Ray, Renderer
from ideomotor.sim.workers import EpisodeRequest, VectorEnv
from ideomotor.tokenize.bins import UniformBins

FIXTURES = Path(os.environ.get("IDEOMOTOR_FIXTURES", Path(__file__).parents[2] / "shared" / "fixtures"))
ROUNDS = 10


@dataclass(frozen=True)
class Entry:
    """One line of the result."""

    name: str
    ours: float | None
    peer: float | None
    limit: float | None
    unit: str
    ratio: float | None
    goal: str
    met: bool | None
    note: str


def main() -> None:
    """Run all, print a table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    parser.add_argument("--only", default="", help="names that start so")
    options = parser.parse_args()
    measures: dict[tuple[str, ...], Callable[[], Entry | list[Entry]]] = {
        ("sim.step.ray",): sim_step_ray,
        ("sim.step.egl",): sim_step_egl,
        ("sim.workers",): sim_workers,
        ("policy.chunk",): policy_chunk,
        ("train.samples",): train_samples,
        ("tokenize.actions",): tokenize_actions,
        ("mixture.index",): mixture_index,
        ("decode.autoregressive.25m", "decode.parallel.25m"): lambda: decode("25m"),
        ("decode.autoregressive.5m", "decode.parallel.5m"): lambda: decode("5m"),
        ("load.openvla",): load,
        ("shield.joint", "shield.p50", "shield.p99"): shield,
        ("rlds.parse", "rlds.decode", "rlds.lanczos", "rlds.index"): rlds,
        ("loader.random.image", "loader.random.video"): loader_random,
    }
    entries: list[Entry] = []
    for names, measure in measures.items():
        if any(name.startswith(options.only) for name in names):
            found = measure()
            entries += [e for e in (found if isinstance(found, list) else [found]) if e.name.startswith(options.only)]
    for e in entries:
        print(
            f"{e.name:26} ours {e.ours} peer {e.peer} limit {e.limit} [{e.unit}] ratio {e.ratio} goal {e.goal}: {e.met}. {e.note}"
        )
    write_json(options.out, [asdict(entry) for entry in entries])
    print(f"{options.out} on {platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}")


def decode(size: str) -> list[Entry]:
    """Decoding against transformers, one id after the other and all at once."""
    from bench_decode import rows

    return rows(size)


def load() -> Entry:
    """Loading a stand-in of 7B shape from a cold disk."""
    from bench_load import load_openvla

    return load_openvla()


def shield() -> list[Entry]:
    """The filters between policy and motors."""
    from bench_shield import rows

    return rows()


def rlds() -> list[Entry]:
    """RLDS against TFDS and tf.data."""
    from bench_rlds import rows

    return rows()


def loader_random() -> list[Entry]:
    """Random access to a LeRobotDataset against lerobot."""
    from bench_loader import loader_random as rows

    return rows()


def sim_step_ray() -> Entry:
    """CPU time of a 10 Hz step with two 96 px cameras, rays."""
    ms = _step_ms(Ray())
    return Entry(
        "sim.step.ray",
        ms,
        None,
        None,
        "CPU-ms",
        None,
        "<= 8",
        ms <= 8,
        "10 Hz step, front and wrist, 96 px; median of 5 episodes",
    )


def sim_step_egl() -> Entry:
    """The same with EGL."""
    try:
        ms = _step_ms(Egl())
    except UserError as error:
        return Entry("sim.step.egl", None, None, None, "CPU-ms", None, "<= 8", None, f"EGL is absent: {error}")
    return Entry(
        "sim.step.egl",
        ms,
        None,
        None,
        "CPU-ms",
        None,
        "<= 8",
        ms <= 8,
        "10 Hz step, front and wrist, 96 px; median of 5 episodes",
    )


def _step_ms(renderer: Renderer) -> float:
    env = TabletopEnv(EnvConfig(arm_named("panda"), tasks_named("pick,place_on"), renderer))
    times: list[float] = []
    for seed in range(6):
        env.reset(seed=seed)
        actions = []
        while not env.done:
            actions.append(env.expert_action())
            env.advance(actions[-1][None])
        env.reset(seed=seed)
        start = time.process_time()
        for action in actions:
            env.step(action)
        times.append(1e3 * (time.process_time() - start) / len(actions))
    return round(statistics.median(times[1:]), 2)  # the first one builds the world


def sim_workers() -> Entry:
    """Steps a second of two simulation processes against one, in turns."""
    config = EnvConfig(arm_named("panda"), tasks_named("pick"))
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(3):
        for workers, times in seconds.items():
            with VectorEnv(config, workers, 4 // workers) as envs:
                for slot in range(4):
                    envs.begin(slot, EpisodeRequest(slot, "pick"))
                still = np.zeros((1, 7))
                start = time.perf_counter()
                for _ in range(50):
                    envs.advance({slot: still for slot in range(4)}, record=False)
                times.append(time.perf_counter() - start)
    ratio = round(min(seconds[1]) / min(seconds[2]), 2)
    rate = round(200 / min(seconds[2]), 1)
    return Entry(
        "sim.workers",
        rate,
        round(200 / min(seconds[1]), 1),
        None,
        "steps/s",
        ratio,
        ">= 1.8",
        ratio >= 1.8,
        "4 slots, two images a step; best of 3 in turns",
    )


def policy_chunk() -> Entry:
    """Wall time of one chunk of the shipped policy, one thread."""
    import torch

    from ideomotor.policy.local import load_policy

    torch.set_num_threads(1)
    try:
        policy = load_policy("shipped")
    except UserError as error:
        return Entry("policy.chunk", None, None, None, "ms", None, "<= 60", None, str(error))
    env = TabletopEnv(EnvConfig(arm_named("panda"), tasks_named("pick")))
    env.reset(seed=0)
    observation = env.observation()
    policy.reset(env.instruction)
    times = [_seconds(lambda: policy.act(observation)) for _ in range(60)][10:]
    ms = round(1e3 * statistics.median(times), 2)
    return Entry(
        "policy.chunk",
        ms,
        None,
        None,
        "ms",
        None,
        "<= 60",
        ms <= 60,
        f"median of 50 calls; 95 % below {1e3 * np.quantile(times, 0.95):.1f} ms",
    )


def train_samples() -> Entry:
    """Training samples a second of `small` on stored features, one process, against the arithmetic ceiling."""
    import torch

    from ideomotor.model.batch import Batch
    from ideomotor.model.presets import small
    from ideomotor.model.vla import VLA

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, size = VLA(small()), 64
    config = network.config
    tokens = 2 * config.vision.grid**2
    batch = Batch(
        text=torch.zeros(size, config.text_length, dtype=torch.long),
        text_mask=torch.ones(size, config.text_length, dtype=torch.bool),
        state=torch.randn(size, config.state_width),
        state_mask=torch.ones(size, config.state_width, dtype=torch.bool),
        features=torch.randn(size, tokens, config.vision.width),
        actions=torch.rand(size, config.horizon, config.action_width) * 2 - 1,
        actions_mask=torch.ones(size, config.horizon, config.action_width, dtype=torch.bool),
    )

    def step() -> None:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = network.losses(batch).action
        loss.backward()

    left, right = torch.randn(1024, 1024).bfloat16(), torch.randn(1024, 1024).bfloat16()
    for _ in range(3):
        step()
    rate = size / min(_seconds(step) for _ in range(ROUNDS))
    flops = 2 * 1024**3 / min(_seconds(lambda: left @ right) for _ in range(ROUNDS))
    length = tokens - 27 + 1 + config.text_length + 6 + config.horizon * config.action_width
    layers = sum(p.numel() for p in network.language_model.model.layers.parameters())
    ceiling = flops / (6 * layers * length)
    ratio = round(rate / ceiling, 3)
    return Entry(
        "train.samples", round(rate, 1), None, round(ceiling, 1), "samples/s", ratio, "none", None,
        f"bf16, one thread; ceiling = measured bf16 matrix product ({flops / 1e9:.0f} GFLOP/s) / (6 x layer weights x tokens); the rest is "
        "memory traffic of norms, rotary positions and softmax, which matrix units do not speed up",
    )  # fmt: skip


def tokenize_actions() -> Entry:
    """Actions a second to OpenVLA's ids, against digitize, characters in a string, and tokenizing again."""
    path = FIXTURES / "llama2-tokenizer" / "tokenizer.json"
    goal = ">= 50x, equal ids"
    if not path.is_file():
        return Entry(
            "tokenize.actions", None, None, None, "actions/s", None, goal, None, f"needs a Llama-2 tokenizer ({path})"
        )
    from tokenizers import Tokenizer

    tokenizer, bins = Tokenizer.from_file(str(path)), UniformBins()
    actions = np.random.default_rng(0).uniform(-1.1, 1.1, (4096, 7))
    edges = np.linspace(-1, 1, 256)

    def reference() -> np.ndarray:
        ids = 32000 - np.digitize(np.clip(actions, -1, 1), edges)
        texts = tokenizer.decode_batch([row.tolist() for row in ids])
        return np.array([encoding.ids[-7:] for encoding in tokenizer.encode_batch(texts)])

    equal = bool((reference() == bins.encode(actions)).all())
    ours, peer = [], []
    for _ in range(ROUNDS):
        ours.append(_seconds(lambda: bins.encode(actions)))
        peer.append(_seconds(reference))
    ratio = round(min(peer) / min(ours), 1)
    return Entry(
        "tokenize.actions", round(4096 / min(ours)), round(4096 / min(peer)), None, "actions/s", ratio, goal, equal and ratio >= 50,
        f"batch 4096 x 7, ids {'equal' if equal else 'DIFFER'}; the peer goes through strings and a BPE, ours is arithmetic",
    )  # fmt: skip


def mixture_index() -> Entry:
    """Microseconds to look up one sample of a mixture: the slowest of 1 and 50 datasets of 1e3 and 1e8 frames."""
    found: dict[str, float] = {}
    numbers = np.arange(4096)
    for datasets, frames in ((1, 10**3), (1, 10**8), (50, 10**3), (50, 10**8)):
        names, weights = [f"d{i}" for i in range(datasets)], [1.0 + i for i in range(datasets)]
        mixture = Mixture(names, [frames + 7 * i for i in range(datasets)], weights, 0)
        mixture.draw(numbers)
        times = [_seconds(lambda k=k, m=mixture: m.draw(numbers + 10**9 + 4096 * k)) for k in range(ROUNDS)]
        found[f"{datasets} of {frames:.0e}"] = round(1e6 * min(times) / len(numbers), 3)
    us, each = max(found.values()), ", ".join(f"{name} frames {value}" for name, value in found.items())
    return Entry(
        "mixture.index", us, None, None, "us/sample", None, "<= 2", us <= 2,
        f"4096 numbers a query, as the loader asks, at sample 10^9: {each}",
    )  # fmt: skip


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
