"""The docs say what the code does."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click import Context

from flask_poolguard.cli import COMMANDS, explanations, make_group
from flask_poolguard.databases import Loss
from flask_poolguard.error_notes import (
    First,
    Lost,
    Room,
    explain_away,
    explain_full,
    explain_login,
    explain_loss,
    explain_pending,
    explain_timeout,
)
from flask_poolguard.options import OPTIONS, Option
from flask_poolguard.pool import GuardedPool

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
SETTINGS = (ROOT / "docs" / "settings.md").read_text()
ERRORS = (ROOT / "docs" / "errors.md").read_text()


def anchor_of(heading: str) -> str:
    """Return a heading's anchor, as MyST and code hosts make it."""
    return re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-")


def name_of(page: Path) -> str:
    """Return a page's path within the repository."""
    return page.relative_to(ROOT).as_posix()


def app_of_readme() -> str:
    """Return the app that README.md shows."""
    (app,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    return str(app)


def entry_of(option: Option) -> str:
    """Return one entry of the settings page, on one line and without mark-up."""
    found = re.search(
        rf"^`{option.key}`\n: (.*?)(?=\n\n`|\n\n## )", SETTINGS, re.M | re.S
    )
    assert found, f"{option.key} is missing in docs/settings.md"
    return " ".join(found[1].replace("`", "").split())


class TestSettingsPage:
    """docs/settings.md against options.OPTIONS."""

    @pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.key)
    def test_states_what_is_allowed(self, option: Option) -> None:
        """Each setting's allowed values are given in the words of its error."""
        assert option.allowed in entry_of(option)

    @pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.key)
    def test_states_the_default(self, option: Option) -> None:
        """Each setting's default is the one in the code."""
        default = option.default
        text = f'"{default}"' if isinstance(default, str) else str(default)
        assert f"Default:** {text.removesuffix('.0')}." in entry_of(option)

    def test_says_how_each_relates_to_others_and_why(self) -> None:
        """There is a row for each setting, in the same order."""
        section = SETTINGS.partition("## How they relate\n")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| `(POOLGUARD_\w+)` \| .+ \| .+ \|$", section, re.M)
        assert rows == [option.key for option in OPTIONS]

    def test_names_no_setting_that_does_not_exist(self) -> None:
        """No key is documented that would be refused."""
        known = {option.key for option in OPTIONS}
        assert set(re.findall(r"^`(POOLGUARD_\w+)`$", SETTINGS, re.M)) == known


class TestAllPages:
    """README.md and docs/ against options.OPTIONS."""

    @pytest.mark.parametrize("page", PAGES, ids=name_of)
    def test_mention_no_setting_that_does_not_exist(self, page: Path) -> None:
        """A key that a page tells to set is never refused."""
        known = {option.key for option in OPTIONS}
        assert set(re.findall(r"POOLGUARD_[A-Z]\w*", page.read_text())) <= known


class TestErrorsPage:
    """docs/errors.md against the texts that people search for, and against notes."""

    @pytest.mark.parametrize(
        "text",
        [
            "(2006, 'MySQL server has gone away')",
            "(2013, 'Lost connection to MySQL server during query')",
            "(1040, 'Too many connections')",
            "QueuePool limit of size",
            "remaining connection slots are reserved",
            "SSL connection has been closed unexpectedly",
            "Packet sequence number wrong",
            "Can't reconnect until invalid transaction is rolled back",
            "idle in transaction",
            "4031",
        ],
    )
    def test_has_a_section_for_each_text(self, text: str) -> None:
        """It stands in a heading; under that are cause, the guard's part and remedy."""
        sections = [each.partition("\n") for each in ERRORS.split("\n## ")[1:]]
        (body,) = [body for heading, _, body in sections if text in heading]
        assert re.search(r"^\*\*Causes?[.,]", body, re.M)
        assert "\n**With the guard.**" in body
        assert "\n**What to do.**" in body

    def test_has_every_section_that_a_note_points_to(self) -> None:
        """And `flask pool explain`, as the note has it, shows that section."""
        facts = Lost("b", Loss.UNKNOWN, "views.py:1", "t", 1)
        room = Room("b", 1, 1, 5, 10)
        gone, lost = "2006, 'MySQL server has gone away'", "2013, 'Lost connection"
        notes = {
            **{explain_loss(replace(facts, loss=loss)): lost for loss in Loss},
            explain_loss(replace(facts, loss=Loss.IDLE)): gone,
            explain_loss(replace(facts, loss=Loss.TOO_BIG)): gone,
            explain_loss(replace(facts, loss=Loss.OUT_OF_STEP)): "Packet sequence",
            explain_loss(replace(facts, loss=Loss.IDLE_IN_TRANSACTION)): "idle in",
            explain_loss(replace(facts, loss=Loss.LONG_TRANSACTION)): "idle in",
            explain_loss(replace(facts, opened_by=2)): "Packet sequence",
            explain_loss(replace(facts, outage="refused")): lost,
            explain_full(room): "1040, 'Too many connections'",
            explain_away("b", None): "Can't connect to MySQL server",
            explain_login("b"): "1045, 'Access denied for user'",
            explain_timeout(room, 1.0, [0.5]): "QueuePool limit",
            explain_timeout(room, 1.0, [2.0]): "QueuePool limit",
            explain_pending(First("text", None, "views.py:1"), 0.0): "Can't reconnect",
        }
        sections = explanations.read_sections()
        for note, title in notes.items():
            last = note.splitlines()[-1]
            asked = last.removeprefix("See: flask pool explain ")
            assert asked != last
            assert "'" not in asked  # a shell would wait for its end
            for text in (asked, last, note):
                first = explanations.find(text, sections).sections[0]
                assert (first.code, title in first.title) == ("", True), text


