"""`ideomotor safety limits|soak`: how an arm may move and how quickly it stops; and the shield under adversarial proposals."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import tyro
from tyro.conf import Positional

if TYPE_CHECKING:
    from ideomotor.robot.body import Body
    from ideomotor.robot.limits import Limits as ArmLimits

NOTE = (
    "This is a second layer. It is no safety-rated system and replaces none: the robot's own safety functions and its emergency "
    "stop come first."
)


@dataclass(frozen=True)
class Limits:
    """Print the limits of an arm with their sources, and the time and travel of its stops."""

    arm: Positional[str]
    """Name of an arm, or an MJCF or URDF file."""
    limits: Path | None = None
    """JSON file with limits: what a robot's file does not say, or what should hold instead (`limits` of --json shows the fields)."""
    tool: str | None = None
    """Site or body (link) that is the tool, in a file; default: the only site on the last link, else its only end."""
    json: bool = False
    """Print JSON, and nothing else."""


@dataclass(frozen=True)
class Soak:
    """Let adversaries propose commands to the shield, and an independent checker look at every one that was sent. Exit code 1 on any fault."""

    arm: str = "panda"
    """Name of an arm."""
    proposals: int = 100_000
    """How many; whole blocks of about 2,000 are run."""
    seed: int = 0
    """Of the adversaries."""
    world: Path | None = None
    """JSON file with bounds, obstacles, held object, payload and margins; default: a floor, posts, a box, a ball, and bounds."""
    workers: int = 1
    """Processes."""
    out: Path | None = None
    """Result file: a line a block. A run that was stopped goes on with the same file."""
    json: bool = False
    """Print JSON, and nothing else."""


COMMANDS = {"limits": Limits, "soak": Soak}


def main(arguments: list[str]) -> None:
    """Parse the command line, and print."""
    command: Limits | Soak = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="ideomotor safety", args=arguments, description=f"{__doc__}\n\n{NOTE}"
    )
    match command:
        case Limits():
            limits(command)
        case Soak():
            soak(command)
        case _:
            assert_never(command)


def body_named(arm: str, limits: Path | None, tool: str | None) -> "Body":
    """Return the body of a known arm, or of a file.

    Raises:
        UsageError: no such arm.
        UserError: a file cannot be used.
    """
    from ideomotor.cli.names import arm_named, arms
    from ideomotor.core.errors import UsageError

    if arm not in arms() and (Path(arm).suffix.lower() in (".xml", ".mjcf", ".urdf") or Path(arm).is_file()):
        from ideomotor.robot.body_file import load_body

        return load_body(Path(arm), limits, tool)
    from ideomotor.core.jsonable import to_json
    from ideomotor.robot.body import body_of
    from ideomotor.robot.limits import check_within, load_limits

    body = body_of(arm_named(arm))
    if tool is not None:
        raise UsageError(f"--tool is for files; arm '{arm}' knows its tool")
    if limits is None:
        return body
    own = load_limits(limits, to_json(body.limits))
    rated = {field: getattr(body.limits, field) for field in ("q_min", "q_max", "speed", "torque")}
    check_within(own, rated, [f"J{i + 1}" for i in range(body.limits.num_joints)], f"arm '{arm}'")
    return replace(body, limits=own)


# ---------------------------------------------------------------------------------------------------------- limits


def limits(command: Limits) -> None:
    """Print a description."""
    body = body_named(command.arm, command.limits, command.tool)
    described = describe(body.name, body.limits)
    print(json.dumps(described, indent=2, ensure_ascii=False) if command.json else text(described))


def describe(name: str, limits: "ArmLimits") -> dict[str, Any]:
    """Return what there is to know, as JSON values; `limits` is what --limits reads."""
    from ideomotor.core.jsonable import to_json
    from ideomotor.robot.limits import Share, law_braking

    braking, moved_in = law_braking(limits)
    law = {"braking": _rounded(braking), "moved_in": _rounded(moved_in)} if limits.speed_law else None
    return {
        "arm": name,
        "limits": {key: value for key, value in to_json(limits).items() if key != "type"},
        "law_braking": law,  # [rad/s^2], [rad]
        "stops": [_stops("full", limits, Share()), _stops("reduced", limits, Share(0.9, 0.5, 0.5))],
        "note": NOTE,
    }


def _stops(name: str, limits: "ArmLimits", share: Any) -> dict[str, Any]:
    """Return time [s] and travel [rad] of each joint's stop from its speed limit."""
    import numpy as np

    from ideomotor.robot.limits import stop_time_travel

    tables = (limits.speed, limits.acceleration, limits.jerk)
    shares = (share.speed, share.acceleration, share.jerk)
    time, travel = stop_time_travel(*(part * np.array(table) for part, table in zip(shares, tables, strict=True)))
    return {"name": name, "share": vars(share), "seconds": _rounded(time), "radians": _rounded(travel)}


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 6) for value in values]


