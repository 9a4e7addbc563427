"""Change one thing in a file of the safety layer, run its fast tests, and see whether they notice; then the next thing.

.venv/bin/pip install cosmic-ray==8.7.0
python tools/mutation.py --file shield --out build/mutation_shield.json [--retry] [--list]

The changes are those of cosmic-ray: another operator, another comparison, a number one more or less, a condition turned round, a loop
that never runs. They are made in a copy of the package in a temporary folder, so nothing else is disturbed, and each run of the tests is
a process of its own with a limit of time. The result file is written after each change and continued when started again; `--retry` runs
those again that survived, after tests were added. Prints the share that was noticed and the ones that were not.

Left out: operators between numbers that only raise (shifts and bits of floats), and what has no behaviour: type annotations, and whether
a dataclass is frozen.
"""

import argparse
import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).parents[1]
ROBOT = Path("src/ideomotor/robot")
PYTEST = (
    "--noconftest",
    "-p",
    "no:cacheprovider",
    "-q",
    "-x",
    "-W",
    "error",
    "--import-mode=importlib",
    "-m",
    "not slow",
    "-o",
    "markers=slow",
)
LIMIT_S = 60.0  # [s] for one run: a change may make a loop endless

SHIELD = ("tests/robot/test_shield_parts.py", "tests/robot/test_shield.py", "-k", "not no_adversary and not minute and not sixty and not every_state and not what_it_made and not larger_obstacle and not twice")  # fmt: skip
SUITES = {  # the fast tests of each file
    "shield": SHIELD,
    "follower": SHIELD,
    "proposal": SHIELD,
    "shield_settings": SHIELD,
    "joint_filter": (
        "tests/robot/test_joint_filter_edges.py",
        "tests/robot/test_joint_filter.py",
        "tests/robot/test_peer_faults.py::test_a_velocity_clamp_that_fails_open_lets_the_action_through_and_a_fault_of_ours_stops",
        "-k",
        "not no_attack and not wrong_bound and not (never_empty and (fr3 or ur5e))",
    ),
    "clearance": (
        "tests/robot/test_clearance.py",
        "tests/robot/test_velocity_qp.py",
        "-k",
        "not growing and not mujocos",
    ),
    "geometry": ("tests/robot/test_clearance.py", "-k", "not growing and not claimed_for_a_path"),
    "velocity_qp": ("tests/robot/test_velocity_qp.py",),
    "stop": ("tests/robot/test_stop.py",),
}

KINDS = (
    "ReplaceBinaryOperator_Add_Sub", "ReplaceBinaryOperator_Sub_Add", "ReplaceBinaryOperator_Mul_Div", "ReplaceBinaryOperator_Div_Mul",
    "ReplaceBinaryOperator_Pow_Mul", "ReplaceBinaryOperator_BitOr_BitAnd", "ReplaceBinaryOperator_BitAnd_BitOr",
    "ReplaceComparisonOperator_Eq_NotEq", "ReplaceComparisonOperator_NotEq_Eq",
    "ReplaceComparisonOperator_Lt_LtE", "ReplaceComparisonOperator_Lt_GtE", "ReplaceComparisonOperator_LtE_Lt",
    "ReplaceComparisonOperator_LtE_Gt", "ReplaceComparisonOperator_Gt_GtE", "ReplaceComparisonOperator_Gt_LtE",
    "ReplaceComparisonOperator_GtE_Gt", "ReplaceComparisonOperator_GtE_Lt",
    "ReplaceComparisonOperator_Is_IsNot", "ReplaceComparisonOperator_IsNot_Is",
    "ReplaceUnaryOperator_USub_UAdd", "ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Invert",
    "ReplaceUnaryOperator_Delete_Not", "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer", "RemoveDecorator",
    "ZeroIterationForLoop",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change."""

    kind: str
    occurrence: int
    line: int
    column: int

    @property
    def name(self) -> str:
        """Tell it from others of the same file."""
        return f"{self.kind}:{self.occurrence}"


def without_behaviour(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return from where to where there are annotations and `frozen=True`: (line, column), ends exclusive."""
    found: list[Any] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            found += [node.returns, *(a.annotation for a in every if a is not None)]
        elif isinstance(node, ast.AnnAssign):
            found.append(node.annotation)
        elif isinstance(node, ast.ClassDef):
            found += [k.value for d in node.decorator_list if isinstance(d, ast.Call) for k in d.keywords]
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in found if n is not None]


