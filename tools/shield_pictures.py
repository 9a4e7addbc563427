"""Draw the pictures of docs/safety.md: one run of adversaries behind the shield, and the capsules that it keeps apart.

python tools/shield_pictures.py --out docs/pictures
"""

import argparse
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import mujoco
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from ideomotor.robot.adversaries import ADVERSARIES, CELL, Episode, Place
from ideomotor.robot.arm import Arm
from ideomotor.robot.arms.fr3 import FR3
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.robot.body import FIRST, body_of
from ideomotor.robot.checker import Checker, counts
from ideomotor.robot.proposal import Proposal
from ideomotor.robot.reasons import Reason
from ideomotor.robot.shield import Shield
from ideomotor.robot.shield_settings import Settings
from ideomotor.robot.surroundings import BoxShape, CapsuleShape, HalfSpace, Obstacle, Sphere
from ideomotor.sim.mjcf import world_xml
from ideomotor.sim.render import RayRenderer

# In shapes, K stands for ticks, J for joints, H and W for image height and width.

SEEDS, TICK = 80, 0.01  # runs, of which the one that comes nearest to all three margins is drawn; TICK [s]
PLAYED = ("outwards", "bang_bang", "push", "jumps", "not_numbers", "late", "uniform")  # in turn
OUTWARDS = (-1.6, 1.0, 0.0, -0.3, 0.0, 2.6, 0.785)  # [rad] the Panda stretched out, with its tool beyond the bounds
EACH = 120  # ticks of each
SHOWN = (0, 3)  # joints, from 0
INK, MUTED, PROPOSED, EXECUTED = "#222222", "#8a8a8a", "#e08a1e", "#1f5fa8"

# ------------------------------------------------------------------------------------------------- 1 one run


@dataclass
class Run:
    """What was proposed, sent and said in each tick."""

    proposed: list[np.ndarray] = field(default_factory=list[np.ndarray])  # [rad] NaN where it was no list of joints
    sent: list[np.ndarray] = field(default_factory=list[np.ndarray])  # [rad]
    reasons: list[tuple[Reason, ...]] = field(default_factory=list[tuple[Reason, ...]])
    accepted: list[bool] = field(default_factory=list[bool])


def played(arm: Arm, seed: int) -> Run:
    """Let adversaries propose in turn to one shield, whose commands an ideal arm follows."""
    body, home = body_of(arm), np.array(arm.home)
    place, shield = Place(body, CELL, home), Shield(body, CELL, Settings(dt=TICK, tool_speed=None))
    episode, run = Episode(home, TICK, np.zeros_like(home)), Run()
    for number, name in enumerate(PLAYED):
        rng = np.random.default_rng([seed, number])
        play = (lambda now: now.ask(np.array(OUTWARDS))) if name == "outwards" else ADVERSARIES[name](place, rng)
        for _ in range(EACH):
            asked = play(episode)
            command, report = shield.filter(asked.state, asked.proposal, asked.now)
            episode.tick += 1
            assert command is not None, "the first state is a good one"
            run.proposed.append(_joints(asked.proposal, arm.num_joints))
            run.sent.append(command.q)
            run.reasons.append(report.reasons)
            run.accepted.append(report.accepted)
            episode.q, episode.dq = command.q, (command.q - episode.q) / TICK
    return run


def _joints(proposal: object, joints: int) -> Float[np.ndarray, " J"]:
    """Return proposed positions [rad] as far as they can be drawn."""
    q = proposal.q if isinstance(proposal, Proposal) else None
    if not isinstance(q, np.ndarray) or q.shape != (joints,) or q.dtype.kind != "f":
        return np.full(joints, np.nan)
    return np.where(np.abs(q) < 10.0, q, np.nan)


def checker_of(arm: Arm) -> Checker:
    """Return the independent checker of an arm in the cell."""
    body = body_of(arm)
    return Checker(arm, body.limits, body.capsules, body.self_pairs, CELL, TICK)


def beyond(arm: Arm, run: Run) -> float:
    """Return how far a run stays from its three margins: the sum of least distance / margin. The smaller, the more there is to see."""
    distances, margins = vars(checker_of(arm).clearances(np.stack(run.sent))), CELL.margins
    wanted = {"obstacle": margins.obstacle, "self_collision": margins.self_collision, "workspace": margins.bounds}
    return sum(float(distances[name].min()) / least for name, least in wanted.items())