def prose_of(page: str) -> list[str]:
    """Return a page's words, without code blocks, comments and tables' rules."""
    for left_out in (r"```.*?```", r"<!--.*?-->", r"^\|[-|: ]+\|$"):
        page = re.sub(left_out, "", page, flags=re.M | re.S)
    return page.replace("|", " ").split()


class TestReadme:
    """README.md against its own rules, and against the code."""

    PAGE = (ROOT / "README.md").read_text()

    def test_is_short(self) -> None:
        """A newcomer reads it to the end."""
        assert 300 < len(prose_of(self.PAGE)) <= 450

    def test_says_first_what_changes_then_how_to_get_it(self) -> None:
        """Its sections are in the order in which a newcomer asks."""
        assert re.findall(r"^## (.*)$", self.PAGE, re.M) == [
            "Errors you know, and what changes",
            "Install",
            "Try it",
            "Commands",
            "In tests",
            "Scope and limits",
            "More",
        ]

    def test_has_no_dead_links(self) -> None:
        """Every relative link leads to a file."""
        targets = re.findall(r"\]\(((?!http)[^)#]+)", self.PAGE)
        assert targets
        assert [each for each in targets if not (ROOT / each).exists()] == []

    def test_lists_every_command_and_no_other(self) -> None:
        """A command that is added is added to the table."""
        section = self.PAGE.partition("## Commands\n")[2].partition("\n## ")[0]
        cells = re.findall(r"^\| (`.*?) \|", section, re.M)[1:]
        assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(COMMANDS)

    @pytest.mark.parametrize("name", ["README.md", "docs/quickstart.md"])
    def test_tells_to_install_only_what_exists(self, name: str) -> None:
        """The package is on no index, so its bare name cannot be installed."""
        page = (ROOT / name).read_text()
        assert re.findall(r"pip install '?flask[-_]poolguard(?!.* @ file:)", page) == []

    def test_the_app_has_25_lines(self) -> None:
        """All of a factory app, and no more; its first line is the file's name."""
        app = app_of_readme().splitlines()
        assert app[0] == "# shop.py"
        assert len(app) - 1 == 25
        assert max(map(len, app)) <= 88

    def test_the_app_runs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is guarded, has the sizes that it says, and keeps no connection."""
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/shop")
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        module: dict[str, Any] = {"__name__": "shop"}
        exec(compile(app_of_readme(), "shop.py", "exec"), module)  # noqa: S102 (ours)
        app = module["create_app"]()
        answer = app.test_client().get("/slow")
        assert (answer.status_code, answer.text) == (200, "done\n")
        with app.app_context():
            engine = module["db"].engine
            assert module["guard"].stat()["default"]["checkouts"] == 1
            assert isinstance(engine.pool, GuardedPool)
            assert (engine.pool.size(), engine.pool.checkedout()) == (2, 0)
            engine.dispose()


def findings_in_source() -> list[tuple[str, ast.Call]]:
    """Return every call that makes a finding, with the place where it stands."""
    return [
        (f"{file.relative_to(ROOT)}:{node.lineno}", node)
        for file in sorted((ROOT / "flask_poolguard").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Finding"
    ]


def argument(call: ast.Call, position: int, name: str) -> ast.expr | None:
    """Return an argument of a call, by its position or name."""
    if len(call.args) > position:
        return call.args[position]
    return next((each.value for each in call.keywords if each.arg == name), None)


class TestPagesOfCommands:
    """Commands and options that the pages name, against Click."""

    GROUP = make_group("pool")
    # The name and the options of a command, up to what may follow them.
    CALLS = re.compile(
        r"flask(?: --\w+(?: \w+)?)* pool ([a-z]+)((?:[ =](?!flask )[-\w.'/]+)*)"
    )

    @pytest.mark.parametrize("page", PAGES, ids=name_of)
    def test_exist(self, page: Path) -> None:
        """What a page tells to run is no usage error."""
        for name, rest in self.CALLS.findall(" ".join(page.read_text().split())):
            command = self.GROUP.get_command(Context(self.GROUP), name)
            if name in ("commands", "command"):  # prose: `flask pool` commands
                continue
            assert command is not None, f"flask pool {name}"
            known = {word for each in command.params for word in each.opts}
            used = set(re.findall(r"(?<= )--[a-z-]+", rest))
            assert used <= known | {"--help"}, f"flask pool {name}{rest}"

    def test_each_has_its_question(self) -> None:
        """No command is missing on the page that chooses one."""
        page = (DOCS / "start" / "which-command.md").read_text()
        linked = re.findall(r"\[`([a-z]+)[^`]*`\]\(\S*commands\.md#([a-z]+)\)", page)
        assert {name for name, _ in linked} == set(COMMANDS)
        assert all(name == anchor for name, anchor in linked)


class TestGlossary:
    """docs/reference/glossary.md against the words that commands print."""

    PAGE = (DOCS / "reference" / "glossary.md").read_text()

    def test_is_in_the_order_of_the_alphabet(self) -> None:
        terms = re.findall(r"^(\w[\w ]*)\n  ", self.PAGE, re.M)
        assert len(terms) > 20
        assert terms == sorted(terms, key=str.lower)

    @pytest.mark.parametrize("view", ["status_view", "top_view", "history_view"])
    def test_has_the_words_of_the_columns(self, view: str) -> None:
        """A reader of a table finds each word of its head."""
        source = (ROOT / "flask_poolguard" / "cli" / f"{view}.py").read_text()
        columns = re.findall(r'"([A-Z]{2,}(?:/[A-Z]+)?)"', source)
        words = {
            # Rates and counts of a thing are named after it.
            re.sub(r"/S$", "", column).removesuffix("S").replace("LONGEST", "HELD")
            for column in columns
        } - {"MINUTE", "FAILED", "OK", "UTC"}
        assert words
        plain = self.PAGE.upper()
        assert [word for word in sorted(words) if word not in plain] == []


class TestLinks:
    """What Sphinx does not check: addresses, and links from README.md's neighbours."""

    @pytest.mark.parametrize("page", PAGES, ids=name_of)
    def test_to_other_hosts_are_whole_and_secure(self, page: Path) -> None:
        """The build asks no host, so only the form can be checked."""
        links = re.findall(r"\]\((\w+:[^)]*)\)", page.read_text())
        form = re.compile(r"(https://[\w-]+(\.[\w-]+)+(/[^\s]*)?)|(mailto:\S+@\S+)")
        assert [each for each in links if not form.fullmatch(each)] == []

    @pytest.mark.parametrize("page", PAGES, ids=name_of)
    def test_have_an_aim(self, page: Path) -> None:
        """No `[text][name]` without a definition, no empty address."""
        text = re.sub(r"```.*?```|`[^`]*`|<!--.*?-->", "", page.read_text(), flags=re.S)
        defined = set(re.findall(r"^\[([^\]]+)\]:", text, re.M))
        used = set(re.findall(r"\]\[([^\]]+)\]", text))
        assert used <= defined
        assert "]()" not in text


