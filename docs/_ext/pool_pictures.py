"""A Sphinx extension: pictures and tables of runs that are made during the build.

```` ```{pool-picture} life ```` draws the run of that name,
```` ```{pool-table} sizes ```` shows its numbers, and
```` ```{terminal-picture} status ```` what a command prints on a terminal. A run is
made once for each build, when a page that needs it is read. On other builders than HTML
the alternative text stands in place of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from pool_charts import PICTURES, TABLES, Lost
from terminal_runs import TERMINALS


class picture(nodes.General, nodes.Element):  # type: ignore[misc] # no types there
    """A picture, with its SVG element and its alternative text."""


class PoolPicture(Directive):  # type: ignore[misc] # docutils ships no types
    """Draw the run that is named."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the picture, or report why there is none."""
        name = self.arguments[0]
        try:
            return self.made(name)
        except (KeyError, Lost) as error:
            what = "no such run" if isinstance(error, KeyError) else str(error)
            raise self.warning(f"{name}: {what}") from None

    def made(self, name: str) -> list[nodes.Node]:
        """Return the nodes of a run."""
        chart = PICTURES[name]()
        return [picture("", svg=chart.svg(), alt=chart.alt)]


class TerminalPicture(PoolPicture):
    """Show what the command that is named prints on a terminal."""

    def made(self, name: str) -> list[nodes.Node]:
        """Return the nodes of its output."""
        terminal = TERMINALS[name]()
        return [picture("", svg=terminal.svg(), alt=terminal.alt)]


class PoolTable(PoolPicture):
    """Show the numbers of the run that is named."""

    def made(self, name: str) -> list[nodes.Node]:
        """Return the table."""
        head, *rows = TABLES[name]()
        table, body = nodes.table(), nodes.tbody()
        group = nodes.tgroup(cols=len(head))
        group += [nodes.colspec(colwidth=1) for _ in head]
        group += [nodes.thead("", _row(head)), body]
        body += [_row(each) for each in rows]
        table += group
        return [table]


def _row(cells: Sequence[str]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        plain = cell.strip("`")
        text = nodes.literal(plain, plain) if plain != cell else nodes.Text(cell)
        row += nodes.entry("", nodes.paragraph("", "", text))
    return row


def _write_html(writer: Any, node: picture) -> None:
    writer.body.append(node["svg"])
    raise nodes.SkipNode


def _say_in_words(app: Any, doctree: Any, docname: str) -> None:
    """Put the alternative text in a picture's place, unless the pages are HTML."""
    if app.builder.format != "html":
        for each in list(doctree.findall(picture)):
            each.replace_self(nodes.paragraph("", each["alt"]))


def setup(app: Any) -> dict[str, Any]:
    """Add the directives and their colours."""
    app.add_node(picture, html=(_write_html, None))
    app.add_directive("pool-picture", PoolPicture)
    app.add_directive("pool-table", PoolTable)
    app.add_directive("terminal-picture", TerminalPicture)
    app.connect("doctree-resolved", _say_in_words)
    app.connect(
        "builder-inited",
        lambda app: app.config.html_static_path.append(
            str(Path(__file__).with_name("static"))
        ),
    )
    app.add_css_file("pictures.css")
    app.add_css_file("terminal.css")
    # A run in several processes at once would measure those.
    return {"parallel_read_safe": False, "parallel_write_safe": True}