def draw_run(arm: Arm, run: Run, out: Path) -> None:
    """Draw a run: two joints, the reasons, the distances that the independent checker measures."""
    body, checker = body_of(arm), checker_of(arm)
    sent = np.stack(run.sent)
    found = counts(checker.check(sent, measured=np.array(arm.home)))
    assert not any(found.values()), f"the checker found {found}"
    time = TICK * np.arange(len(sent))
    figure, axes = plt.subplots(
        4, 1, figsize=(11, 9.2), sharex=True, height_ratios=(2, 2, 1.9, 2.2), layout="constrained"
    )
    for joint, axis in zip(SHOWN, axes[:2], strict=True):
        _draw_joint(axis, time, np.stack(run.proposed)[:, joint], sent[:, joint])
        for limit in (body.limits.q_min[joint], body.limits.q_max[joint]):
            axis.axhline(limit, color=MUTED, lw=0.8, ls=":")
        axis.set_ylim(body.limits.q_min[joint] - 0.15, body.limits.q_max[joint] + 0.15)
        axis.set_ylabel(f"joint {joint + 1} [rad]")
    axes[1].legend(loc="upper right", ncols=2, fontsize=9, framealpha=0.9, markerscale=2.5)
    for number, name in enumerate(PLAYED):
        begin = number * EACH * TICK
        axes[0].annotate(name, (begin + 0.03, 1.02), xycoords=("data", "axes fraction"), fontsize=9, color=INK)
    _draw_reasons(axes[2], run)
    measured = checker.clearances(sent)
    _draw_margins(axes[3], time, measured)
    least = {name: f"{1e3 * distance.min():.2f} mm" for name, distance in vars(measured).items()}
    print(f"least distances {least}; {np.mean(run.accepted):.0%} accepted; 0 violations")
    for axis in axes:
        for number in range(1, len(PLAYED)):
            axis.axvline(number * EACH * TICK, color="#d8d8d8", lw=0.8, zorder=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("time [s]")
    axes[-1].set_xlim(0, time[-1] + TICK)
    figure.savefig(out, dpi=90)
    plt.close(figure)


def _draw_joint(
    axis: Any, time: Float[np.ndarray, " K"], proposed: Float[np.ndarray, " K"], sent: Float[np.ndarray, " K"]
) -> None:
    axis.plot(time, proposed, ".", ms=2.5, color=PROPOSED, label="proposed")
    axis.plot(time, sent, color=EXECUTED, lw=1.8, label="executed")


def _draw_reasons(axis: Any, run: Run) -> None:
    """Draw a strip for each reason, the most frequent at the top, and whether the arm moved on."""
    common = [reason for reason, _ in Counter(r for reasons in run.reasons for r in reasons).most_common()]
    colours = plt.get_cmap("tab20")(np.linspace(0.0, 1.0, 20))
    rows: list[tuple[str, Bool[np.ndarray, " K"], Any]] = [("accepted", np.array(run.accepted), "#6aa66a")]
    rows += [
        (str(reason), np.array([reason in r for r in run.reasons]), colours[i % 20]) for i, reason in enumerate(common)
    ]
    for row, (_, where, colour) in enumerate(rows):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], where, [False]])))
        spans = [(TICK * a, TICK * (b - a)) for a, b in edges.reshape(-1, 2)]
        axis.broken_barh(spans, (row - 0.42, 0.84), color=colour, lw=0)
    axis.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)


def _draw_margins(axis: Any, time: Float[np.ndarray, " K"], clearances: Any) -> None:
    margins = CELL.margins
    for name, distance, margin, colour in (
        ("obstacles", clearances.obstacle, margins.obstacle, "#b2342f"),
        ("the arm itself", clearances.self_collision, margins.self_collision, "#6a4c9c"),
        ("bounds", clearances.workspace, margins.bounds, "#2f7f79"),
    ):
        axis.plot(time, 1e3 * distance, color=colour, lw=1.5, label=f"to {name}")
        axis.axhline(1e3 * margin, color=colour, lw=1.0, ls="--")
        axis.annotate(
            f"{1e3 * margin:g} mm", (1.002, 1e3 * margin), xycoords=("axes fraction", "data"), fontsize=8, color=colour,
            va="center",
        )  # fmt: skip
    axis.set_yscale("log")
    axis.set_ylim(0.3, 1500)
    axis.set_ylabel("distance [mm]")
    axis.legend(loc="upper right", ncols=3, frameon=False, fontsize=9)


# ------------------------------------------------------------------------------------------------- 2 capsules

SIZE = 400  # [px] of each arm
EYE, TARGET, FOVY = (1.2, -2.45, 1.45), (0.2, 0.0, 0.44), 24.0  # [m], [m], [degrees]
GAMMA = 0.8  # lightens a picture for paper
FLOOR_HALF = 0.9  # [m]
OBSTACLE = (0.72, 0.30, 0.26)
KEPT, FREE, FINGER, HAND = (0.16, 0.42, 0.78), (0.45, 0.45, 0.45), (0.95, 0.62, 0.10), (0.10, 0.62, 0.45)
OPACITY = 0.5  # of the capsules
SKIN = 0.002  # [m] by which they are drawn thicker: the simulated links are the same capsules


