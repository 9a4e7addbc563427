"""What the shield costs on the tabletop, and whether it holds there: success with and without it, and adversaries behind it.

Arms: the shipped policy without the shield ("plain"), with it ("shield"), with it and steps of 0.1 s whether the arm is there or not
("hurried"), random actions behind it ("random"), and proposals that try to break it ("adversary"). All of one scene are pairs. Rated limits
of the joints, no cap of the tool's speed. A second layer, in simulation: it is no safety-rated system.

Each block of scenes is written to the result file as it ends; a run that was cut off goes on where it was. Exit code 1: violations.
"""

import argparse
import ast
import hashlib
import json
import os
import sys
import time

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import ideomotor.robot
import ideomotor.sim.shielded
from ideomotor.cli.names import arm_named, tasks_named
from ideomotor.core.files import write_json
from ideomotor.evaluate.config import EvalConfig
from ideomotor.evaluate.controls import RandomPolicy
from ideomotor.evaluate.measure import evaluate
from ideomotor.evaluate.report import paired_text
from ideomotor.evaluate.statistics import PairedDifference, clopper_pearson, paired_difference
from ideomotor.evaluate.suites import InDistribution, paired_from_json, paired_json
from ideomotor.policy.options import PolicyOptions
from ideomotor.policy.process import ProcessPolicy
from ideomotor.robot.adversaries import ADVERSARIES, Asked, Episode, Place, Play
from ideomotor.robot.proposal import PoseProposal
from ideomotor.sim.env import EnvConfig, TabletopEnv
from ideomotor.sim.shielded import DT, TABLETOP, ShieldedArm, ShieldOptions, simulated_body

TASKS = "pick,place_on"
BLOCK = 15  # scenes
SHIELDS = {
    "plain": None,
    "shield": ShieldOptions(),
    "hurried": ShieldOptions(wait=0.0),
    "random": ShieldOptions(),
}
TICKS = 600  # of an adversary's episode
AT_REST = 0.05  # [rad/s] a person lets an arm go on that was held and is slower than this
PATIENCE = 200  # [ticks] that they wait for it
ELSEWHERE = ("soak.py", "body_file.py", "description.py", "enclosing.py")  # no part of what is measured here
HARMLESS = ("benign", "far_first")  # the second asks for a silence, which a simulation without a gap cannot have


# ---------------------------------------------------------------------------------------------------- policies


def run_policy(arm: str, seeds: range, workers: int, policy: Any) -> list[dict[str, Any]]:
    """Run both tasks in some scenes, and return what is kept of each episode."""
    env = EnvConfig(arm_named("panda"), tasks_named(TASKS), shield=SHIELDS[arm])
    config = EvalConfig(Path("build"), arm, episodes=len(seeds), seed=seeds.start, workers=workers, videos=0)
    result = evaluate(config, policy, env, InDistribution()).result
    return [
        {key: e[key] for key in ("task", "seed", "outcome", "steps", "shield") if key in e} for e in result.episodes
    ]


# ---------------------------------------------------------------------------------------------------- adversaries


def edges(place: Place, rng: np.random.Generator) -> Play:
    """Ride the edges of the bounds, and go a little beyond them, with the tool turned anyhow."""
    assert place.around.bounds is not None
    low, high = np.array(place.around.bounds.low), np.array(place.around.bounds.high)
    pose, corner = np.eye(4), rng.integers(0, 2, 3)
    pose[:3, :3] = np.diag([1.0, -1.0, -1.0])
    middle = np.array([0.45, 0.0, 0.25])

    def play(episode: Episode) -> Asked:
        if episode.tick % 80 == 0:
            corner[rng.integers(0, 3)] ^= 1
            turn = rng.normal(size=(3, 3))
            pose[:3, :3] = np.linalg.qr(turn)[0] if rng.random() < 0.3 else np.diag([1.0, -1.0, -1.0])
            pose[:3, :3] *= np.sign(np.linalg.det(pose[:3, :3]))
        edge = np.where(corner, high, low) + rng.normal(0.0, 0.02, 3)
        pose[:3, 3] = np.minimum(np.maximum(edge, middle - 0.6), middle + 0.6)
        return episode.give(PoseProposal(pose.copy(), episode.now, episode.tick, float(rng.random())))

    return play


