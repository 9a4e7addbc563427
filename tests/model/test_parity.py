"""The parity tool: our OpenVLA and OpenVLA-OFT against all that the reference computed, and whether the tool would tell.

It is the proof of the network's numbers: towers, projector, language model, heads, losses and gradients have no other test of their values.
"""

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import parity_copies
from parity_copies import arrays, read, write

TOOLS = Path(__file__).parents[2] / "tools"
KEYS = ("0.pixel_values", "0.projector", "0.hidden_last_prompt", "0.logits_last_prompt", "0.generated_ids", "0.loss")

Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def fixture(fixtures: Path) -> Path:
    return fixtures / "openvla-parity-a"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The tool in this process: its exit code and its lines."""
    monkeypatch.syspath_prepend(TOOLS)
    tool = importlib.import_module("parity")

    def call(*arguments: object) -> tuple[int, list[str]]:
        code = tool.main([str(argument) for argument in arguments])
        return code, capsys.readouterr().out.splitlines()

    return call


def verdicts(lines: list[str]) -> dict[str, str]:
    """The last word of each array's line by key, without the numbers of the JSON files."""
    rows = [line.split() for line in lines[: lines.index("")]]
    return {row[1]: row[4] for row in rows}


def test_all_outputs_of_the_fixture_are_those_of_the_reference(fixture: Path) -> None:
    command = [sys.executable, str(TOOLS / "parity.py"), str(fixture)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert lines[-1] == "461 compared, 0 failed, 0 unvisited"
    rows = [line.split() for line in lines[: lines.index("")]]
    assert len(rows) == 461
    assert {len(row) for row in rows} == {5}
    assert {row[4] for row in rows} == {"ok"}
    # and the numbers beside them: gradients of 110 parameters, 43 parameters without, losses, shares, margins
    assert sum(line.startswith("expected.json batch.grad_l2.") for line in lines) == 110
    assert "expected.json batch.parameters_without_gradient 0.00e+00 exact ok" in lines


def test_a_wrong_value_fails_and_is_named(fixture: Path, run: Run, tmp_path: Path) -> None:
    folder = parity_copies.part(fixture, tmp_path / "part", KEYS)
    assert run(folder)[0] == 0
    whole = arrays(folder / "expected.npz")
    whole["0.hidden_last_prompt"][2, 5] += 0.1
    np.savez(folder / "expected.npz", allow_pickle=False, **whole)
    code, lines = run(folder)
    assert code == 1
    assert lines[-1] == "6 compared, 1 failed, 0 unvisited"
    assert verdicts(lines) == {key: "FAIL" if key == "0.hidden_last_prompt" else "ok" for key in KEYS}
    (failed,) = [line for line in lines if line.endswith("FAIL")]
    assert failed == "expected.npz 0.hidden_last_prompt 1.00e-01 atol=0.0002 FAIL"


@pytest.mark.parametrize("altered", ["value", "shape", "nan"])
def test_an_id_a_shape_and_a_nan_fail(fixture: Path, run: Run, tmp_path: Path, altered: str) -> None:
    folder = parity_copies.part(fixture, tmp_path / "part", ("0.generated_ids", "0.projector"))
    whole = arrays(folder / "expected.npz")
    if altered == "value":
        whole["0.generated_ids"][3] += 1
    elif altered == "shape":
        whole["0.projector"] = whole["0.projector"][:, :-1]
    else:
        whole["0.projector"][1, 1] = np.nan
    np.savez(folder / "expected.npz", allow_pickle=False, **whole)
    code, lines = run(folder)
    assert (code, lines[-1]) == (1, "2 compared, 1 failed, 0 unvisited")


def test_an_output_that_nothing_computes_fails(fixture: Path, run: Run, tmp_path: Path) -> None:
    folder = parity_copies.part(fixture, tmp_path / "part", ("0.projector",))
    whole = arrays(folder / "expected.npz")
    rules = read(folder / "tolerances.json")
    rules["rules"].insert(0, {"file": r"expected\.npz", "key": r"0\.attention", "role": "output", "atol": 1.0})
    write(folder / "tolerances.json", rules)
    more = {"0.attention": np.zeros(3), "9.projector": np.zeros(3), "0.whatever": np.zeros(3)}
    np.savez(folder / "expected.npz", allow_pickle=False, **whole, **more)
    code, lines = run(folder)
    assert code == 1
    assert lines[-1] == "1 compared, 0 failed, 3 unvisited"
    told = {line.split()[1]: line for line in lines if "unvisited (" in line}
    assert "nothing here computes it" in told["0.attention"]
    assert "no rule" in told["0.whatever"]
    assert "KeyError: '9'" in told["9.projector"]  # there is no such sample


def test_a_tighter_rule_fails(fixture: Path, run: Run, tmp_path: Path) -> None:
    folder = parity_copies.part(fixture, tmp_path / "part", ("0.projector", "0.pixel_values"))
    rules = read(folder / "tolerances.json")
    for rule in rules["rules"]:
        if rule["key"].endswith("projector") and rule["file"].startswith("expected"):
            rule["atol"] = 1e-9
    write(folder / "tolerances.json", rules)
    code, lines = run(folder)
    assert (code, lines[-1]) == (1, "2 compared, 1 failed, 0 unvisited")
    assert verdicts(lines)["0.projector"] == "FAIL"


def test_a_broken_part_hides_no_other(fixture: Path, run: Run, tmp_path: Path) -> None:
    """A component file is damaged and the configuration of a variant is missing: their outputs are unvisited, the others compared."""
    folder = parity_copies.part(fixture, tmp_path / "part", ("0.projector",))
    shutil.copytree(fixture / "oft" / "l1", folder / "oft" / "l1")
    shutil.copy(fixture / "oft" / "expected.json", folder / "oft")
    for name in ("oft/expected_l1.npz", "oft/expected_discrete.npz"):
        kept = {key: value for key, value in arrays(fixture / name).items() if key.startswith("0.hidden_actions")}
        np.savez(folder / name, allow_pickle=False, **kept)
    np.savez(folder / "expected_rms_norm_eps_2.npz", allow_pickle=False, **{"0.loss": np.zeros(())})
    rules = read(folder / "tolerances.json")
    rules["rules"].append({"file": r"expected_.*", "key": ".*", "role": "output", "atol": 1.0})
    write(folder / "tolerances.json", rules)
    (damaged,) = (folder / "oft" / "l1").glob("action_head*")
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:1000])
    facts = read(folder / "oft" / "expected.json")
    (folder / "oft" / "expected.json").chmod(0o644)
    write(folder / "oft" / "expected.json", {**facts, "train_batch": {}})
    code, lines = run(folder)
    assert (code, lines[-1]) == (1, "2 compared, 0 failed, 2 unvisited")
    assert any("expected_l1.npz" in line and "action_head" in line for line in lines)
    assert any("expected_rms_norm_eps_2.npz" in line and "config_rms_norm_eps_2.json" in line for line in lines)