def scene(arm: Arm) -> tuple[Any, list[int]]:
    """Return arm and cell in MuJoCo, and the geoms that are the shield's capsules."""
    body = body_of(arm)
    spec: Any = mujoco.MjSpec.from_string(world_xml(arm, ()))
    spec.delete(spec.geom("floor"))
    table = spec.geom("table")  # the only geom with a pattern
    table.size[:], spec.body("table").pos[:] = (FLOOR_HALF, FLOOR_HALF, 0.005), (0.0, 0.0, -0.005)
    for obstacle in CELL.obstacles:
        _add_obstacle(spec.worldbody, obstacle)
    back = np.array(EYE) - np.array(TARGET)
    right = np.cross((0.0, 0.0, 1.0), back)
    axes = np.stack([a / np.linalg.norm(a) for a in (right, np.cross(back, right), back)], axis=1)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, axes.ravel())
    spec.worldbody.add_camera(name="view", pos=EYE, quat=quat, fovy=FOVY)
    for index, capsule in enumerate(body.capsules):
        spec.body("foot" if capsule.link == 0 else f"link{capsule.link}").add_geom(
            name=f"capsule{index}",  # rays would pass by what cannot collide with anything
            type=mujoco.mjtGeom.mjGEOM_CAPSULE,
            fromto=[*capsule.start, *capsule.end],
            size=[capsule.radius + SKIN, 0.0, 0.0],
            mass=0.0,
            rgba=[*_colour(capsule.part, capsule.link), 1.0],
        )
    model = spec.compile()
    return model, [model.geom(f"capsule{i}").id for i in range(len(body.capsules))]


def _colour(part: str, link: int) -> tuple[float, float, float]:
    if part in ("finger", "hand"):
        return FINGER if part == "finger" else HAND
    return KEPT if link >= FIRST else FREE


def _add_obstacle(world: Any, obstacle: Obstacle) -> None:
    paint: dict[str, Any] = {"name": obstacle.name, "rgba": [*OBSTACLE, 1.0]}
    match obstacle.shape:
        case Sphere(centre, radius):
            world.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, pos=centre, size=[radius, 0, 0], **paint)
        case CapsuleShape(start, end, radius):
            world.add_geom(type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=[*start, *end], size=[radius, 0, 0], **paint)
        case BoxShape(centre, half, yaw):
            quat = [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
            world.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, pos=centre, size=half, quat=quat, **paint)
        case HalfSpace():
            pass  # the floor is drawn as the table


def portrait(arm: Arm) -> UInt8[np.ndarray, "H W 3"]:
    """Return the arm at home with its capsules over it, half transparent: rays take a body as solid, so two pictures are mixed."""
    model, capsules = scene(arm)
    data = mujoco.MjData(model)
    for joint, value in enumerate(arm.home):
        data.joint(f"joint{joint + 1}").qpos = value
    for finger in ("finger_left", "finger_right"):
        data.joint(finger).qpos = arm.gripper.slide_range[1]
    mujoco.mj_forward(model, data)
    renderer = RayRenderer(model, 2 * SIZE, shadows=True, cache=False)
    over, shown = renderer.render(data, "view").astype(float), renderer.segment(data, "view")
    part = np.full(model.ngeom + 1, -1)  # the last is for rays that meet nothing
    part[capsules] = [100 * c.link + (c.part == "finger") + 2 * (c.part == "hand") for c in body_of(arm).capsules]
    edge = np.zeros(shown.shape, bool)
    for axis in (0, 1):
        edge |= part[shown] != np.roll(part[shown], 1, axis)
    model.geom_rgba[capsules, 3] = 0.0  # rays pass what is transparent
    under = renderer.render(data, "view").astype(float)
    mixed = np.where(np.isin(shown, capsules)[..., None], OPACITY * over + (1.0 - OPACITY) * under, under)
    mixed[edge] *= 0.55
    mixed = 255.0 * (mixed.reshape(SIZE, 2, SIZE, 2, 3).mean(axis=(1, 3)) / 255.0) ** GAMMA
    return mixed.astype(np.uint8)


def draw_capsules(arms: tuple[Arm, ...], out: Path) -> None:
    """Draw arms side by side with their names, and what the colours mean."""
    height, font = 66, ImageFont.load_default(15)
    canvas = Image.new("RGB", (SIZE * len(arms), SIZE + height), "white")
    pen = ImageDraw.Draw(canvas)
    for column, arm in enumerate(arms):
        canvas.paste(Image.fromarray(portrait(arm)), (SIZE * column, 0))
        pen.text((SIZE * column + 10, SIZE + 8), f"{arm.name}: {len(body_of(arm).capsules)} capsules", "black", font)
    left = 10.0
    for colour, text in (
        (KEPT, "links from 2 on"),
        (HAND, "hand"),
        (FINGER, "fingers: kept from what the hand is kept from"),
        (FREE, "foot and link 1: not kept from obstacles"),
        (OBSTACLE, "obstacles"),
    ):
        pen.rectangle((left, SIZE + 40, left + 16, SIZE + 56), tuple(round(255 * c) for c in colour))
        pen.text((left + 23, SIZE + 39), text, "black", font)
        left += 46 + pen.textlength(text, font)
    canvas.save(out, optimize=True)


def draw(out: Path) -> None:
    """Draw both pictures into a folder."""
    runs = [played(PANDA, seed) for seed in range(SEEDS)]
    run = min(runs, key=lambda run: beyond(PANDA, run))
    draw_run(PANDA, run, out / "shield-run.png")
    draw_capsules((PANDA, UR5E, FR3), out / "shield-capsules.png")
    for name in ("shield-run.png", "shield-capsules.png"):
        print(f"{out / name}: {(out / name).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    draw(folder)
