"""The pictures of runs: their elements, and that the pages show each of them."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import click
import pytest

from flask_poolguard.cli import findings_view, marks
from tests.support.app_server import REPOSITORY

DOCS = REPOSITORY / "docs"
EXTENSION = DOCS / "_ext"
SHOWN = re.compile(
    r"^```\{(pool-picture|pool-table|terminal-picture)\} ([\w-]+)$", re.M
)


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    """Import what draws, and what Sphinx calls, as Sphinx does."""
    pytest.importorskip("docutils", reason="it is in the dependency group docs")
    monkeypatch.syspath_prepend(EXTENSION)
    import pool_pictures
    import svg_chart

    yield svg_chart, pool_pictures
    for each in EXTENSION.glob("*.py"):
        sys.modules.pop(each.stem, None)


def drawn(svg_chart: ModuleType) -> ElementTree.Element:
    """Return a chart with everything that one can have."""
    chart = svg_chart.Chart(
        'Two lines, "a" & b.', across="s", upward="n", x=(1, 10), y=(0, 4), log_x=True
    )
    chart.ticks((1, 10), (0, 4))
    chart.names(("low", "high"))
    chart.level(2, "half")
    chart.mark(5, 1, "here")
    points = [(1.0, 0.0), (2.0, 4.0), (10.0, 9.0)]
    chart.line("first", "line", points)
    chart.curve("second", "curve", points)
    chart.steps("third", "steps", points)
    chart.dots("fourth", "dots", points)
    chart.bars("first", "bars", [(0, 1, 2)])
    return ElementTree.fromstring(chart.svg())  # noqa: S314 (made here)


class TestElement:
    def test_has_an_alternative_text(
        self, modules: tuple[ModuleType, ModuleType]
    ) -> None:
        element = drawn(modules[0])
        assert element.get("role") == "img"
        assert element.get("aria-label") == 'Two lines, "a" & b.'

    def test_is_coloured_by_classes_that_the_style_sheet_knows(
        self, modules: tuple[ModuleType, ModuleType]
    ) -> None:
        """So that it can be read on a light and on a dark page."""
        style = (EXTENSION / "static" / "pictures.css").read_text()
        known = set(re.findall(r"\.(\w+)", style))
        used = {
            name
            for each in drawn(modules[0]).iter()
            for name in (each.get("class") or "").split()
        }
        assert used - {"pool-picture"} <= known
        assert not {"fill", "stroke"} & {
            name for each in drawn(modules[0]).iter() for name in each.attrib
        }
        themes = re.findall(r"^ *--picture-(\w+)", style, re.M)
        assert [themes.count(each) for each in sorted(set(themes))] == [3] * 4

    def test_stays_within_its_frame(
        self, modules: tuple[ModuleType, ModuleType]
    ) -> None:
        """A value beyond the axis is drawn at its end."""
        svg_chart, _ = modules
        for each in drawn(svg_chart).iter():
            numbers = re.findall(r"V([\d.]+)", each.get("d") or "")
            for height in map(float, numbers):
                assert svg_chart.TOP <= height <= svg_chart.HEIGHT


class TestPages:
    def test_show_every_run_and_no_other(
        self, modules: tuple[ModuleType, ModuleType]
    ) -> None:
        shown: dict[str, set[str]] = defaultdict(set)
        for page in DOCS.rglob("*.md"):
            for kind, name in SHOWN.findall(page.read_text()):
                shown[kind].add(name)
        _, pool_pictures = modules
        assert shown["pool-picture"] == set(pool_pictures.PICTURES)
        assert shown["pool-table"] == set(pool_pictures.TABLES)
        assert shown["terminal-picture"] == set(pool_pictures.TERMINALS)


class TestRuns:
    def test_a_deadlock_ends_with_one_error(
        self, modules: tuple[ModuleType, ModuleType]
    ) -> None:
        """The other request goes on."""
        import pool_runs

        kinds = sorted(each.kind for each in pool_runs.deadlock(guarded=True))
        assert kinds == ["error", "waits", "waits", "works"]


@pytest.mark.usefixtures("modules")
class TestTerminals:
    OUTPUT = (
        "\x1b[?25l\x1b[31m\x1b[1mBAD\x1b[0m  a < b & c\r\n\r\n"
        "  \x1b[33m2/2\x1b[0m end\x1b[2K\r\n"
    )

    def shown(self) -> ElementTree.Element:
        import svg_terminal

        terminal = svg_terminal.Terminal('"x" in a terminal', "x --all", self.OUTPUT)
        svg = terminal.svg()
        assert "\x1b" not in svg
        return ElementTree.fromstring(svg)  # noqa: S314 (made here)

    def test_an_output_is_text_with_its_colours_as_classes(self) -> None:
        lines = [each for each in self.shown().iter() if each.tag.endswith("text")]
        assert ["".join(each.itertext()) for each in lines] == [
            "$ x --all",
            "BAD  a < b & c",
            "  2/2 end",
        ]
        parts = [(each.get("class"), each.text) for line in lines[1:] for each in line]
        assert parts == [("red bold", "BAD"), ("yellow", "2/2")]

    def test_it_has_an_alternative_text(self) -> None:
        element = self.shown()
        assert element.get("role") == "img"
        assert element.get("aria-label") == '"x" in a terminal'

    def test_the_style_sheet_has_every_colour_of_the_commands(self) -> None:
        import svg_terminal

        style = (EXTENSION / "static" / "terminal.css").read_text()
        for colour in {*findings_view.COLOURS.values(), marks.BAD, marks.UNUSUAL}:
            [[(kinds, _), *_]] = svg_terminal.lines_of(click.style("x", fg=colour))
            assert kinds == colour
            assert f".terminal-picture .{colour} {{" in style
            assert style.count(f"  --terminal-{colour}: ") == 3  # light, and dark twice

    def test_a_command_that_prints_nothing_is_no_picture(self, tmp_path: Path) -> None:
        import terminal_runs
        from pool_charts import Lost

        with pytest.raises(Lost, match="No such command 'nothing'"):
            terminal_runs.printed("flask --app cafe pool nothing", tmp_path)

    def test_a_command_is_run_on_a_terminal(self, tmp_path: Path) -> None:
        import terminal_runs

        output = terminal_runs.printed(terminal_runs.STATUS, tmp_path)
        assert output.startswith("\x1b[35m\x1b[1mUNKNOWN\x1b[0m")
        assert "no live worker on host web1" in output
