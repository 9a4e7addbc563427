"""Instructions come from strangers: what looks like markup is shown, not obeyed."""

from dataclasses import replace
from pathlib import Path

import pytest

from ideomotor.cli import names
from ideomotor.cli.main import run
from ideomotor.core.types import Episode
from ideomotor.data.lerobot.writer import DatasetWriter
from ideomotor.sim.tasks.pick import PICK

MARKUP = '<script>alert("1")</script><img src=x onerror=alert(2)>'
ESCAPED = "&lt;script&gt;alert("


def assert_harmless(page: Path):
    text = page.read_text(encoding="utf-8")
    assert ESCAPED in text
    assert "<script" not in text
    assert "<img src=x" not in text


def test_the_page_of_a_dataset_shows_markup_as_text(tmp_path: Path, short_episode: Episode):
    with DatasetWriter(tmp_path / "data", short_episode.embodiment) as writer:
        writer.add_episode(replace(short_episode, instruction=MARKUP))
    assert run(["data", "view", str(tmp_path / "data"), "--out", str(tmp_path / "page.html")]) == 0
    assert_harmless(tmp_path / "page.html")
    assert run(["data", "check", str(tmp_path / "data")]) == 0


def test_the_report_of_an_evaluation_shows_markup_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    task = replace(PICK, name="<b>pick", horizon=2, train_templates=(MARKUP + " the {colour} {shape}",))
    monkeypatch.setattr(names, "tasks", lambda: {"pick": task})
    arguments = ["eval", "--policy", "expert", "--tasks", "pick", "--episodes", "1", "--videos", "1", "--workers", "1"]
    assert run([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert_harmless(tmp_path / "out" / "report.html")
    assert "<b>" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