def adversary_episode(seed: int, task: str) -> dict[str, Any]:
    """Let one adversary propose whatever it likes among the objects of a scene, and return what came of it."""
    arm = arm_named("panda")
    env = TabletopEnv(EnvConfig(arm, tasks_named(TASKS), horizon=TICKS, shield=ShieldOptions()))
    env.load(seed=seed, options={"task": task})
    rng = np.random.default_rng([seed, len(task)])
    plays = {name: make for name, make in ADVERSARIES.items() if name not in HARMLESS} | {"edges": edges}
    names = ["actions", *sorted(plays)]
    name = names[int(rng.integers(len(names)))]
    assert env.shielded is not None
    if name == "actions":
        records = _act(env, env.shielded, rng)
    else:
        records = _propose(env.shielded, plays[name](Place(simulated_body(arm), TABLETOP, np.array(arm.home)), rng))
    env.close()
    return {"task": task, "seed": seed, "adversary": name, "shields": records}


def _act(env: TabletopEnv, shielded: ShieldedArm, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Large random actions, each repeated for a while: into the table, out of the workspace, the hand turned over."""
    while shielded.ticks < TICKS:
        action = rng.normal(0.0, [0.1] * 3 + [0.3] * 3 + [1.0])
        env.advance(np.tile(action, (int(rng.integers(1, 9)), 1)))
    return [asdict(shielded.record())]


def _propose(shielded: ShieldedArm, play: Play) -> list[dict[str, Any]]:
    """Joint positions, poses and things that are neither. Where a latch ends it, a person lets the arm go on as soon as it stands."""
    records: list[dict[str, Any]] = []
    total = 0
    while total < TICKS and np.abs(shielded.arm.read().dq).max() < AT_REST:
        episode = Episode(shielded.arm.read().q, DT, np.zeros(shielded.arm.arm.num_joints), 0, shielded.time)
        left = TICKS - total
        while shielded.ticks < left and shielded.shield.latched is None:
            asked = play(episode)
            shielded.propose(asked.proposal)
            episode.tick += 1
            episode.q, episode.start = shielded.arm.last_q, shielded.time - episode.tick * DT
        for _ in range(PATIENCE):
            report = shielded.propose(None)
            if report.how == "hold" and np.abs(shielded.arm.read().dq).max() < AT_REST:
                break
        records.append(asdict(shielded.record()))
        total += shielded.ticks
        shielded.begin()
    return records


# ---------------------------------------------------------------------------------------------------- what was counted


def counted(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up the shields of episodes."""
    shields = [s for e in episodes for s in e.get("shields", [e["shield"]] if "shield" in e else [])]
    ticks = sum(s["ticks"] for s in shields)
    sums = {key: _sum(s[key] for s in shields) for key in ("reasons", "touched", "violations")}
    return {
        "episodes": len(episodes),
        "ticks": ticks,
        "altered": sum(s["altered"] for s in shields) / max(ticks, 1),
        "stopped": sum(s["stopped"] for s in shields) / max(ticks, 1),
        "latched": dict(Counter(s["latched"] for s in shields if s["latched"])),
        "per_episode": {reason: round(count / len(episodes), 3) for reason, count in sums["reasons"].items()},
        "episodes_with": dict(Counter(r for e in episodes for r in _reasons(e))),
        "touched": sums["touched"],
        "violations": sums["violations"],
        "examples": [line for s in shields for line in s["examples"]][:10],
    }


def _reasons(episode: Mapping[str, Any]) -> set[str]:
    return {r for s in episode.get("shields", [episode["shield"]] if "shield" in episode else []) for r in s["reasons"]}


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total = Counter[str]()
    for count in counts:
        total.update(count)
    return dict(total.most_common())


def summarized(blocks: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return rates, differences and interventions of all blocks."""
    arms: dict[str, list[dict[str, Any]]] = {}
    for name, episodes in blocks.items():
        arms.setdefault(name.split("/")[0], []).extend(episodes)
    found: dict[str, Any] = {"arms": {}, "differences": {}}
    for arm, episodes in arms.items():
        entry = counted(episodes)
        if arm != "adversary":
            valid = [e for e in episodes if e["outcome"] != "crash"]
            entry["successes"], entry["crashes"] = _successes(valid), len(episodes) - len(valid)
            entry["interval"] = list(clopper_pearson(entry["successes"], len(valid)))
            steps = sum(e["steps"] for e in episodes)
            entry["steps_of_a_success"] = float(
                np.mean([e["steps"] for e in valid if e["outcome"] == "success"] or [0])
            )
            entry["seconds_per_step"] = entry["ticks"] * DT / max(steps, 1) if entry["ticks"] else 0.1
        found["arms"][arm] = entry
    for arm in ("shield", "hurried"):
        for tasks in (("pick", "place_on"), ("pick",), ("place_on",)):
            if arm in arms and "plain" in arms:
                found["differences"][f"{arm}, {' and '.join(tasks)}"] = paired_json(_paired(arms, arm, tasks))
    return found


def _successes(episodes: Sequence[Mapping[str, Any]]) -> int:
    return sum(e["outcome"] == "success" for e in episodes)


def _paired(arms: Mapping[str, Sequence[Mapping[str, Any]]], arm: str, tasks: tuple[str, ...]) -> PairedDifference:
    sides = [
        {(e["task"], e["seed"]): e["outcome"] for e in arms[name] if e["task"] in tasks and e["outcome"] != "crash"}
        for name in (arm, "plain")
    ]
    both = [key for key in sides[0] if key in sides[1]]
    first, second = ([side[key] == "success" for key in both] for side in sides)
    return paired_difference(first, second)


def speed(scenes: range) -> dict[str, float]:
    """Return how long a step and 0.1 s of the simulation take [ms], with and without the shield, driven by the expert."""
    found: dict[str, float] = {}
    for name in ("plain", "shield"):
        env = TabletopEnv(EnvConfig(arm_named("panda"), tasks_named(TASKS), shield=SHIELDS[name]))
        taken = steps = simulated = 0.0
        for seed in scenes:
            env.load(seed=seed, options={"task": "pick"})
            begun = env.world.data.time
            while not env.done:
                action = env.expert_action()
                start = time.perf_counter()
                env.advance(action[None])
                taken, steps = taken + time.perf_counter() - start, steps + 1
            simulated += env.world.data.time - begun
        found |= {f"{name}_ms_per_step": 1e3 * taken / steps, f"{name}_ms_per_100ms": 100.0 * taken / simulated}
    return found


def table(summary: Mapping[str, Any]) -> list[str]:
    """Return the summary in lines."""
    lines = [
        f"{'arm':<10} {'success':>14} {'s a step':>9} {'altered':>8} {'stopped':>8} {'held':>5} {'violations':>11}"
    ]
    for arm, e in summary["arms"].items():
        rate = f"{e['successes']} of {e['episodes'] - e['crashes']}" if "successes" in e else f"{e['episodes']} runs"
        took = f"{e['seconds_per_step']:.3f}" if "seconds_per_step" in e else ""
        shares = [f"{100 * e[key]:.2f} %" if e["ticks"] else "" for key in ("altered", "stopped")]
        found = str(sum(e["violations"].values())) if e["ticks"] else ""
        held = str(sum(e["latched"].values())) if e["ticks"] else ""
        lines.append(f"{arm:<10} {rate:>14} {took:>9} {shares[0]:>8} {shares[1]:>8} {held:>5} {found:>11}")
    for name, value in summary["differences"].items():
        lines.append(f"{name}, against plain: {paired_text(paired_from_json(value))}")
    for arm, e in summary["arms"].items():
        reasons = ", ".join(
            f"{r} {n:g} (in {e['episodes_with'][r]} of {e['episodes']})" for r, n in e["per_episode"].items()
        )
        if e["ticks"]:
            lines.append(
                f"{arm}: ticks an episode by reason: {reasons or 'none'}; touched: {e['touched'] or 'nothing'}"
            )
            lines += [f"{arm}: VIOLATION {example}" for example in e["examples"]]
    return lines


# ---------------------------------------------------------------------------------------------------- the run


def source() -> str:
    """Return a hash of the code that the numbers depend on; comments, docstrings and layout do not count."""
    folder = Path(ideomotor.robot.__file__).parent
    files = [file for file in sorted(folder.glob("*.py")) if file.name not in ELSEWHERE]
    files.append(Path(ideomotor.sim.shielded.__file__))
    return hashlib.sha256("".join(_code(file.read_text()) for file in files).encode()).hexdigest()[:16]


def _code(text: str) -> str:
    """Return a file without what does nothing: a docstring is an expression that is a text."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            del body[0]
    return ast.dump(tree)


def main() -> None:
    """Run what is missing, print the table, fail on violations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=150, help="each is one pick and one place_on")
    parser.add_argument("--controls", type=int, default=30, help="scenes of the arms hurried and random")
    parser.add_argument("--attacks", type=int, default=60, help="scenes of the adversary")
    parser.add_argument("--seed", type=int, default=920_000)
    parser.add_argument("--out", type=Path, default=Path("build/shield_cost.json"))
    parser.add_argument("--workers", type=int, default=1, help="processes")
    options = parser.parse_args()
    key = {"seed": options.seed, "source": source()}
    state: dict[str, Any] = {**key, "blocks": {}}
    if options.out.is_file():
        state = json.loads(options.out.read_text())
        if any(state.get(name) != value for name, value in key.items()):
            raise SystemExit(
                f"{options.out} comes from another seed or from other code; remove it, or give another --out"
            )
    sizes = {"plain": options.scenes, "shield": options.scenes, "hurried": options.controls, "random": options.controls}
    sizes["adversary"] = options.attacks
    blocks: dict[str, list[dict[str, Any]]] = state["blocks"]

    def keep(name: str, episodes: list[dict[str, Any]]) -> None:
        blocks[name] = episodes
        write_json(options.out, state)
        print(f"{name}: {_successes([e for e in episodes if 'outcome' in e])} of {len(episodes)}", file=sys.stderr)

    missing = [
        (arm, range(first, min(first + BLOCK, options.seed + size)))
        for arm, size in sizes.items()
        for first in range(options.seed, options.seed + size, BLOCK)
        if f"{arm}/{first}" not in blocks or len(blocks[f"{arm}/{first}"]) < 2 * min(BLOCK, options.seed + size - first)
    ]
    shipped = [(arm, seeds) for arm, seeds in missing if arm in ("plain", "shield", "hurried")]
    if shipped:
        with ProcessPolicy("shipped", PolicyOptions(), timeout_s=120.0) as policy:
            for arm, seeds in shipped:
                keep(f"{arm}/{seeds.start}", run_policy(arm, seeds, options.workers, policy))
    for arm, seeds in [(arm, seeds) for arm, seeds in missing if arm == "random"]:
        env = EnvConfig(arm_named("panda"), tasks_named(TASKS))
        policy = RandomPolicy(TabletopEnv(env).embodiment)
        keep(f"{arm}/{seeds.start}", run_policy(arm, seeds, options.workers, policy))
    with ProcessPoolExecutor(options.workers, get_context("forkserver")) as pool:
        for arm, seeds in [(arm, seeds) for arm, seeds in missing if arm == "adversary"]:
            jobs = [(seed, task) for task in TASKS.split(",") for seed in seeds]
            keep(f"{arm}/{seeds.start}", list(pool.map(adversary_episode, *zip(*jobs, strict=True))))
    state["speed"] = speed(range(options.seed, options.seed + 5))
    state["summary"] = summarized(blocks)
    write_json(options.out, state)
    print(*table(state["summary"]), json.dumps(state["speed"]), options.out, sep="\n")
    sys.exit(any(e["violations"] for e in state["summary"]["arms"].values()))


if __name__ == "__main__":
    main()
