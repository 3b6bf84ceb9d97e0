"""The HTML page: whole, harmless, in need of nothing else."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flask_poolguard.tune.failures import TuneError
from flask_poolguard.tune.html_page import PageFile, render
from flask_poolguard.tune.outcome import Outcome
from flask_poolguard.tune.work import Work
from tests.support.tuning import a_plan, an_outcome

VOID = {"meta"}


class Reader(HTMLParser):
    """Reads a page; every tag must be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(outcome: Outcome) -> str:
    assert outcome.choice is not None
    return render(outcome, outcome.choice)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


class TestPage:
    def test_tells_what_the_terminal_tells(self) -> None:
        outcome = an_outcome()
        assert outcome.choice is not None
        text = " ".join(read(page_of(outcome)).text.split())
        assert f"pool_size {outcome.choice.size} is enough" in text
        assert f"POOLGUARD_POOL_SIZE = {outcome.choice.size}" in text
        assert "GET /search?q=tea 75%" in text
        assert "2 × 48 threads" in text

    def test_tells_a_least_size_from_one_that_is_enough(self) -> None:
        outcome = an_outcome(lambda n: 1000 * n)
        assert outcome.choice is not None
        page = page_of(outcome)
        text = " ".join(read(page).text.split())
        assert f"≥ {outcome.choice.size}" in text
        assert f"It takes pool_size {outcome.choice.size} or more" in text
        assert "the least that it takes (95% range)" in text
        assert "enough" not in page

    def test_asks_for_nothing_else(self) -> None:
        page = page_of(an_outcome())
        tags = read(page).tags
        assert {"script", "link", "img", "iframe", "object"}.isdisjoint(
            tag for tag, _ in tags
        )
        names = {name for _, attributes in tags for name in attributes}
        assert names.isdisjoint({"src", "href", "style"})
        assert not re.search(r"url\(|@import|https?:", page)

    def test_what_comes_from_outside_is_text_only(self) -> None:
        evil = "</code></svg><script>alert(1)</script>"
        plan = a_plan(
            app=evil,
            bind=f'"{evil}',
            url=evil,
            server=evil,
            works=(Work("sql", f"SELECT '{evil}'"),),
            limit=evil,
        )
        reader = read(page_of(an_outcome(lambda n: 1000.0 * n, plan=plan)))
        assert "script" not in {tag for tag, _ in reader.tags}
        assert reader.text.count(evil) >= 5

    def test_has_a_style_for_dark_screens(self) -> None:
        assert "prefers-color-scheme: dark" in page_of(an_outcome())

    def test_every_colour_that_is_used_is_there_on_both_kinds_of_screen(self) -> None:
        page = page_of(an_outcome())
        light, dark = re.findall(r":root \{(.*?)\}", page, re.DOTALL)
        used = set(re.findall(r"var\((--\w+)\)", page))
        for style in (light, dark):
            assert used == set(re.findall(r"(--\w+):", style))