def text(described: dict[str, Any]) -> str:
    """Return a description in lines."""
    rated, law = described["limits"], described["limits"]["speed_law"]
    joints = range(1, len(rated["q_min"]) + 1)
    rows = [("", [f"J{joint}" for joint in joints])]
    for label, key, digits in (
        ("position from [rad]", "q_min", 4),
        ("to [rad]", "q_max", 4),
        ("speed [rad/s]", "speed", 3),
        ("acceleration [rad/s^2]", "acceleration", 2),
        ("jerk [rad/s^3]", "jerk", 0),
        ("torque [N m]", "torque", 1),
        ("torque rate [N m/s]", "torque_rate", 0),
    ):
        rows.append((label, _cells(rated[key], digits) if rated[key] is not None else ["none"]))
    if law is not None:
        rows += [("", [])]
        rows += [("speed falls from: c [rad/s]", _cells(law["offset"], 2)), ("K [rad/s^2]", _cells(law["gain"], 2))]
        rows += [("q* below [rad]", _cells(law["low"], 4)), ("q* above [rad]", _cells(law["high"], 4))]
        rows += [("braking a_b [rad/s^2]", _cells(described["law_braking"]["braking"], 2))]
        rows += [("moved in by g0 [rad]", _cells(described["law_braking"]["moved_in"], 4))]
    for stop in described["stops"]:
        share = stop["share"]
        rows += [("", []), (f"stop, {stop['name']} [s]", _cells(stop["seconds"], 3))]
        rows += [
            (f"from {share['speed']:g} V at {share['acceleration']:g} a, j [rad]", _cells(stop["radians"], 3)),
        ]
    width = max(len(label) for label, _ in rows)
    lines = [described["arm"], *(f"{label:<{width}}" + "".join(f"{c:>9}" for c in cells) for label, cells in rows)]
    lines += [
        "",
        f"tool: speed {rated['tool_speed']:g} m/s, acceleration {rated['tool_acceleration']:g} m/s^2; payload ",
    ]
    lines[-1] += f"{rated['payload']:g} kg"
    if law is not None:
        lines += ["", f"Speed towards a limit: at most sqrt(K (q* - q)) - c, and {LAW}"]
    lines += ["", "sources", *(f"  {source}" for source in rated["sources"]), "", NOTE]
    return "\n".join(line.rstrip() for line in lines)


LAW = "a joint that brakes at a_b towards q* moved in by g0 keeps to it."


def _cells(values: list[float], digits: int) -> list[str]:
    return [f"{value:.{digits}f}" for value in values]


# ---------------------------------------------------------------------------------------------------------- soak


def soak(command: Soak) -> None:
    """Run, print, and raise if something was found."""
    from tqdm import tqdm

    from ideomotor.cli.names import arm_named
    from ideomotor.core.errors import UsageError, UserError
    from ideomotor.robot import soak as job
    from ideomotor.robot.adversaries import CELL
    from ideomotor.robot.surroundings import load_surroundings

    for name, value, least in (
        ("--proposals", command.proposals, 1),
        ("--seed", command.seed, 0),
        ("--workers", command.workers, 1),
    ):
        if value < least:
            raise UsageError(f"{name} is {value}; allowed are whole numbers from {least} up")
    around = CELL if command.world is None else load_surroundings(command.world)
    what = job.Soak(arm_named(command.arm), command.proposals, command.seed, around, workers=command.workers)
    with tqdm(total=command.proposals, unit="proposal", unit_scale=True, file=sys.stderr, desc=command.arm) as bar:
        tally = job.run(what, command.out, bar.update)
    report = tally.report()
    print(json.dumps(report, indent=2) if command.json else soak_text(command.arm, report))
    if tally.faults:
        raise UserError("; ".join(tally.faults))


def soak_text(arm: str, report: dict[str, Any]) -> str:
    """Return what a soak found in lines."""
    found = ", ".join(f"{kind} {count:,}" for kind, count in report["violations"].items()) or "none"
    lines = [
        f"{arm}: {report['proposals']:,} proposals, {report['ticks']:,} commands sent, {report['tool_path_m']:,.0f} m of tool path",
        f"violations found by the checker: {found}",
        f"benign proposals altered: {report['benign_altered']}",
        f"stops: {report['stops']:,}, of which {report['recoveries']:,} recovered, the slowest in {report['slowest_recovery_s']:g} s",
        f"time of a call: p50 {report['p50']:.3f} ms, p99 {report['p99']:.3f} ms",
        "",
        "accepted share",
        *(f"  {name:<16} {share:>7.1%}" for name, share in report["accepted_share"].items()),
        "interventions",
        *(f"  {reason:<16} {count:>9,}" for reason, count in report["interventions"].items()),
        *([] if not report["examples"] else ["examples", *(f"  {line}" for line in report["examples"])]),
        "",
        NOTE,
    ]
    return "\n".join(lines)