class TestFindingsPage:
    """docs/findings.md against what rules find."""

    PAGE = (ROOT / "docs" / "findings.md").read_text()

    def test_has_a_section_for_every_code_and_no_other(self) -> None:
        """Whoever looks a code up finds it."""
        codes: set[str] = set()
        for place, call in findings_in_source():
            code = argument(call, 1, "code")
            assert isinstance(code, ast.Constant), f"{place}: the code is no constant"
            codes.add(str(code.value))
        assert len(codes) > 20
        headings = re.findall(r"^## (.*)$", self.PAGE, re.M)
        assert sorted(headings) == headings
        assert set(headings) == {f"`{code}`" for code in codes}

    def test_every_section_says_something(self) -> None:
        """No heading stands alone."""
        sections = re.split(r"^## .*$", self.PAGE, flags=re.M)[1:]
        assert [each for each in sections if len(each.split()) < 15] == []

    def test_every_finding_says_what_it_leads_to(self) -> None:
        """A tired reader need not guess why it matters."""
        silent = [
            place
            for place, call in findings_in_source()
            if argument(call, 4, "consequence") is None
        ]
        assert silent == []


class TestInternalsPage:
    """docs/internals.md against the package's modules."""

    def test_lists_every_module_with_the_first_line_of_its_docstring(self) -> None:
        """Neither a module nor a line of the list is without the other."""
        package = ROOT / "flask_poolguard"
        expected = set()
        for path in package.rglob("*.py"):
            if path.name != "__init__.py":
                docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
                summary = docstring.partition("\n\n")[0].replace("\n", " ")
                name = path.relative_to(package).as_posix()
                expected.add(f"- `{name}`: {summary.replace('``', '`')}")
        page = (ROOT / "docs" / "internals.md").read_text()
        listed = set(re.findall(r"^- `[\w/]+\.py`: .*$", page, re.M))
        assert listed == expected

    def test_names_no_module_that_does_not_exist(self) -> None:
        page = (ROOT / "docs" / "internals.md").read_text()
        named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", page))
        gone = {
            name
            for name in named
            if not (ROOT / "flask_poolguard" / name).exists()
            and not (ROOT / name).exists()
        }
        assert named
        assert gone == set()
