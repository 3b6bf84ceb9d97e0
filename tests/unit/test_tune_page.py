"""The diagram, the HTML page that holds it, and their files."""

from __future__ import annotations

import dataclasses
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.container import Container
from matplotlib.lines import Line2D
from PIL import Image

from flask_poolguard.tune import diagram
from flask_poolguard.tune.failures import TuneError
from flask_poolguard.tune.html_page import render
from flask_poolguard.tune.new_file import NewFile
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
        assert "2 processes of 48 threads" in text

    def test_tells_a_least_size_from_one_that_is_enough(self) -> None:
        outcome = an_outcome(lambda n: 1000 * n)
        assert outcome.choice is not None
        page = page_of(outcome)
        text = " ".join(read(page).text.split())
        assert f"≥ {outcome.choice.size}" in text
        assert f"It takes pool_size {outcome.choice.size} or more" in text
        assert "95% range" not in text
        assert "enough" not in page

    def test_asks_for_nothing_else(self) -> None:
        page = page_of(an_outcome())
        tags = read(page).tags
        assert {"script", "link", "img", "iframe", "object"}.isdisjoint(
            tag for tag, _ in tags
        )
        attributes = [pair for _, each in tags for pair in each.items()]
        assert {"src", "href"}.isdisjoint(name for name, _ in attributes)
        # Parts of the diagram refer to others.
        links = [value for name, value in attributes if name == "xlink:href"]
        assert all(link is not None and link[0] == "#" for link in links)
        assert not re.search(r"url\((?!#)|@import", page)
        # A namespace is a name and not loaded.
        assert not re.search(r"https?:", re.sub(r'xmlns(:\w+)?="[^"]*"', "", page))

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


def svg(outcome: Outcome) -> str:
    assert outcome.choice is not None
    return diagram.svg(outcome, outcome.choice)


def lines(outcome: Outcome, part: int) -> dict[str, list[tuple[float, float]]]:
    """Return the points of what is drawn in one part, by its name in the legend."""
    assert outcome.choice is not None
    axes = diagram.figure(outcome, outcome.choice).axes[part]
    found = {}
    for drawn, name in zip(*axes.get_legend_handles_labels(), strict=True):
        line = drawn[0] if isinstance(drawn, Container) else drawn
        assert isinstance(line, Line2D)
        points = np.asarray(line.get_xydata(), float).tolist()
        found[str(name)] = [(x, y) for x, y in points]
    return found


class TestDiagram:
    def test_names_units_sizes_and_the_chosen_size(self) -> None:
        outcome = an_outcome(lambda n: min(n, 8) * 100.0)  # a knee at 4 × 2
        text = read(svg(outcome)).text
        assert "requests per second, all processes" in text
        assert "latency, milliseconds" in text
        assert "pool_size of each process (logarithmic)" in text
        assert "pool_size 4 (95% range)" in text
        assert "24" in text.split()

    def test_has_a_dot_for_each_size_in_each_series(self) -> None:
        outcome = an_outcome()
        sizes = [each.size for each in outcome.sizes]
        throughput = lines(outcome, 0)["mean of all rounds, lowest to highest"]
        assert throughput == [(each.size, each.per_second) for each in outcome.sizes]
        for name in ("95th percentile", "median"):
            assert [x for x, _ in lines(outcome, 1)[name]] == sizes

    def test_draws_the_law_through_dots_that_follow_it(self) -> None:
        outcome = an_outcome()
        law = lines(outcome, 0)["scalability law"]
        for each in outcome.sizes:
            _, nearest = min(law, key=lambda point: abs(point[0] - each.size))
            assert nearest == pytest.approx(each.per_second, rel=0.02)

    def test_marks_the_chosen_size_in_both_parts(self) -> None:
        outcome = an_outcome(lambda n: min(n, 8) * 100.0)  # a knee at 4 × 2
        for part in (0, 1):
            mark = lines(outcome, part)["pool_size 4 (95% range)"]
            assert [x for x, _ in mark] == [4, 4]

    def test_is_the_same_each_time(self) -> None:
        assert svg(an_outcome()) == svg(an_outcome())

    def test_leaves_matplotlib_as_the_app_has_set_it(self) -> None:
        mpl.rcParams["svg.hashsalt"] = "of the app"
        try:
            svg(an_outcome())
            assert mpl.rcParams["svg.hashsalt"] == "of the app"
        finally:
            mpl.rcdefaults()

    def test_has_no_colour_that_the_page_does_not_set(self) -> None:
        assert not re.search(r"(fill|stroke): #", svg(an_outcome()))

    def test_without_a_range_marks_none(self) -> None:
        assert "95% range" not in svg(an_outcome(rounds=1))

    def test_of_sizes_without_any_answer_can_be_drawn(self) -> None:
        outcome = an_outcome(
            steps=lambda step: dataclasses.replace(
                step, latencies=step.latencies if step.size > 1 else {}
            )
        )
        assert outcome.sizes[0].p95_seconds is None
        assert "pool_size" in svg(outcome)

    def test_is_a_picture_too(self) -> None:
        outcome = an_outcome()
        assert outcome.choice is not None
        picture = diagram.png(outcome, outcome.choice)
        assert picture.startswith(b"\x89PNG")
        with Image.open(io.BytesIO(picture)) as image:
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


class TestFile:
    def test_is_written_whole_and_readable_by_those_who_may(
        self, tmp_path: Path
    ) -> None:
        before = os.umask(0o022)
        try:
            NewFile(str(tmp_path / "tune.html"), replace=False).write(b"page")
        finally:
            os.umask(before)
        assert (tmp_path / "tune.html").read_bytes() == b"page"
        assert (tmp_path / "tune.html").stat().st_mode & 0o777 == 0o644
        assert [each.name for each in tmp_path.glob("tune*")] == ["tune.html"]

    def test_is_not_replaced(self, tmp_path: Path) -> None:
        file = tmp_path / "tune.html"
        file.write_text("mine")
        with pytest.raises(TuneError, match=r"is there already; --force"):
            NewFile(str(file), replace=False)
        assert file.read_text() == "mine"

    def test_is_replaced_if_that_is_wanted(self, tmp_path: Path) -> None:
        file = tmp_path / "tune.html"
        file.write_text("mine")
        NewFile(str(file), replace=True).write(b"page")
        assert file.read_bytes() == b"page"

    def test_that_appears_meanwhile_is_not_replaced(self, tmp_path: Path) -> None:
        file = tmp_path / "tune.html"
        new = NewFile(str(file), replace=False)
        file.write_text("mine")
        with pytest.raises(TuneError, match="is there already"):
            new.write(b"page")
        assert file.read_text() == "mine"
        assert [each.name for each in tmp_path.glob("tune*")] == ["tune.html"]

    def test_in_no_folder_is_refused_before_anything_is_measured(
        self, tmp_path: Path
    ) -> None:
        with pytest.raises(TuneError, match="there is no folder"):
            NewFile(str(tmp_path / "none" / "tune.html"), replace=False)
