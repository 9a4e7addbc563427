import re
from html.parser import HTMLParser

import pytest

from ideomotor.evaluate.page import Clip, Paragraph, Picture, Section, Table, render, write_report
from ideomotor.evaluate.plots import Rate, bar_plot, histogram, rate_plot
from ideomotor.evaluate.statistics import Interval

EVIL = "</p><script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg/onload=alert(3)> &amp;"


class Tags(HTMLParser):
    """Collects the tags, the attributes and the text that a browser would see."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "img", "line", "rect", "circle"}:
            self.open.append(tag)

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def parse(page):
    tags = Tags()
    self_closing = re.sub(r"<(line|rect|circle)([^>]*)/>", r"<\1\2>", page)
    tags.feed(self_closing)
    assert not tags.open
    return tags


EVERY_PART = (
    Paragraph(EVIL),
    Table((EVIL,), ((EVIL,),)),
    Clip(b"mp4", EVIL, "failure", EVIL),
    Picture(b"png", EVIL),
    Picture(b"png", EVIL, wide=True),
    rate_plot([Rate(EVIL[:20], 0.5, Interval(0.2, 0.8))], EVIL),
    bar_plot([(EVIL[:20], 3), ("none", 0)], EVIL),
    histogram([(EVIL[:20], [1, 2, 2]), ("b", [])], "steps", EVIL),
)


def test_markup_in_any_text_stays_text():
    page = render(EVIL, [Section(EVIL, EVERY_PART)])
    tags = parse(page)
    assert not {"script", "iframe", "object"} & set(tags.tags)
    assert tags.tags.count("img") == 2  # the pictures alone
    assert tags.tags.count("svg") == 3
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    assert tags.text.count(EVIL) >= 7


@pytest.mark.parametrize("tag", ["success", "none"])
def test_page_loads_nothing_from_elsewhere(tag):
    page = render("title", [Section("", (Clip(b"mp4", "go", tag), Picture(b"png", "look")))])
    sources = [value for name, value in parse(page).attributes if name in {"src", "href"}]
    assert sources == ["data:video/mp4;base64,bXA0", "data:image/png;base64,cG5n"]
    assert "default-src 'none'" in page


def test_tiles_share_a_grid_and_wide_parts_stand_alone():
    page = render("t", [Section("s", (Picture(b"", "1"), Clip(b"", "2"), Paragraph("3"), Picture(b"", "4")))])
    assert page.count('<div class="grid">') == 2
    parse(page)


def test_unpaired_surrogates_do_not_stop_a_report(tmp_path):
    write_report(tmp_path / "report.html", "a\udc80b", [])
    assert "a?b" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_points_and_whiskers_stand_where_the_numbers_say():
    svg = rate_plot([Rate("pick", 0.5, Interval(0.25, 1.0))], "alt").svg
    left, right = 200, 640 - 110  # the axis from 0 to 100 %
    x = lambda share: left + share * (right - left)
    assert f'cx="{x(0.5):.1f}"' in svg
    assert f'x1="{x(0.25):.1f}" x2="{x(1.0):.1f}"' in svg


def test_histogram_counts_every_value_once():
    svg = histogram([("all", [0, 1, 50, 99, 100, 100])], "steps", "alt").svg
    heights = [float(h) for h in re.findall(r'height="([\d.]+)"/>', svg) if float(h) != 11.0]
    assert len(heights) == 3  # the bins of 0-1, 50 and 95-100
    assert sorted(h / min(heights) for h in heights) == pytest.approx([1.0, 2.0, 3.0], rel=0.02)