class TestDiagrams:
    def test_have_a_dot_for_each_size_within_the_picture(self) -> None:
        throughput, latencies = diagrams(an_outcome())
        assert len(dots(throughput, "rate")) == 9
        assert len(dots(latencies, "p95")) == len(dots(latencies, "p50")) == 9
        for picture in (throughput, latencies):
            _, _, width, height = map(int, picture.attrib["viewBox"].split())
            for dot in picture.iter("circle"):
                assert 0 < float(dot.attrib["cx"]) < width
                assert 0 < float(dot.attrib["cy"]) < height

    def test_the_dots_of_larger_sizes_are_further_right(self) -> None:
        throughput, _ = diagrams(an_outcome())
        places = [float(dot.attrib["cx"]) for dot in dots(throughput, "rate")]
        assert places == sorted(set(places))

    def test_have_the_units_on_their_axes(self) -> None:
        throughput, latencies = diagrams(an_outcome())
        assert "requests per second" in texts(throughput)
        assert "milliseconds" in texts(latencies)
        for picture in (throughput, latencies):
            assert "pool_size of each process (logarithmic)" in texts(picture)

    def test_mark_the_chosen_size_where_its_dot_is(self) -> None:
        outcome = an_outcome(lambda n: min(n, 8) * 100.0)  # a knee at 4 × 2
        throughput, _ = diagrams(outcome)
        (mark,) = [e for e in throughput.iter("line") if e.get("class") == "chosen"]
        dot = dots(throughput, "rate")[3]
        assert mark.attrib["x1"] == dot.attrib["cx"]
        assert "pool_size 4" in texts(throughput)

    def test_draw_the_law_through_dots_that_follow_it(self) -> None:
        throughput, _ = diagrams(an_outcome())
        (law,) = [e for e in throughput.iter("polyline") if e.get("class") == "law"]
        points = law.attrib["points"].split()
        curve = [tuple(map(float, point.split(","))) for point in points]
        for dot in dots(throughput, "rate"):
            x, y = float(dot.attrib["cx"]), float(dot.attrib["cy"])
            nearest = min(curve, key=lambda point: abs(point[0] - x))
            assert abs(nearest[1] - y) < 4

    def test_without_a_range_draw_none(self) -> None:
        throughput, _ = diagrams(an_outcome(rounds=1))
        assert list(throughput.iter("rect")) == []


class TestFile:
    def test_is_written_whole_and_readable_by_those_who_may(
        self, tmp_path: Path
    ) -> None:
        before = os.umask(0o022)
        try:
            write(tmp_path / "tune.html")
        finally:
            os.umask(before)
        assert (tmp_path / "tune.html").read_text() == page_of(an_outcome())
        assert (tmp_path / "tune.html").stat().st_mode & 0o777 == 0o644
        assert [each.name for each in tmp_path.glob("tune*")] == ["tune.html"]

    def test_is_not_replaced(self, tmp_path: Path) -> None:
        file = tmp_path / "tune.html"
        file.write_text("mine")
        with pytest.raises(TuneError, match=r"is there already; --force"):
            PageFile(str(file), replace=False)
        assert file.read_text() == "mine"

    def test_is_replaced_if_that_is_wanted(self, tmp_path: Path) -> None:
        file = tmp_path / "tune.html"
        file.write_text("mine")
        write(file, replace=True)
        assert file.read_text().startswith("<!DOCTYPE html>")

    def test_that_appears_meanwhile_is_not_replaced(self, tmp_path: Path) -> None:
        file = tmp_path / "tune.html"
        page = PageFile(str(file), replace=False)
        file.write_text("mine")
        outcome = an_outcome()
        assert outcome.choice is not None
        with pytest.raises(TuneError, match="is there already"):
            page.write(outcome, outcome.choice)
        assert file.read_text() == "mine"
        assert [each.name for each in tmp_path.glob("tune*")] == ["tune.html"]

    def test_in_no_folder_is_refused_before_anything_is_measured(
        self, tmp_path: Path
    ) -> None:
        with pytest.raises(TuneError, match="there is no folder"):
            PageFile(str(tmp_path / "none" / "tune.html"), replace=False)


def write(file: Path, *, replace: bool = False) -> None:
    outcome = an_outcome()
    assert outcome.choice is not None
    PageFile(str(file), replace=replace).write(outcome, outcome.choice)


def diagrams(outcome: Outcome) -> list[ET.Element]:
    """Return both diagrams, which must be well-formed XML."""
    found = re.findall(r"<svg.*?</svg>", page_of(outcome), re.DOTALL)
    assert len(found) == 2
    return [ET.fromstring(each) for each in found]  # noqa: S314 (made by us just now)


def dots(picture: ET.Element, name: str) -> list[ET.Element]:
    return [e for e in picture.iter("circle") if e.get("class") == f"dot {name}"]


def texts(picture: ET.Element) -> str:
    return " ".join(e.text or "" for e in picture.iter("text"))
