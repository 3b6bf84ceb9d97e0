"""Requests to a worker lie in a folder that may hold anything."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, StaticPool, create_engine

from flask_poolguard.cli.recycle_view import render, verdict_on
from flask_poolguard.report.recycling import Recycling
from flask_poolguard.report.renewal import Renewal
from flask_poolguard.report.text import Page
from flask_poolguard.state import reader, recycle_requests
from flask_poolguard.state.recycle_requests import ALL, new_number
from flask_poolguard.tracking.app_tracker import AppTracker
from flask_poolguard.tracking.pool_tracker import PoolTracker, tracker_of
from tests.conftest import Database
from tests.support.guarded_app import warnings_of
from tests.support.reporting import Shop, shops

FUTURE = 2**52


@pytest.fixture
def shop(database: Database) -> Iterator[Shop]:
    """Give a guarded app of this process with one idle connection."""
    with shops() as make:
        shop = make(default=create_engine(database.url))
        shop.use()
        yield shop


def app_tracker_of(shop: Shop) -> AppTracker:
    """Return the books of an app."""
    app_tracker: AppTracker = shop.app.extensions["poolguard"].app_tracker
    return app_tracker


def request_of(shop: Shop) -> Path:
    """Return where requests to this process are."""
    path = app_tracker_of(shop).path
    assert path is not None
    return Path(path).with_suffix(".recycle")


def tracker_for(shop: Shop) -> PoolTracker:
    """Return the books of the one pool."""
    tracker = tracker_of(shop.engines["default"])
    assert tracker is not None
    return tracker


def ask(shop: Shop, bind: str = ALL) -> int:
    """Ask this process for new connections; return the number."""
    path, number = app_tracker_of(shop).path, new_number()
    assert path is not None
    recycle_requests.ask(path, bind, number)
    return number


def answer(shop: Shop) -> int:
    """Make the round that looks for requests; return the number that it answers."""
    app_tracker_of(shop).tend()
    return tracker_for(shop).usage.renewed


class TestARequest:
    def test_is_answered_once(self, shop: Shop) -> None:
        number = ask(shop)
        assert answer(shop) == number
        assert tracker_for(shop).figures.counts["invalidated"] == 1
        shop.use()
        assert answer(shop) == number
        assert tracker_for(shop).figures.counts["invalidated"] == 1

    def test_is_a_file_for_this_user_only(self, shop: Shop) -> None:
        ask(shop)
        assert stat.S_IMODE(request_of(shop).stat().st_mode) == 0o600
        assert [each.suffix for each in request_of(shop).parent.iterdir()].count(
            ".recycle"
        ) == 1

    def test_for_another_bind_is_not_for_this_one(self, shop: Shop) -> None:
        ask(shop, "reports")
        assert answer(shop) == 0
        assert tracker_for(shop).figures.counts["invalidated"] == 0

    def test_keeps_those_before_it(self, shop: Shop) -> None:
        first = ask(shop, "default")
        second = ask(shop, "reports")
        expected = {"default": first, "reports": second}
        assert json.loads(request_of(shop).read_text()) == expected
        assert answer(shop) == first

    def test_that_is_older_than_the_last_one_changes_nothing(self, shop: Shop) -> None:
        older, newer = new_number(), ask(shop)
        assert answer(shop) == newer
        shop.use()
        request_of(shop).write_text(json.dumps({ALL: older}))
        assert answer(shop) == newer
        assert tracker_for(shop).figures.counts["invalidated"] == 1

    def test_goes_with_the_worker(self, shop: Shop) -> None:
        ask(shop)
        assert request_of(shop).exists()
        folder = request_of(shop).parent
        app_tracker_of(shop).remove_file()
        assert [each.suffix for each in folder.iterdir()] == [".totals"]

    def test_to_a_worker_that_is_gone_is_taken_away(self, shop: Shop) -> None:
        folder = request_of(shop).parent
        orphans = [
            folder / "1-0123abcd.recycle",
            folder / ".1-0123abcd.89ef4567.recycle",
        ]
        for orphan in orphans:
            orphan.touch()
        mine = ask(shop)
        with shops() as make:
            engine = create_engine(shop.engines["default"].url)
            make(default=engine).use()
            assert not any(orphan.exists() for orphan in orphans)
            assert answer(shop) == mine

    @pytest.mark.parametrize(
        "name",
        [
            "my-notes.recycle",
            ".my-notes.recycle",
            "1-notes.recycle",
            "1-0123abcd.txt.recycle",
            ".1-0123abcd.notes.recycle",
            "my-notes.state",
            "1-notes.state",
            "1-0123abcd.txt.state",
        ],
    )
    def test_takes_no_file_of_another_name_away(self, shop: Shop, name: str) -> None:
        other = request_of(shop).with_name(name)
        dead = request_of(shop).with_name("1-0123abcd.state")
        for path in (other, dead):
            path.write_text("precious")
        with shops() as make:
            make(default=create_engine(shop.engines["default"].url)).use()
            assert other.read_text() == "precious"
            assert not dead.exists()


class TestWhatIsNoRequest:
    def is_ignored(self, shop: Shop, caplog: pytest.LogCaptureFixture) -> str:
        """Check that it is, with one warning; return that."""
        for _ in range(3):
            assert answer(shop) == 0
        assert tracker_for(shop).figures.counts["invalidated"] == 0
        (warning,) = warnings_of(caplog)
        assert str(request_of(shop)) in warning
        return warning

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "not JSON"),
            (b"\xff\xfe\x00", "not JSON"),
            (b"[" * 20_000, "not JSON"),
            (b"[1]", "no JSON object"),
            (b'{"*": "1"}', "numbers are garbage"),
            (b'{"*": true}', "numbers are garbage"),
            (b'{"*": -1}', "numbers are garbage"),
            (b'{"*": 1.5}', "numbers are garbage"),
            (b'{"*": NaN}', "numbers are garbage"),
            (b'{"*": %d}' % FUTURE, "numbers are garbage"),
            (b" " * 100_000, "100000 bytes"),
        ],
    )
    def test_because_of_what_is_in_it(
        self,
        shop: Shop,
        caplog: pytest.LogCaptureFixture,
        content: bytes,
        reason: str,
    ) -> None:
        request_of(shop).write_bytes(content)
        assert reason in self.is_ignored(shop, caplog)

    def test_because_it_is_a_fifo(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        os.mkfifo(request_of(shop))
        assert "not a plain file" in self.is_ignored(shop, caplog)

    def test_because_it_is_a_folder(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        request_of(shop).mkdir()
        assert "not a plain file" in self.is_ignored(shop, caplog)
        request_of(shop).rmdir()

    def test_because_it_is_a_symbolic_link(
        self, shop: Shop, caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        real = tmp_path / "real"
        real.write_text(json.dumps({ALL: new_number()}))
        request_of(shop).symlink_to(real)
        assert "not a plain file" in self.is_ignored(shop, caplog)

    def test_because_it_is_another_users(
        self,
        shop: Shop,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        ask(shop)
        monkeypatch.setattr(recycle_requests, "user_id", lambda: 4711)
        assert "not to 4711" in self.is_ignored(shop, caplog)

    def test_is_replaced_by_one(
        self, shop: Shop, caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        target = tmp_path / "target"
        target.write_text("precious")
        request_of(shop).symlink_to(target)
        self.is_ignored(shop, caplog)
        number = ask(shop)
        assert answer(shop) == number
        assert target.read_text() == "precious"
        assert not request_of(shop).is_symlink()


def recycled(shop: Shop, bind: str | None = None) -> Renewal:
    """Ask this process, and look once."""
    state = shop.app.extensions["poolguard"]
    recycling = Recycling(shop.app, state.config, state.engines, bind)
    (now,) = recycling.watch(0)
    return now


def text_of(now: Renewal) -> str:
    """Return how it looks to people, in one line."""
    return " ".join(render(now, Page(80, break_words=False)).split())


class TestTheCommand:
    def test_names_who_cannot_be_told(self, shop: Shop) -> None:
        path = request_of(shop)
        path.mkdir()
        now = recycled(shop)
        path.rmdir()
        assert not now.done
        assert "the request to it cannot be written: Is a directory" in text_of(now)
        assert [each for each in path.parent.iterdir() if each.name[0] == "."] == []

    def test_waits_in_vain_for_no_pool_that_does_not_tell(
        self, sqlite_url: URL
    ) -> None:
        with shops() as make:
            shop = make(default=create_engine(sqlite_url, poolclass=StaticPool))
            shop.use()
            state = shop.app.extensions["poolguard"]
            looks = Recycling(shop.app, state.config, state.engines).watch(30)
            assert not next(looks).is_final
            assert answer(shop) > 0
            now = next(looks)
            assert (now.done, now.is_final) == (False, True)
            assert "whether the old one is still in use is unknown" in text_of(now)
            assert list(looks) == []

    def test_has_nothing_to_replace_in_memory(self) -> None:
        with shops() as make:
            shop = make(default=create_engine("sqlite://", poolclass=StaticPool))
            shop.use()
            state = shop.app.extensions["poolguard"]
            looks = Recycling(shop.app, state.config, state.engines).watch(30)
            assert not next(looks).done
            assert answer(shop) > 0
            assert next(looks).done

    def test_takes_what_another_version_wrote_for_unknown(self, shop: Shop) -> None:
        path = app_tracker_of(shop).path
        assert path is not None
        os.chmod(path, 0o600)  # else nobody but its worker may write to it
        with open(path, "r+b") as file:
            file.seek(7)
            file.write(b"\x01")
        now = recycled(shop)
        assert not now.done
        assert "it runs another version of Flask-PoolGuard" in text_of(now)

    def test_asks_again_if_its_request_was_overwritten(self, shop: Shop) -> None:
        state = shop.app.extensions["poolguard"]
        looks = Recycling(shop.app, state.config, state.engines).watch(30)
        assert not next(looks).done
        request_of(shop).write_text(json.dumps({"reports": new_number()}))
        assert answer(shop) == 0
        assert not next(looks).done
        assert answer(shop) > 0
        assert next(looks).done
        assert list(looks) == []

    def test_tells_an_unknown_figure_from_none(self, shop: Shop) -> None:
        now = recycled(shop)
        (pool,) = now.workers[0].pools
        assert pool.outdated is None
        assert "default 0 ?" in text_of(now)

    def test_is_not_done_while_a_folder_cannot_be_looked_at(
        self, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hidden = tmp_path / "hidden"
        hidden.mkdir()
        hidden.chmod(0o777)
        folders = [str(request_of(shop).parent), str(hidden)]
        monkeypatch.setattr(reader, "candidates", lambda _: folders)
        state = shop.app.extensions["poolguard"]
        looks = Recycling(shop.app, state.config, state.engines).watch(30)
        assert "may still use older connections" in text_of(next(looks))
        assert answer(shop) > 0
        now = next(looks)
        assert (now.done, now.is_final) == (False, True)
        text = text_of(now)
        assert verdict_on(now).level == "warning"
        assert "others may not have been told" in verdict_on(now).text
        assert "a folder of state files cannot be looked at" in text
        assert f"{hidden} is writable by others" in text
        assert list(looks) == []
