import subprocess
import sys
from pathlib import Path

import pytest

from ideomotor.core.errors import UserError
from ideomotor.train import parallel
from ideomotor.train.parallel import InterruptedRunError, launch

PROGRAM = """
import sys, time
from pathlib import Path
from ideomotor.train.parallel import Group, joined
what, rank, world, store, errors = sys.argv[1:]
if what == "sum":
    import torch
    with joined(int(rank), int(world), Path(store)) as group:
        tensor = torch.tensor([1.0 + group.rank, 10.0])
        group.add(tensor)
        assert tensor.tolist() == [3.0, 20.0], tensor
        assert group.agree(float(group.rank + 7)) == 7.0
if what == "message" and rank == "1":
    Path(errors).write_text("data are missing")
    sys.exit(4)
if what == "crash" and rank == "1":
    sys.exit(9)
if what == "stopped":
    sys.exit(3)
if what in ("message", "crash"):
    time.sleep(60)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a_rank.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(parallel, "TO_NOTICE", 0.1)
    return "a_rank"


def test_ranks_add_and_agree(module: str) -> None:
    launch(module, ["sum"], 2)


def test_the_message_of_a_rank_reaches_the_user_and_the_others_are_ended(module: str) -> None:
    with pytest.raises(UserError, match="^data are missing$"):
        launch(module, ["message"], 2)


def test_a_crash_names_the_rank_and_the_way_on(module: str) -> None:
    with pytest.raises(UserError, match=r"rank 1 \(exit code 9\).*--resume"):
        launch(module, ["crash"], 2)


def test_ranks_that_stopped_as_asked_are_told_apart(module: str) -> None:
    with pytest.raises(InterruptedRunError, match="--resume"):
        launch(module, ["stopped"], 1)


def test_ranks_end_when_the_one_that_started_them_is_gone() -> None:
    program = "from ideomotor.train.parallel import die_with_parent; import time; die_with_parent(); print(1, flush=True); time.sleep(60)"
    root = str(Path(parallel.__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PYTHONPATH": root}
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == b"1\n"
    child.stdin.close()
    assert child.wait(30) == 1
    child.stdout.close()
