"""`ideomotor predict`, and OpenVLA checkpoints in `ideomotor eval`: what is shown, and what is refused."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ideomotor.cli.main import run
from ideomotor.core.spec import Embodiment
from ideomotor.robot.arms.panda import PANDA
from ideomotor.sim.env import tabletop_embodiment
from ideomotor.sim.render import Ray

Refused = Callable[..., str]
USAGE, FAULT = 2, 1


@pytest.fixture
def parity(fixtures: Path) -> Path:
    return fixtures / "openvla-parity-a"


@pytest.fixture
def checkpoint(parity: Path) -> Path:
    return parity / "checkpoint"


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `predict` and return what it printed."""

    def asked(*arguments: object) -> str:
        capsys.readouterr()
        assert run(["predict", *map(str, arguments)]) == 0
        return capsys.readouterr().out

    return asked


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, Path]:
    """A PNG and a JPEG, of other sizes than any network wants."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    files = (tmp_path / "front.png", tmp_path / "wrist.jpg")
    for path in files:
        Image.fromarray(pixels).save(path)
    return files


def sample(parity: Path, i: int) -> tuple[Path, str]:
    value = json.loads((parity / "inputs" / "inputs.json").read_text())[i]
    return parity / "inputs" / value["image"], value["instruction"]


def asking(checkpoint: Path, image: Path, instruction: str) -> tuple[object, ...]:
    return ("--policy", checkpoint, "--image", image, "--instruction", instruction, "--statistics", "bridge_orig")


def numbers(said: dict[str, Any], name: str) -> np.ndarray:
    return np.array(said[name])


# ------------------------------------------------------------------------------------------------ what is shown


def test_the_action_of_the_reference_is_printed_channel_by_channel(
    ask: Callable[..., str], checkpoint: Path, parity: Path
):
    image, instruction = sample(parity, 2)
    shown = ask(*asking(checkpoint, image, instruction))
    expected = np.load(parity / "expected.npz")
    rows = [line.split() for line in shown.splitlines() if line.startswith(("ee_delta", "gripper"))]
    assert [row[0] for row in rows][::6] == ["ee_delta_x", "gripper"]
    assert [row[1] for row in rows] == ["unknown"] * 6 + ["fraction"]
    np.testing.assert_allclose([float(row[2]) for row in rows], expected["2.action.bridge_orig"], atol=1e-6)
    assert [row[3] for row in rows] == ["31946", "31500!", "32063!", "31953", "31755", "31785", "31847"]
    assert "2 of the ids are no action ids (!)" in shown
    assert "embodiment   bridge_orig (guess, not confirmed), 5 Hz" in shown
    assert "robot widowx at 5 Hz: 'bridge_orig' is a dataset of that robot and rate" in shown
    assert "64 x 64 px, as it is, then resize-naive to 56 px" in shown
    assert "time: load " in shown


def test_json_holds_every_digit(ask: Callable[..., str], checkpoint: Path, parity: Path):
    image, instruction = sample(parity, 3)
    said = json.loads(ask(*asking(checkpoint, image, instruction), "--embodiment", "guess", "--json"))
    expected = np.load(parity / "expected.npz")
    np.testing.assert_allclose(numbers(said, "actions")[0], expected["3.action.bridge_orig"], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(numbers(said, "ids")[0], expected["3.generated_ids"])
    assert (said["confirmed"], said["statistics"], said["dt"]) == (True, "bridge_orig", 0.2)
    assert set(said["seconds"]) == {"load", "first", "again"}


def test_the_path_of_the_picture_is_told(ask: Callable[..., str], checkpoint: Path, pictures: tuple[Path, Path]):
    shown = ask(*asking(checkpoint, pictures[1], "lift"), "--images", "evaluation", "--ids", "constrained")
    assert (
        "70 x 50 px, JPEG, Lanczos-3 to 56 px, centre crop of 0.9 of the area as in evaluation, then resize-naive"
        in shown
    )
    assert "all ids are action ids" in shown


def test_chunks_of_a_policy_of_our_own_are_shown_in_its_units(
    ask: Callable[..., str], panda_policy: Path, pictures: tuple[Path, Path]
):
    state = ("--state", 0.5, -0.1, 0.3, 1, 0, 0, -1, 0, 0, 1)
    shown = ask("--policy", panda_policy, "--image", *pictures, "--instruction", "lift the bar", *state)
    assert "embodiment   panda-tabletop, 10 Hz" in shown
    assert "70 x 50 px, resized to 96 x 96 px" in shown
    assert shown.count("guess") == 0
    (header,) = (line for line in shown.splitlines() if line.startswith("channel"))
    assert header.split() == ["channel", "unit", "+0", "s", "+0.1", "s", "+0.2", "s", "+0.3", "s"]
    (row,) = (line.split() for line in shown.splitlines() if line.startswith("ee_delta_x"))
    assert (row[1], len(row)) == ("m", 6)


def test_a_question_is_answered(ask: Callable[..., str], checkpoint: Path, pictures: tuple[Path, Path]):
    arguments = (
        "--policy",
        checkpoint,
        "--statistics",
        "bridge_orig",
        "--image",
        pictures[0],
        "--question",
        "What is this?",
    )
    assert ask(*arguments, "--words", 3).strip()


def test_the_guess_is_written_to_be_edited_and_read_again(
    ask: Callable[..., str], checkpoint: Path, parity: Path, tmp_path: Path
):
    path = tmp_path / "embodiment.json"
    told = ask("--policy", checkpoint, "--statistics", "bridge_orig", "--write-embodiment", path)
    assert f"Correct the file, then give it as --embodiment {path}" in told
    value = json.loads(path.read_text())
    value["rate_hz"] = 8.0
    path.write_text(json.dumps(value))  # no hash stands in the way
    shown = ask(*asking(checkpoint, *sample(parity, 0)), "--embodiment", path)
    assert "embodiment   bridge_orig, 8 Hz" in shown
    assert "not confirmed" not in shown


def test_the_embodiment_of_any_policy_can_be_written(ask: Callable[..., str], panda_policy: Path, tmp_path: Path):
    ask("--policy", panda_policy, "--write-embodiment", tmp_path / "panda.json")
    found = Embodiment.from_text((tmp_path / "panda.json").read_text(), "here")
    assert found == tabletop_embodiment(PANDA, Ray())


# ------------------------------------------------------------------------------------------------ what is refused


def test_pictures_that_are_none_are_refused(refused: Refused, panda_policy: Path, tmp_path: Path, checkpoint: Path):
    asked = ["predict", "--policy", panda_policy, "--instruction", "lift"]
    refused(asked, USAGE, "--image is missing: give a PNG or JPEG file for each camera")
    refused([*asked, "--image", tmp_path / "none.png"], FAULT, "none.png cannot be read: No such file")
    (tmp_path / "text.png").write_text("no picture")
    refused([*asked, "--image", tmp_path / "text.png"], FAULT, "text.png: an image begins with b'no p'; JPEG")
    whole = io.BytesIO()
    Image.new("RGB", (40, 40)).save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:60])
    refused([*asked, "--image", tmp_path / "cut.png"], FAULT, "cut.png: an image of 60 bytes is damaged")


def test_another_number_of_pictures_is_refused_with_the_cameras(
    refused: Refused, panda_policy: Path, pictures: tuple[Path, Path], checkpoint: Path
):
    arguments = ["predict", "--policy", panda_policy, "--instruction", "lift", "--image", pictures[0]]
    refused(arguments, USAGE, "sees 2 cameras, front, wrist; --image names 1: give one picture for each, in this order")
    one = ["predict", *asking(checkpoint, pictures[0], "lift"), "--image", *pictures]
    refused(one, USAGE, "sees 1 camera, front; --image names 2")


def test_a_state_that_does_not_fit_is_refused_with_its_channels(
    refused: Refused, panda_policy: Path, pictures: tuple[Path, Path], checkpoint: Path
):
    arguments = ["predict", "--policy", panda_policy, "--instruction", "lift", "--image", *pictures]
    refused(arguments, USAGE, "give --state with 10 numbers: ee_x [m], ee_y [m]", "gripper [fraction]")
    refused([*arguments, "--state", 1, 2, 3], USAGE, "--state has 3 numbers; this policy reads 10: ee_x [m]")
    foreign = ["predict", *asking(checkpoint, pictures[0], "lift"), "--state", 1, 2]
    refused(foreign, USAGE, "this policy does not read the state; leave out --state")


def test_what_is_missing_or_contradicts_is_refused(
    refused: Refused, panda_policy: Path, pictures: tuple[Path, Path], checkpoint: Path, tmp_path: Path
):
    own = ["predict", "--policy", panda_policy, "--image", *pictures]
    refused(own, USAGE, "--instruction is missing")
    refused([*own, "--question", "What?"], USAGE, "gives actions only; --question needs an OpenVLA checkpoint")
    refused([*own, "--question", "What?", "--instruction", "lift"], USAGE, "give one of them")
    refused([*own, "--instruction", "lift", "--statistics", "x"], USAGE, "is no OpenVLA checkpoint", "--statistics")
    (tmp_path / "there.json").write_text("{}")
    refused([*own, "--write-embodiment", tmp_path / "there.json"], FAULT, "is there already; choose another")
    foreign = ["predict", "--policy", checkpoint, "--image", pictures[0], "--instruction", "lift"]
    refused(foreign, USAGE, "choose with --statistics: bridge_orig, fixture_partial_mask")
    refused([*foreign, "--statistics", "bridge"], USAGE, "unknown statistics 'bridge'", "Did you mean 'bridge_orig'?")


# ------------------------------------------------------------------------------------------------ in closed loop

EVAL = ("--tasks", "pick", "--episodes", 1, "--workers", 1, "--videos", 0, "--statistics", "bridge_orig")


@pytest.mark.usefixtures("no_child")
def test_a_checkpoint_is_measured_once_its_embodiment_is_stated(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    body = tmp_path / "panda.json"
    body.write_text(replace(tabletop_embodiment(PANDA, Ray()), chunk=None).to_text())
    arguments = ["eval", "--policy", checkpoint, "--out", tmp_path / "out", *EVAL, "--embodiment", body]
    assert run([str(argument) for argument in arguments]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["tasks"]["pick"]["episodes"] == 1
    assert "pick: " in capsys.readouterr().out


@pytest.mark.usefixtures("no_child")
def test_a_guess_is_refused_by_eval_and_a_confirmed_one_compared(refused: Refused, checkpoint: Path, tmp_path: Path):
    arguments = ["eval", "--policy", checkpoint, "--out", tmp_path / "out", *EVAL]
    refused(arguments, FAULT, "does not say what its numbers mean", "--embodiment guess", "--write-embodiment")
    said = refused([*arguments, "--embodiment", "guess"], FAULT, "mean different things by their numbers")
    assert "rate_hz: policy" in said
    assert "has 5.0, arm 'panda' has 10.0" in said


def test_control_arms_have_no_statistics(refused: Refused, tmp_path: Path):
    arguments = ["eval", "--policy", "expert", "--out", tmp_path / "out", *EVAL]
    refused(arguments, USAGE, "--policy expert is no checkpoint; leave out --statistics")
