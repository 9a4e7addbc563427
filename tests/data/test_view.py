"""`data info` and `data view`: what they say, and that a dataset cannot put anything of its own into the page."""

import dataclasses
import json
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import foreign
from recordings import EMBODIMENT, episode

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Channel
from ideomotor.core.types import Episode
from ideomotor.data.info import describe, describe_text
from ideomotor.data.lerobot.writer import DatasetWriter
from ideomotor.data.opening import open_dataset
from ideomotor.data.view import write_page

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;</title></style>"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.sources: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value or "" for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_markup_in_a_dataset_stays_text(tmp_path: Path) -> None:
    channels = (Channel("<b>x</b>", "m"), *EMBODIMENT.state[1:])
    embodiment = dataclasses.replace(EMBODIMENT, name="<script>x</script>", robot="<i>", state=channels)
    folder = tmp_path / "<script>alert(1)<" / "<img src=x onerror=alert(1)>"
    with DatasetWriter(folder, embodiment) as writer:
        writer.add_episode(Episode(embodiment, MARKUP, episode(0).steps, "success"))
    write_page(open_dataset(folder), tmp_path / "page.html", [0])
    page = Tags((tmp_path / "page.html").read_text())
    allowed = "html meta title style h1 h2 h3 table tr td article div img figure figcaption span svg polyline"
    assert set(page.tags) <= set(allowed.split(" "))
    assert not {name for name in page.attributes if name.startswith("on")}
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert MARKUP in page.texts
    assert "<img src=x onerror=alert(1)>" in page.texts  # the folder's name
    assert "<b>x</b> [m]" in page.texts


def test_the_page_shows_frames_and_every_channel(tmp_path: Path) -> None:
    folder = foreign.write(tmp_path / "foreign")
    write_page(open_dataset(folder), tmp_path / "page.html", [0, 1])
    page = Tags((tmp_path / "page.html").read_text())
    assert page.tags.count("article") == 2
    assert page.tags.count("img") == 4 + 3  # every frame: there are few
    assert page.tags.count("polyline") == 2 * (3 + 2)  # state and action
    assert {"open the drawer", "close it"} <= set(page.texts)


def test_an_episode_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no episode 2; it has 2"):
        write_page(open_dataset(foreign.write(tmp_path / "foreign")), tmp_path / "page.html", [2])


def test_info_tells_what_the_dataset_holds(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "toy", EMBODIMENT) as writer:
        writer.add_episode(episode(0, 3))
        writer.add_episode(episode(0, 5, instruction="push\x1b[2J", success="failure"))
    about = json.loads(json.dumps(describe(open_dataset(tmp_path / "toy"))))
    assert (about["format"], about["episodes"], about["frames"], about["fps"]) == ("LeRobotDataset v3.0", 2, 8, 10.0)
    assert about["cameras"] == {"front": {"height": 12, "width": 16}, "wrist": {"height": 8, "width": 8}}
    assert about["instructions"] == {"pick the can": 1, "push\x1b[2J": 1}
    assert about["success"] == {"success": 1, "failure": 1}
    assert about["embodiment"]["name"] == "toy"
    assert about["splits"] == {"train": {"first": 0, "episodes": 2}}
    assert about["constant_columns"] == ["observation.state[0] x"]
    text = describe_text(about)
    assert "push?[2J" in text
    assert "\x1b" not in text


def test_info_of_real_rlds_data(fixtures: Path) -> None:
    about = describe(open_dataset(fixtures / "bridge-rlds-train" / "bridge_dataset"))
    assert (about["episodes"], about["embodiment"], about["fps"]) == (18, None, None)
    assert sum(about["instructions"].values()) == 18
    assert json.dumps(about)
    assert "not stated" in describe_text(about)
