"""Bad input, as a user would give it: a message with what, where, what is allowed and the remedy; nothing half-written.

`refused` (conftest.py) also asserts that no traceback is shown.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ideomotor.cli.main import run
from ideomotor.core.errors import UserError
from ideomotor.policy.local import load_policy

Refused = Callable[..., str]
USAGE, FAULT = 2, 1


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder; to show that a refused command leaves everything as it was."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def out(tmp_path: Path):
    """Where a refused command would have written; it has to be still free afterwards."""
    yield tmp_path / "out"
    assert not (tmp_path / "out").exists()
    assert not list(Path().iterdir())  # nor in the current folder


# ------------------------------------------------------------------------------------------------ names and numbers

NAMES = {
    "task": (["collect", "--tasks", "pikc"], "unknown task 'pikc'; known: pick, place_on. Did you mean 'pick'?"),
    "no task": (["collect", "--tasks", ","], "--tasks is empty; known: pick, place_on"),
    "arm": (["collect", "--arm", "pandas"], "unknown arm 'pandas'; known: fr3, panda, ur5e. Did you mean 'panda'?"),
    "task to eval": (["eval", "--policy", "expert", "--tasks", "push"], "unknown task 'push'; known: pick, place_on"),
    "arm to eval": (["eval", "--policy", "expert", "--arm", "ur5"], "unknown arm 'ur5'; known: fr3, panda, ur5e"),
    "suite": (["eval", "--policy", "expert", "--suite", "blnd"], "unknown suite 'blnd'; known: blank, blind,"),
}


@pytest.mark.parametrize(("arguments", "message"), NAMES.values(), ids=list(NAMES))
def test_an_unknown_name_is_answered_with_the_known_ones(
    arguments: list[str], message: str, refused: Refused, out: Path
):
    refused([*arguments, "--out", out], USAGE, message)


def test_an_unknown_command_or_recipe_is_answered_with_the_known_ones(refused: Refused, out: Path):
    refused(
        ["evaluate"],
        USAGE,
        "unknown command 'evaluate'; known: collect, data, demo, eval, predict, safety, train, weights",
        "Did you mean",
    )
    refused(["train", "small", "--out", out], USAGE, "unknown recipe 'small'; known: small-tabletop")


def test_an_unknown_preset_is_answered_with_the_known_ones(refused: Refused, out: Path, panda_data: Path):
    arguments = ["train", "--data", panda_data, "--out", out, "--preset", "smal"]
    refused(arguments, USAGE, "unknown preset 'smal'; known: base, small, tiny. Did you mean 'small'?")


NUMBERS = {
    "episodes": (["collect", "--episodes", "0"], "--episodes is 0; allowed are whole numbers from 1 up"),
    "fewer": (["collect", "--episodes", "-3"], "--episodes is -3;"),
    "seed": (["collect", "--seed", "-1"], "--seed is -1; allowed are whole numbers from 0 up"),
    "workers": (["collect", "--workers", "-2"], "--workers is -2;"),
    "execute": (["collect", "--source", "corrections", "--execute", "0"], "--execute is 0;"),
    "noisy": (["collect", "--noisy", "70"], "--noisy is 70.0; allowed are shares from 0 to 1"),
    "eval": (["eval", "--policy", "expert", "--episodes", "0"], "--episodes is 0; allowed are whole numbers from 1 up"),
    "less": (["eval", "--policy", "expert", "--episodes", "-1"], "--episodes is -1;"),
    "demo": (["demo", "--episodes", "1"], "--episodes is 1; allowed are numbers from 2 up"),
}


@pytest.mark.parametrize(("arguments", "message"), NUMBERS.values(), ids=list(NUMBERS))
def test_a_number_out_of_range_is_answered_with_the_range(
    arguments: list[str], message: str, refused: Refused, out: Path
):
    refused([*arguments, "--out", out], USAGE, message)


@pytest.mark.parametrize("option", ["--steps", "--batch", "--checkpoint-every"])
def test_training_for_no_steps_is_refused(option: str, refused: Refused, out: Path, panda_data: Path):
    refused(["train", "--data", panda_data, "--out", out, option, "0"], USAGE, option, "from 1 up")


def test_showing_no_episodes_is_refused(refused: Refused, out: Path, panda_data: Path):
    refused(["data", "view", panda_data, "--out", out, "--episodes", "0"], USAGE, "--episodes is 0")


PARSER = {
    "no --out": (["eval"], "--out"),
    "no --out to collect": (["collect"], "--out"),
    "no --data": (["train"], "--data"),
    "no --out to a recipe": (["train", "small-tabletop"], "--out"),
    "source": (["collect", "--source", "wrong", "--out", "x"], "expert"),
    "no number": (["collect", "--episodes", "many", "--out", "x"], "many"),
    "unknown option": (["eval", "--out", "x", "--epsiodes", "3"], "--epsiodes"),
    "no subcommand": (["data"], "info"),
    "no folder": (["data", "info"], "Folder of the dataset"),
}


@pytest.mark.parametrize(("arguments", "word"), PARSER.values(), ids=list(PARSER))
def test_what_the_parser_refuses_ends_with_2_and_names_the_option(
    arguments: list[str], word: str, refused: Refused, out: Path
):
    refused(arguments, USAGE, word)


# ------------------------------------------------------------------------------------------------ folders and files


@pytest.mark.parametrize("command", ["info", "view", "check"])
def test_a_missing_folder_is_named(command: str, refused: Refused, tmp_path: Path):
    refused(["data", command, tmp_path / "nothing"], FAULT, str(tmp_path / "nothing"), "does not exist")


@pytest.mark.parametrize("command", ["info", "view", "check"])
def test_an_empty_folder_is_told_from_a_dataset(command: str, refused: Refused, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    refused(["data", command, tmp_path / "empty"], FAULT, str(tmp_path / "empty"), "is empty", "LeRobotDataset", "RLDS")
    assert contents(tmp_path) == {}


def test_training_on_a_missing_an_empty_or_no_folder_leaves_nothing(refused: Refused, out: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    refused(["train", "--out", out, "--data", tmp_path / "nothing"], FAULT, "nothing does not exist", "give the folder")
    refused(["train", "--out", out, "--data", tmp_path / "empty"], FAULT, "empty holds no dataset", "it is empty")
    refused(["train", "--out", out, "--data", ","], USAGE, "--data is empty")


def test_an_out_that_is_a_file_is_refused_and_stays(refused: Refused, tmp_path: Path, panda_data: Path):
    (tmp_path / "file").write_text("mine")
    refused(["collect", "--out", tmp_path / "file", "--workers", "1"], FAULT, "is a file", "new or empty")
    refused(["train", "--data", panda_data, "--out", tmp_path / "file"], USAGE, "is a file", "new folder")
    refused(["eval", "--policy", "expert", "--out", tmp_path / "file"], USAGE, "is a file", "give a folder")
    refused(["demo", "--out", tmp_path / "file"], USAGE, "is a file", "give a folder")
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_folder_with_other_things_in_it_is_refused_and_stays(refused: Refused, tmp_path: Path, panda_data: Path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    home = tmp_path / "home"
    refused(["collect", "--out", home, "--workers", "1"], FAULT, "holds something else", "new or empty")
    refused(["train", "--data", panda_data, "--out", home], USAGE, "is not empty", "another --out")
    refused(["demo", "--out", home], USAGE, "thesis.txt", "would be deleted", "another folder")
    assert contents(tmp_path) == {"home/thesis.txt": b"years of work"}


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("part", ["data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"])
def test_a_truncated_parquet_file_is_named(part: str, refused: Refused, panda_data: Path, tmp_path: Path):
    data = Path(shutil.copytree(panda_data, tmp_path / "data"))
    truncate(data / part)
    before = contents(tmp_path)
    words = (str(data / part), "truncated or damaged", "restore it from a copy")
    refused(["data", "view", data, "--out", tmp_path / "page.html"], FAULT, *words)
    refused(["train", "--data", data, "--out", tmp_path / "out"], FAULT, *words)
    refused(["data", "info", data], FAULT, *words)
    refused(["data", "check", data], FAULT)
    assert contents(tmp_path) == before


def test_check_prints_the_truncated_file_with_its_remedy(
    panda_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = Path(shutil.copytree(panda_data, tmp_path / "data"))
    truncate(data / "data/chunk-000/file-000.parquet")
    assert run(["data", "check", str(data)]) == FAULT
    shown = capsys.readouterr()
    assert "data/chunk-000/file-000.parquet" in shown.out
    assert "restore it from a copy" in shown.out
    assert "fault" in shown.err


def test_the_whole_dataset_is_without_faults(panda_data: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["data", "check", str(panda_data)]) == 0
    assert "no faults" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ bodies that do not fit


def test_training_a_policy_on_data_of_another_arm_is_refused_with_both_sides(
    refused: Refused, out: Path, panda_policy: Path, ur5e_data: Path
):
    arguments = ["train", "--data", ur5e_data, "--init", panda_policy, "--out", out, "--preset", "tiny"]
    refused(arguments, FAULT, str(panda_policy), str(ur5e_data), "'panda'", "'ur5e'", "convert the data first")


def test_mixing_data_of_two_arms_is_refused(refused: Refused, out: Path, panda_data: Path, ur5e_data: Path):
    arguments = ["train", "--data", f"{panda_data},{ur5e_data}", "--out", out, "--preset", "tiny"]
    refused(arguments, FAULT, str(panda_data), str(ur5e_data), "'panda'", "'ur5e'")


def test_recording_another_arm_into_a_dataset_is_refused(refused: Refused, ur5e_data: Path):
    before = contents(ur5e_data)
    refused(["collect", "--out", ur5e_data, "--episodes", "2", "--workers", "1"], FAULT, "'panda'", "'ur5e'")
    assert contents(ur5e_data) == before


def test_training_a_policy_on_data_of_other_cameras_is_refused(
    refused: Refused, out: Path, side_camera_policy: Path, panda_data: Path
):
    arguments = ["train", "--data", panda_data, "--init", side_camera_policy, "--out", out]
    refused(arguments, FAULT, "cameras[0].role", "'side'", "'front'")


def test_a_camera_that_the_body_does_not_have_is_answered_with_those_it_has(
    refused: Refused, out: Path, panda_policy: Path, panda_data: Path
):
    pipeline = panda_policy / "pipeline.json"
    pipeline.write_text(pipeline.read_text().replace('"front"', '"elbow"'))
    arguments = ["train", "--data", panda_data, "--init", panda_policy, "--out", out]
    refused(arguments, USAGE, "unknown camera of panda-tabletop 'elbow'; known: front, wrist")


@pytest.mark.usefixtures("no_child")
def test_a_policy_is_not_run_on_another_arm(refused: Refused, out: Path, panda_policy: Path):
    arguments = ["eval", "--policy", panda_policy, "--arm", "ur5e", "--out", out, "--workers", "1", "--episodes", "1"]
    refused(arguments, FAULT, str(panda_policy), "arm 'ur5e'", "robot: ", "'panda'")


@pytest.mark.usefixtures("no_child")
def test_corrections_of_a_policy_of_another_arm_begin_no_dataset(refused: Refused, out: Path, panda_policy: Path):
    arguments = ["collect", "--source", "corrections", "--policy", panda_policy, "--arm", "ur5e", "--out", out]
    refused(arguments, FAULT, str(panda_policy), "arm 'ur5e'", "robot: ", "'panda'")


# ------------------------------------------------------------------------------------------------ policies that are none


@pytest.mark.usefixtures("no_child")
def test_a_policy_folder_that_is_not_there_is_named_by_every_command(refused: Refused, out: Path, panda_data: Path):
    words = ("nowhere is no folder", "'shipped'", "a finished training run")
    refused(["eval", "--policy", "nowhere", "--out", out, "--episodes", "1"], FAULT, *words)
    refused(["collect", "--source", "corrections", "--policy", "nowhere", "--out", out], FAULT, *words)
    refused(["train", "--data", panda_data, "--init", "nowhere", "--out", out], FAULT, *words)


def test_a_folder_without_weights_is_no_policy(refused: Refused, out: Path, panda_data: Path):
    refused(["train", "--data", panda_data, "--init", panda_data, "--out", out], FAULT, "has no model.safetensors")


def noise(size: int = 3000) -> bytes:
    return np.random.default_rng(0).bytes(size)


FILES = ("pipeline.json", "embodiment.json", "statistics.json", "text.json", "config.json", "model.safetensors")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [noise(), b"", b"{}", b"[1, 2]"], ids=["noise", "empty", "object", "list"])
def test_any_file_of_a_checkpoint_may_be_damaged(name: str, content: bytes, panda_policy: Path):
    (panda_policy / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_policy(str(panda_policy))
    assert Path(name).stem in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "pipeline.json"])
def test_evaluating_random_bytes_is_refused_with_the_file(name: str, refused: Refused, out: Path, panda_policy: Path):
    (panda_policy / name).write_bytes(noise())
    arguments = ["eval", "--policy", panda_policy, "--out", out, "--episodes", "1"]
    refused(arguments, FAULT, str(panda_policy / name), "again")


@pytest.mark.usefixtures("no_child")
def test_weights_without_their_pipeline_are_not_run(refused: Refused, out: Path, panda_policy: Path):
    (panda_policy / "pipeline.json").unlink()
    arguments = ["eval", "--policy", panda_policy, "--out", out, "--episodes", "1"]
    refused(arguments, FAULT, f"{panda_policy} lacks pipeline.json", "`ideomotor train` writes it")


def test_training_on_from_a_damaged_policy_leaves_nothing(
    refused: Refused, out: Path, panda_policy: Path, panda_data: Path
):
    (panda_policy / "pipeline.json").write_bytes(noise())
    refused(["train", "--data", panda_data, "--init", panda_policy, "--out", out], FAULT, "pipeline.json")


@pytest.mark.usefixtures("no_child")
def test_a_policy_that_knows_no_tasks_has_to_be_told_them(refused: Refused, out: Path, panda_policy: Path):
    pipeline = panda_policy / "pipeline.json"
    value = json.loads(pipeline.read_text())
    pipeline.write_text(json.dumps({**value, "tasks": []}))
    arguments = ["eval", "--policy", panda_policy, "--out", out, "--episodes", "1"]
    refused(arguments, USAGE, "does not say which tasks it was trained on", "--tasks")
