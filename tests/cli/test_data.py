"""`ideomotor data` as a user types it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ideomotor import open_dataset
from ideomotor.cli.data import main
from ideomotor.core.errors import UsageError, UserError
from ideomotor.core.spec import Embodiment

FILES = Path(__file__).parents[1] / "data" / "files"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Raw datasets of Open X-Embodiment, as TFDS wrote them."""
    for name in ("toto", "viola"):
        shutil.copytree(FILES / "openx" / name, tmp_path / "root" / name)
    return tmp_path / "root"


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*words: object) -> str:
        main([str(word) for word in words])
        return capsys.readouterr().out

    return run


def test_info_says_what_is_read_and_what_is_not_known(raw: Path, say: Callable[..., str]) -> None:
    shown = say("info", raw / "toto")
    assert "RLDS (toto" in shown
    assert "Open X-Embodiment record 'toto': training reads state observation.state[0:7], 0" in shown
    assert json.loads(say("info", raw / "toto", "--json"))["frames"] == sum(
        len(open_dataset(raw / "toto")[e]) for e in range(2)
    )


def test_a_mixture_is_a_table_of_shares_and_of_what_is_missing(
    raw: Path, tmp_path: Path, say: Callable[..., str]
) -> None:
    frames = {name: sum(open_dataset(raw / name).length(e) for e in range(2)) for name in ("toto", "viola")}
    (tmp_path / "mix.json").write_text('{"toto": 1.0, "viola": 3.0, "kuka": 1.0}', encoding="utf-8")
    shown = say("mixture", tmp_path / "mix.json", "--data-root", raw)
    total = frames["toto"] + 3 * frames["viola"]
    (toto,), (viola,), (kuka,) = (
        [line for line in shown.splitlines() if line.startswith(n)] for n in (*frames, "kuka")
    )
    assert toto.split() == ["toto", str(frames["toto"]), "1", f"{100 * frames['toto'] / total:.2f}%"]
    assert viola.split()[3] == f"{100 * 3 * frames['viola'] / total:.2f}%"
    assert kuka.endswith("missing: not on disk")
    with pytest.raises(UsageError, match="unknown mixture 'openvla'"):
        main(["mixture", "openvla", "--data-root", str(raw)])


def test_a_guess_is_printed_written_and_taken_by_its_word(raw: Path, tmp_path: Path, say: Callable[..., str]) -> None:
    where, file = tmp_path / "converted", tmp_path / "embodiment.json"
    say("convert", raw / "viola", where)
    assert "nothing says what the numbers mean" in say("info", where)
    shown = say("guess", where, "--out", file)
    assert "It is a guess" in shown
    assert Embodiment.from_text(file.read_text(encoding="utf-8"), "the file").rate_hz == 20.0  # of the record
    with pytest.raises(UserError, match="is there already"):
        main(["guess", str(where), "--out", str(file)])
    assert json.loads(say("info", where, "--embodiment", file, "--json"))["embodiment"]["rate_hz"] == 20.0


def test_convert_keeps_raw_values_and_takes_the_rate_of_the_record(
    raw: Path, tmp_path: Path, say: Callable[..., str]
) -> None:
    for target in ("lerobot-v3", "lerobot-v2.1"):
        say("convert", raw / "toto", tmp_path / target, "--to", target)
        before, after = open_dataset(raw / "toto"), open_dataset(tmp_path / target)
        assert after.fps == 30.0
        for episode in range(2):
            np.testing.assert_array_equal(before.column(episode, "action"), after.column(episode, "action"))
            assert before.instruction(episode) == after.instruction(episode)
        assert say("check", tmp_path / target).strip().endswith("no faults")


def test_a_damaged_shard_is_read_as_far_as_it_goes_when_that_is_asked_for(raw: Path, say: Callable[..., str]) -> None:
    shard = next((raw / "toto").rglob("*.tfrecord*"))
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(UserError, match=r"record 1 at byte \d+ is damaged"):
        main(["info", str(raw / "toto")])
    shown = say("info", raw / "toto", "--salvage")
    assert "episodes    1" in shown
    assert "first 1 of 2 records" in shown