def mutants(path: Path) -> Iterator[Mutant]:
    """Yield all changes of a file."""
    tree, skipped = get_ast_from_path(path), without_behaviour(path.read_text(encoding="utf-8"))
    for kind in KINDS:
        operator = cosmic_ray.plugins.get_operator(f"core/{kind}")()
        places = [start for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node)]
        for occurrence, (line, column) in enumerate(places):
            if not any(a <= (line, column) < b for a, b in skipped):
                yield Mutant(kind, occurrence, line, column)


def copied() -> Path:
    """Return a folder with what the tests need."""
    folder = Path(tempfile.mkdtemp(prefix="mutation_"))
    ignored = shutil.ignore_patterns("__pycache__", "assets")
    shutil.copytree(ROOT / "src" / "ideomotor", folder / "src" / "ideomotor", ignore=ignored)
    shutil.copytree(ROOT / "tests" / "robot", folder / "tests" / "robot", ignore=ignored)
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=ignored)
    return folder


def run(folder: Path, suite: tuple[str, ...]) -> tuple[str, float]:
    """Return what came of the tests, and how long they took [s]."""
    begin = time.monotonic()
    more = {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", *PYTEST, "-c", os.devnull, "--rootdir", str(folder), *suite]
    try:
        done = subprocess.run(
            command, cwd=folder, env=os.environ | more, capture_output=True, timeout=LIMIT_S, check=False
        )
        outcome = "survived" if done.returncode == 0 else "killed"
        if done.returncode not in (0, 1):  # nothing could even be collected
            outcome = "killed at import"
    except subprocess.TimeoutExpired:
        outcome = "timeout"
    return outcome, time.monotonic() - begin


def judged(name: str, out: Path, *, retry: bool) -> dict[str, Any]:
    """Run what has not been run; return the result file's content."""
    folder = copied()
    try:
        path = folder / ROBOT / f"{name}.py"
        source = path.read_text(encoding="utf-8")
        result: dict[str, Any] = {"file": str(ROBOT / path.name), "sha256": hashlib.sha256(source.encode()).hexdigest()}
        before = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
        known = before.get("mutants", {}) if before.get("sha256") == result["sha256"] else {}
        outcome, took = run(folder, SUITES[name])
        if outcome != "survived":
            raise SystemExit(f"the fast tests of {name} fail without any change ({outcome}); repair them first")
        result |= {"suite_s": round(took, 2), "mutants": known}
        waiting = [m for m in mutants(path) if retry_or_new(known, m, retry=retry)]
        print(f"{name}: {len(known)} known, {len(waiting)} to run; the tests take {took:.1f} s", flush=True)
        for index, mutant in enumerate(waiting, 1):
            changed = mutate_code(source, cosmic_ray.plugins.get_operator(f"core/{mutant.kind}")(), mutant.occurrence)
            if changed is None:
                continue
            path.write_text(changed, encoding="utf-8")
            outcome, took = run(folder, SUITES[name])
            diff = [
                row
                for row in unified_diff(source.splitlines(), changed.splitlines(), n=0, lineterm="")
                if row[:1] in "+-"
            ]
            known[mutant.name] = {"line": mutant.line, "outcome": outcome, "s": round(took, 2), "diff": diff[2:]}
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(result, indent=1), encoding="utf-8")
            if outcome == "survived" or index % 50 == 0:
                print(f"{index}/{len(waiting)} {outcome} line {mutant.line} {mutant.name} {diff[2:]}", flush=True)
        path.write_text(source, encoding="utf-8")
        return result
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def retry_or_new(known: dict[str, Any], mutant: Mutant, *, retry: bool) -> bool:
    was = known.get(mutant.name)
    return was is None or (retry and was["outcome"] == "survived")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", choices=SUITES, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--retry", action="store_true", help="run the survivors again")
    parser.add_argument("--list", action="store_true", help="run nothing, print what is known")
    given = parser.parse_args()
    result = (
        json.loads(given.out.read_text(encoding="utf-8"))
        if given.list
        else judged(given.file, given.out, retry=given.retry)
    )
    found = result["mutants"]
    alive = {name: m for name, m in found.items() if m["outcome"] == "survived"}
    for name, mutant in sorted(alive.items(), key=lambda item: item[1]["line"]):
        print(f"line {mutant['line']} {name}\n  " + "\n  ".join(mutant["diff"]))
    print(
        f"{given.file}: {len(found) - len(alive)} of {len(found)} noticed, {100 * (1 - len(alive) / len(found)):.1f} %"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
