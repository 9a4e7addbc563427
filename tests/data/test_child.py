"""The wall around C libraries: whatever ends the child is an error that names the file."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import foreign
import hdf5_writer
import walled

from ideomotor.core.errors import UserError
from ideomotor.data import examine
from ideomotor.data.check import check_behind_wall
from ideomotor.data.child import Child, ChildDiedError, ChildFaultError
from ideomotor.data.dataset import Reading


@pytest.fixture(scope="module")
def child():
    with Child(memory=256 << 20, seconds=20.0) as child:
        yield child


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ideomotor" / "examined"


def test_a_child_answers_many_calls(child):
    first, process = child.call(walled.double, 21, about="x")
    assert first == 42
    assert child.call(walled.double, [1], about="x") == [[1, 1], process]
    assert child.call(walled.path, about="x") == sys.path[:1]
    assert child.call(walled.reply, 1 << 20, about="x") == "x" * (1 << 20)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (walled.segfault, (), r"bad.h5 ended the process that was reading it \(signal SIGSEGV\)"),
        (walled.leave, (), r"bad.h5 ended the process that was reading it \(exit code 3\)"),
        (walled.take, (8 << 30,), "bad.h5 asks for more than 256 MB of memory"),
    ],
)
def test_a_death_is_an_error_that_names_the_file_and_the_next_call_is_answered(child, function, arguments, message):
    with pytest.raises(ChildDiedError, match=message):
        child.call(function, *arguments, about="bad.h5")
    assert child.call(walled.double, 1, about="x")[0] == 2


def test_a_call_that_hangs_is_ended():
    with Child(seconds=0.2) as child:
        child.call(walled.double, 1, about="x")
        with pytest.raises(ChildDiedError, match=r"bad.h5 was not read after 0.2 s"):
            child.call(walled.sleep, 60, about="bad.h5")
        assert child.call(walled.double, 1, about="x")[0] == 2


def test_what_the_function_refuses_is_refused_and_what_it_breaks_is_a_fault(child):
    with pytest.raises(UserError, match="^mend it$"):
        child.call(walled.refuse, "mend it", about="x")
    with pytest.raises(ChildFaultError, match=r"break_down on x:(.|\n)*ZeroDivisionError: boom"):
        child.call(walled.break_down, about="x")
    with pytest.raises(ChildFaultError, match="not JSON serializable"):
        child.call(walled.nothing_to_send, about="x")


def test_the_memory_that_was_granted_can_be_used(child):
    assert child.call(walled.take, 100 << 20, about="x") == 100 << 20


def test_a_dataset_is_looked_at_once_for_each_state_of_its_files(tmp_path, cache, monkeypatch):
    (tmp_path / "d").mkdir()
    path = hdf5_writer.robomimic(tmp_path / "d" / "a.hdf5", {0: 2})
    examine.check_once(tmp_path / "d", Reading())
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(examine, "Child", None)  # a second look would need it
    examine.check_once(tmp_path / "d", Reading())
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(TypeError):
        examine.check_once(tmp_path / "d", Reading())


def test_damaged_files_do_not_pass(tmp_path, cache):
    foreign.write(tmp_path / "lerobot")
    examine.check_once(tmp_path / "lerobot", Reading())
    table = tmp_path / "lerobot" / "meta" / "tasks.parquet"
    table.write_bytes(table.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"tasks.parquet cannot be read as parquet"):
        examine.check_once(tmp_path / "lerobot", Reading())
    (tmp_path / "h").mkdir()
    content = hdf5_writer.aloha(tmp_path / "h" / "episode_0.hdf5", 3, "vlen").read_bytes()
    (tmp_path / "h" / "episode_0.hdf5").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"episode_0.hdf5 cannot be read as HDF5"):
        examine.check_once(tmp_path / "h", Reading())
    assert len(list(cache.iterdir())) == 1


def test_other_folders_pass_without_a_look(tmp_path, cache):
    examine.check_once(tmp_path, Reading())
    assert not cache.exists()


def test_a_check_behind_the_wall_finds_what_a_check_finds(tmp_path, cache):
    foreign.write(tmp_path / "lerobot", total_frames=99)
    assert any("total_frames" in str(fault) for fault in check_behind_wall(tmp_path / "lerobot"))
    with pytest.raises(UserError, match="does not exist"):
        check_behind_wall(tmp_path / "none")