def test_a_wrong_number_of_a_json_file_fails_too(fixture: Path, run: Run, tmp_path: Path) -> None:
    folder = parity_copies.part(fixture, tmp_path / "part", ("0.projector",))
    batch = read(fixture / "expected.json")["batch"]
    norms = {name: batch["grad_l2"][name] for name in ("projector.fc1.weight", "projector.fc1.bias")}
    norms["projector.fc1.bias"] *= 1.001
    write(folder / "expected.json", {"batch": {"loss": batch["loss"], "grad_l2": norms}})
    code, lines = run(folder)
    assert (code, lines[-1]) == (1, "1 compared, 0 failed, 0 unvisited")
    assert [line.split()[1] for line in lines if line.endswith("FAIL")] == ["batch.grad_l2.projector.fc1.bias"]
    assert "numbers: 4 compared, 1 failed, 0 unvisited" in lines


def test_json_holds_the_same_rows_and_counts(fixture: Path, run: Run, tmp_path: Path) -> None:
    folder = parity_copies.part(fixture, tmp_path / "part", ("0.projector", "0.generated_ids"))
    whole = arrays(folder / "expected.npz")
    np.savez(folder / "expected.npz", allow_pickle=False, **whole, **{"0.whatever": np.zeros(3)})
    code, lines = run(folder, "--json")
    told: dict[str, Any] = json.loads("\n".join(lines))
    assert code == 1
    assert {name: told[name] for name in ("compared", "failed", "unvisited")} == {
        "compared": 2,
        "failed": 0,
        "unvisited": 1,
    }
    rows = {row["key"]: row for row in told["rows"]}
    assert rows["0.generated_ids"] == {
        "file": "expected.npz",
        "key": "0.generated_ids",
        "error": 0.0,
        "tolerance": {"exact": True},
        "verdict": "ok",
    }
    assert rows["0.projector"]["tolerance"] == {"atol": 5e-6}
    assert rows["0.whatever"]["error"] is None
    assert rows["0.whatever"]["verdict"] == "unvisited"


def test_a_folder_of_another_kind_is_refused(run: Run, tmp_path: Path) -> None:
    assert run(tmp_path)[0] == 1


def test_other_samples_and_names_are_read_from_the_files(fixture: Path, run: Run, tmp_path: Path) -> None:
    folder = parity_copies.renamed(fixture, tmp_path / "other")
    code, lines = run(folder)
    assert code == 0, "\n".join(line for line in lines if not line.endswith(" ok"))
    outputs = sum(len(arrays(path)) for path in folder.rglob("*.npz")) - 3  # the states of three samples are inputs
    assert lines[-1] == f"{outputs} compared, 0 failed, 0 unvisited"


def test_other_sizes_are_read_from_the_files(fixture: Path, run: Run, tmp_path: Path) -> None:
    """One tower, three cameras, other widths and another chunk: everything has an answer, of the right shape."""
    _, lines = run(parity_copies.resized(fixture, tmp_path / "other"))
    assert lines[-1].endswith(" 0 unvisited"), "\n".join(line for line in lines if "unvisited (" in line)
    assert not [line for line in lines if "shape" in line]
    assert int(lines[-1].split()[0]) > 100
