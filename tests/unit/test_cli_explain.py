"""`flask pool explain`: what is found, and how it is printed."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from flask import Flask

from flask_poolguard import PoolGuard
from flask_poolguard.cli import explanations, make_group
from flask_poolguard.cli.explain_view import plain, render_section
from flask_poolguard.cli.explanations import Section
from flask_poolguard.databases import mysql_errors, postgresql_errors
from flask_poolguard.report.text import Page

ROOT = Path(__file__).parents[2]
SECTIONS = explanations.read_sections()
FINDINGS = [each for each in SECTIONS if each.code]
ERRORS = [each for each in SECTIONS if not each.code]
PAGE = Page(80, break_words=False)
SECRET = "s3cret-Tr0ub4dor"


def explain(*words: str) -> Result:
    return CliRunner().invoke(make_group("pool"), ["explain", *words])


def found(text: str) -> str:
    """Return the name of what a text means."""
    sections = explanations.find(text, SECTIONS).sections
    return sections[0].name if sections else ""


class TestThePages:
    @pytest.mark.parametrize("name", ["findings.md", "errors.md"])
    def test_are_those_of_the_docs(self, name: str) -> None:
        packaged = resources.files("flask_poolguard.cli").joinpath(name)
        assert packaged.read_text("utf-8") == (ROOT / "docs" / name).read_text("utf-8")

    def test_are_read_whole(self) -> None:
        headings = [
            heading
            for name in ("findings.md", "errors.md")
            for heading in re.findall(
                r"^## (.*)$", (ROOT / "docs" / name).read_text("utf-8"), re.M
            )
        ]
        assert [each.title for each in SECTIONS] == headings


class TestFinding:
    @pytest.mark.parametrize("code", [each.code for each in FINDINGS])
    def test_by_its_code(self, code: str) -> None:
        """In any case, and with spaces for dashes."""
        for text in (code, code.upper(), code.replace("-", " "), f"`{code}`"):
            assert found(text) == code

    @pytest.mark.parametrize(
        "text",
        [
            "WARNING budget",
            "see: flask pool explain budget",
            "see: flask db-pool explain budget",
            "  CRITICAL budget:",
        ],
    )
    def test_by_a_line_of_another_command(self, text: str) -> None:
        assert found(text) == "budget"

    def test_by_the_leaks_line_in_the_log(self) -> None:
        line = "faults.leak did not give back a connection of bind 'reports' that it"
        assert found(f"{line} took at example_app/faults.py:40 0.003 s ago") == "leak"


class TestError:
    @pytest.mark.parametrize("section", ERRORS, ids=lambda each: each.name)
    def test_by_its_heading(self, section: Section) -> None:
        """By each of its texts, also in another case and within a longer line."""
        for text in re.findall(r"`([^`]+)`", section.title):
            for asked in (text, text.upper(), f"OperationalError: {text} in shop"):
                assert section in explanations.find(asked, SECTIONS).sections

    @pytest.mark.parametrize("section", ERRORS, ids=lambda each: each.name)
    def test_by_its_anchor(self, section: Section) -> None:
        """As a link to it ends."""
        asked = f"See docs/errors.md#{section.anchor[1]}"
        assert explanations.find(asked, SECTIONS).sections == (section,)

    @pytest.mark.parametrize(
        "code",
        sorted(  # the same order in each process
            {
                *(mysql_errors._AWAY | mysql_errors._FULL),
                *(mysql_errors._LOGIN_REFUSED | mysql_errors._LOST),
                *mysql_errors._READ_ONLY,
                *(postgresql_errors._AWAY | postgresql_errors._FULL),
                *(postgresql_errors._LOGIN_REFUSED | postgresql_errors._LOST),
                postgresql_errors._READ_ONLY,
            },
            key=str,
        ),
    )
    def test_by_each_code_that_the_guard_knows(self, code: int | str) -> None:
        """Of one section only, so that the number alone is enough."""
        assert sum(str(code) in each.codes for each in SECTIONS) == 1
        assert str(code) in explanations.find(str(code), SECTIONS).sections[0].codes
        assert found(f"ERROR {code} (HY000): nichts geht mehr") == found(str(code))

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("57p01", "(2013, 'Lost connection to MySQL server during query')"),
            ("gone away", "(2006, 'MySQL server has gone away')"),
            (
                "2026-11-23 05:25:38 ERROR [app] (1040, 'Too many connections')",
                "(1040, 'Too many connections')",
            ),
            (
                "FATAL:  sorry, too many clients already",
                "FATAL: remaining connection slots are reserved",
            ),
            (
                "QueuePool limit of size 2 overflow 0 reached, connection timed out,"
                " timeout 30.00; the server says: idle in transaction",
                "QueuePool limit of size 5 overflow 10 reached, connection timed out",
            ),
            (
                'connection to server at "10.0.0.1", port 5432 failed: FATAL:  password'
                ' authentication failed for user "shop"',
                "(1045, 'Access denied for user')",
            ),
            (
                "{'S': 'FATAL', 'C': '28P01', 'M': 'Passwort-Authentifizierung'}",
                "(1045, 'Access denied for user')",
            ),
            (
                "Packet sequence number wrong - got 1 expected 2",
                "Packet sequence number wrong",
            ),
        ],
    )
    def test_by_what_a_log_has(self, text: str, name: str) -> None:
        assert found(text) == name

    def test_that_several_sections_have_names_the_others(self) -> None:
        done = explain("server", "closed", "the", "connection", "unexpectedly")
        assert done.exit_code == 0
        assert done.output.startswith("(2013, 'Lost connection")
        assert "It may also be: SSL connection has been closed" in done.output


class TestNothingFound:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "%",
            "%s %(x)s {0} {",
            "\x1b[2J",
            "'",
            "🐍",
            "1205",
            "the",
            "x" * 10_000,
            "ab " * 3_300,
            "2006" * 2_500,
        ],
    )
    def test_ends_with_2(self, text: str) -> None:
        done = explain(text)
        assert done.exit_code == 2
        assert "'flask pool explain' lists all" in done.output
        assert len(done.output) < 400

    @pytest.mark.parametrize(
        ("text", "near"),
        [
            ("saturatd", "saturated"),
            ("pool to small", "pool-too-small"),
            ("2060", "2006"),
        ],
    )
    def test_names_what_is_near(self, text: str, near: str) -> None:
        assert near in explain(*text.split()).output.partition("Nearest: ")[2]

    def test_that_many_sections_have_a_word_is_no_answer(self) -> None:
        done = explain("connection")
        assert done.exit_code == 2
        assert "Nearest: " in done.output

    @pytest.mark.parametrize(
        "text",
        [
            f"mysql+pymysql://shop:{SECRET}@db/shop",
            f"--password={SECRET}",
            f"(2006, 'gone') mysql+pymysql://shop:{SECRET}@db/shop",
            f"postgresql://shop:{SECRET}@db password authentication failed",
        ],
    )
    def test_a_password_is_never_repeated(self, text: str) -> None:
        for words in ([text], text.split()):
            done = explain(*words)
            assert SECRET not in done.output
            assert done.exit_code == (0 if " " in text else 2)


class TestOutput:
    @pytest.mark.parametrize("section", SECTIONS, ids=lambda each: each.name)
    def test_is_plain_text_of_eighty_columns(self, section: Section) -> None:
        text = click.unstyle(render_section(section, [], Page(200, break_words=False)))
        assert max(map(len, text.splitlines())) <= 80
        # No mark-up is left outside of code, and no word is lost.
        prose = re.sub(r"`[^`]*`", "", text)
        assert re.findall(r"\]\(|\*\*|\{class\}|\[`|^\||```", prose, re.M) == []
        words = set(
            re.findall(r"[A-Za-z]{4,}", re.sub(r"\]\([^)]*\)", "]", section.body))
        )
        missing = words - set(re.findall(r"[A-Za-z]{4,}", text))
        assert missing <= {"class", "flask", "poolguard", "text", "python", "what"}

    def test_list_has_a_line_for_every_finding_and_all_errors(self) -> None:
        done = explain()
        lines = done.output.splitlines()
        assert done.exit_code == 0
        assert max(map(len, lines)) <= 80
        for each in FINDINGS:
            (line,) = [line for line in lines if line.split()[:1] == [each.code]]
            assert len(line.split()) > 3
        flat = " ".join(done.output.split())
        assert all(each.name in flat for each in ERRORS)

    @pytest.mark.parametrize(
        ("markdown", "text"),
        [
            ("see [`full`](#full) and\n[it](a.md#b)", "see `full` and it"),
            ("a {class}`~flask_poolguard.PoolTimeout`", "a PoolTimeout"),
            ("*It is `a * b`*, **not** `**c**`", "It is `a * b`, not `**c**`"),
            ("2 * 3 * 4", "2 * 3 * 4"),
        ],
    )
    def test_mark_up_is_reduced_to_its_text(self, markdown: str, text: str) -> None:
        assert plain(markdown) == text

    def test_code_keeps_its_lines_and_tables_become_lists(self) -> None:
        body = (
            "```python\nif a:\n\n    b()\n```\n\n| x | y |\n|---|---|\n| 1 | **2** |\n"
        )
        text = render_section(Section("made", "`made`", body), [], PAGE)
        assert click.unstyle(text) == "made\n\n    if a:\n\n        b()\n\n1\n  y: 2"


class TestTheCommand:
    def test_runs_within_the_app_and_uses_its_name_for_the_group(self) -> None:
        app = Flask("shop")
        app.config["POOLGUARD_CLI_GROUP"] = "db-pool"
        PoolGuard(app)
        runner = app.test_cli_runner()
        done = runner.invoke(args=["db-pool", "explain", "57P01"])
        assert (done.exit_code, "57P01" in done.output) == (0, True)
        done = runner.invoke(args=["db-pool", "explain", "nosuch"])
        assert (done.exit_code, "'flask db-pool explain'" in done.output) == (2, True)

    def test_asks_for_no_app(self) -> None:
        assert explain("budget").output.startswith("budget\n\nThe workers' pools may")
