"""Nothing that is secret stands in a text, in whichever form it comes."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from flask import Flask
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError

from flask_poolguard import PoolGuard
from flask_poolguard.masking import Secrets, secrets_of
from flask_poolguard.urls import public_url, server_key, unquoted_tail
from tests.support.outputs import without_secrets

SECRET = "hush-hush/4711"

# What passwords and tokens have in them; long enough that no other word is one.
passwords = st.text(
    st.characters(min_codepoint=0x20, exclude_categories=["Cs"]), min_size=8
)


def url_with(password: str | None = None, **options: Any) -> URL:
    """Return the URL of a server that does not exist."""
    return URL.create(
        "postgresql+psycopg2", "app", password, "db.test", 5433, "shop", options
    )


class TestForms:
    @given(passwords, st.sampled_from(["{}", 'host "{}"', "a{}b", "{0}{0}", "\n{}\n"]))
    def test_a_password_is_hidden_in_each_form(self, password: str, frame: str) -> None:
        assume("*" not in password)
        for form in (
            password,
            quote(password),
            quote(password, ""),
            quote_plus(password),
            re.sub("%..", lambda found: found[0].lower(), quote(password)),
            repr(password)[1:-1],
            repr(password.encode())[2:-1],
            json.dumps(password)[1:-1],
            json.dumps(password, ensure_ascii=False)[1:-1],
            password.replace("'", "''"),
            password.replace('"', '""'),
            password.replace("`", "``"),
            password.replace("\\", r"\\").replace("'", r"\'"),
        ):
            text = without_secrets(frame.format(form), url_with(password))
            assert form not in text, text

    @given(passwords)
    def test_an_option_and_an_argument_are_hidden_as_well(self, secret: str) -> None:
        assume("*" not in secret)
        text = f"unknown {secret!s} and {quote(secret)}"
        for url, given_ in (
            (url_with(sslpassword=secret), ()),
            (url_with(sslpassword=(secret, "other")), ()),
            (url_with(), {"password": secret}),
            (url_with(), ({"ssl": {"key": secret}},)),
            (url_with(), {"token": secret.encode()}),
            (url_with(), {"password": bytearray(secret.encode())}),
            (url_with(), {"password": memoryview(secret.encode())}),
            (url_with(), {"tokens": {secret}}),
        ):
            hidden = without_secrets(text, url, given_)
            assert secret not in hidden
            assert quote(secret) not in hidden

    def test_a_number_is_hidden_where_an_option_tells_that_it_is_secret(self) -> None:
        text = without_secrets(
            "no 90210777 of 10485760",
            url_with(),
            {"password": 90210777, "max_allowed_packet": 10485760},
        )
        assert text == "no *** of 10485760"

    @pytest.mark.parametrize(
        "dsn",
        [
            "host=db.test password=hush-hush",
            "host=db.test password = 'hush-hush'",
            "postgresql://app:hush-hush@db.test/shop",
        ],
    )
    def test_the_password_in_a_dsn_is_hidden_and_its_host_is_not(
        self, dsn: str
    ) -> None:
        text = without_secrets("no hush-hush at db.test", url_with(), (dsn,))
        assert text == "no *** at db.test"

    def test_one_that_spans_lines_is_hidden_before_the_first_is_taken(self) -> None:
        secret = "first half\nsecond half"
        described = Secrets(url_with(secret)).describe(ValueError(f"no {secret}!"))
        assert described == "ValueError: no ***!"

    def test_one_that_was_cut_off_is_hidden(self) -> None:
        secret = "0123456789" * 10
        text = without_secrets(
            f'database "{secret[:63]}" is not there', url_with(secret)
        )
        assert text == 'database "***" is not there'

    def test_a_short_password_spoils_no_other_word(self) -> None:
        text = without_secrets("pg8000.exceptions: x, 'x'", url_with("x"))
        assert text == "pg8000.exceptions: ***, '***'"

    @pytest.mark.parametrize("secret", ["abc", "true", "require", "password", "shop"])
    def test_a_password_that_is_a_common_word_is_hidden_wherever_it_stands(
        self, secret: str
    ) -> None:
        """The cost is that word, in any message."""
        for url, given_ in (
            (url_with(secret), ()),
            (url_with(password=secret), ()),
            (url_with(), {"password": secret}),
            (url_with(), {"passwords": [secret]}),
            (url_with(), {"login": {"password": secret}}),
            (url_with(), (f"host=db.test password={secret}",)),
            (url_with(), (f"postgresql://app:{secret}@db.test/x",)),
        ):
            assert (
                without_secrets(f'no "{secret}" here', url, given_) == 'no "***" here'
            )

    def test_one_within_another_is_no_way_to_see_it(self) -> None:
        url = url_with("abcdefgh", token="*", other="abcdefgh-and-more")
        assert without_secrets("abcdefgh-and-more abcdefgh", url) == "*** ***"

    def test_half_a_character_does_no_harm(self) -> None:
        url = url_with("abcd\udc80efgh")
        assert without_secrets("no abcd\udc80efgh", url) == "no ***"

    def test_what_is_no_secret_stays(self) -> None:
        text = "no db.test:5433, no shop for app by utf8"
        given_ = {
            "host": "db.test",
            "user": "app",
            "database": "shop",
            "port": 5433,
            "program_name": "shop",
            "options": "-c search_path=shop",
        }
        assert without_secrets(text, url_with(SECRET, charset="utf8"), given_) == text


safe = st.text("abcdefghijklmnop0123456789-_.", min_size=4, max_size=12)


class TestAPasswordThatIsNotQuoted:
    @settings(max_examples=300)
    @given(
        st.lists(safe, min_size=2, max_size=4, unique=True),
        st.lists(st.sampled_from("@/=#&+ "), min_size=3, max_size=3),
        st.booleans(),
    )
    def test_is_hidden_in_all_that_can_be_told_of_the_url(
        self, parts: list[str], between: list[str], with_port: bool
    ) -> None:
        """Each part of it, whichever part of a URL SQLAlchemy took it for."""
        assume("@" in between[: len(parts) - 1])
        secret = parts[0] + "".join(map("".join, zip(between, parts[1:], strict=False)))
        port = ":5433" if with_port else ""
        text = f"postgresql+psycopg2://USER:{secret}@HOST.test{port}/SHOP"
        try:
            url = make_url(text)
        except (SQLAlchemyError, ValueError):
            return  # no engine can have it
        query = " ".join(f"{key} {value}" for key, value in url.query.items())
        message = f'no host "{url.host}", no database "{url.database}", no {query}'
        for shown in (public_url(url), public_url(text), without_secrets(message, url)):
            # Before the first "@" SQLAlchemy takes it for what it is.
            for word in secret.partition("@")[2].replace("@", "/").split("/"):
                assert not word or word not in shown, (text, shown)

    @pytest.mark.parametrize("secret", ["s3cr@sauce?x=more", "s3cr@sauce?x=y&z=more"])
    def test_is_hidden_though_its_end_was_taken_for_an_option(
        self, secret: str
    ) -> None:
        url = make_url(f"postgresql+psycopg://USER:{secret}@HOST:5433/SHOP")
        shown = f"{public_url(url)} {without_secrets(str(url.host), url)}"
        assert "sauce" not in shown
        assert "more" not in shown
        assert public_url(url) == "postgresql+psycopg://USER@HOST:5433/SHOP"

    @pytest.mark.parametrize(
        "options",
        [
            "sslcert=/home/me@corp/x.pem",
            "application_name=a@b/c",
            "proxy=http://a@b/c",
            "init_command=a@b",
        ],
    )
    def test_is_not_seen_in_an_option(self, options: str) -> None:
        for place in ("db.test", "db.test/shop"):
            url = make_url(f"postgresql+psycopg://app:right@{place}?{options}")
            assert unquoted_tail(url) == ""
            assert server_key(url) == ("postgresql", "db.test", 5432)

    def test_hides_all_that_may_be_its_end(self) -> None:
        """An option without a value is not known to SQLAlchemy."""
        url = make_url("postgresql+psycopg://USER:s3cr@sauce@more?x@HOST:5433/SHOP")
        assert public_url(url) == "postgresql+psycopg://USER@"
        assert without_secrets("no sauce@more, no more", url) == "no ***, no ***"


def described(engine: Engine) -> str:
    """Return how an error that repeats a password is shown, after a failed connect."""
    app = Flask("shop")
    PoolGuard(app).register(engine)
    with app.app_context(), pytest.raises((TypeError, ConnectionError)):
        engine.connect()
    app.extensions["poolguard"].app_tracker.remove_file()
    return secrets_of(engine).describe(ValueError(f"bad {SECRET}"))


class TestWhatCannotBeKnown:
    """The guard sees what goes through the dialect only, and says so in its docs."""

    def test_is_what_a_creator_connects_with(self) -> None:
        def connect() -> Any:
            raise ConnectionError(SECRET)

        assert (
            described(create_engine("sqlite://", creator=connect))
            == f"ValueError: bad {SECRET}"
        )

    def test_is_what_a_listener_connects_with(self) -> None:
        engine = create_engine("sqlite://")

        @event.listens_for(engine, "do_connect")
        def connect(*arguments: Any) -> None:
            raise ConnectionError(SECRET)

        assert described(engine) == f"ValueError: bad {SECRET}"

    def test_is_what_only_its_driver_can_read(self) -> None:
        class Token:
            def __str__(self) -> str:
                return SECRET

        shown = described(create_engine("sqlite://", connect_args={"token": Token()}))
        assert shown == f"ValueError: bad {SECRET}"

    def test_is_what_cannot_be_walked_which_fails_no_connect(self) -> None:
        class Arguments(dict[str, Any]):
            def items(self) -> Any:
                raise RuntimeError("changed during iteration")

        with pytest.raises(TypeError, match="token"):  # the driver's own
            create_engine("sqlite://", connect_args={"token": Arguments()}).connect()
        shown = described(
            create_engine("sqlite://", connect_args={"token": Arguments()})
        )
        assert SECRET in shown

    def test_is_not_what_holds_itself(self) -> None:
        arguments: dict[str, Any] = {"password": SECRET}
        arguments["more"] = [arguments]
        shown = described(create_engine("sqlite://", connect_args={"x": arguments}))
        assert shown == "ValueError: bad ***"


class TestWork:
    """What hiding costs: an error is described within a request."""

    def test_forms_are_found_once_for_each_change(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        quoted: list[str] = []

        def noting(text: str, *arguments: str, **keywords: str) -> str:
            quoted.append(text)
            return quote(text, *arguments, **keywords)

        monkeypatch.setattr("flask_poolguard.masking.quote", noting)
        secrets = Secrets(url_with())
        numbers = []
        for token in (SECRET, SECRET, "another-token"):
            secrets.note({"password": token})
            for _ in range(3):
                assert token not in secrets.hide(f"no {token}")
                numbers.append(len(quoted))
        first, changed = numbers[0], numbers[-1]
        assert numbers == [first] * 6 + [changed] * 3
        assert 0 < first < changed

    @pytest.mark.parametrize(
        "secret",
        [
            "0123456789abcdef" * 50_000,
            "//a:" * 200_000,
            "a b " * 200_000,
            "a=' b=\\'" * 100_000,
        ],
        ids=["word", "URLs", "words", "quotes"],
    )
    def test_of_a_secret_grows_by_its_length(self, secret: str) -> None:
        """By its square it would not end while this test may run."""
        shown = without_secrets(secret[:100], url_with(), {"password": secret})
        assert shown == "***"

    @pytest.mark.parametrize("part", ["0123456789ab", "0123456789abc", "0123456789"])
    def test_of_a_text_grows_by_its_length(self, part: str) -> None:
        text = f"{part}_ " * 200_000
        shown = without_secrets(text, url_with("0123456789abcdef"))
        assert shown == (text if len(part) < 12 else "***_ " * 200_000)

    def test_no_more_of_a_text_is_looked_at_than_can_be_shown(self) -> None:
        """So megabytes of a hostile server cost no more than kilobytes."""
        secrets = Secrets(url_with(SECRET))
        assert secrets.hide("." * 10_000, 4096) == "." * 4096
        described = secrets.describe(ValueError("no " + SECRET * 100_000))
        assert described.startswith("ValueError: no ***")
        assert len(described) < 600

    def test_a_secret_across_the_end_is_not_shown_in_part(self) -> None:
        secrets = Secrets(url_with(SECRET))
        for before in range(80, 101):
            text = "." * before + SECRET + "." * 100
            shown = secrets.hide(text, 100).replace("***", "").strip(".")
            assert shown == "", before


class TestTokens:
    def test_of_a_listener_are_hidden(self) -> None:
        """As those of clouds, which are valid for minutes and stand in no URL."""
        engine = create_engine("sqlite://")
        app = Flask("shop")
        PoolGuard(app).register(engine)

        @event.listens_for(engine, "do_connect")
        def give_token(*arguments: Any) -> None:
            arguments[3]["token"] = SECRET

        with app.app_context(), pytest.raises(TypeError):
            engine.connect()
        described = secrets_of(engine).describe(ValueError(f"bad {SECRET}"))
        assert described == "ValueError: bad ***"
        assert SECRET not in repr(secrets_of(engine))
        app.extensions["poolguard"].app_tracker.remove_file()

    def test_of_connects_that_overlap_are_hidden(self) -> None:
        """They may begin alike, as clouds' do, and the first may be told last."""
        tokens = [f"db.test:3306/?X-Amz-Date={number:04}Z&x" for number in range(15)]
        secrets = Secrets(url_with())
        for token in tokens:
            secrets.note({"password": token})
        for token in tokens:
            described = secrets.describe(ValueError(f"bad {token}!"))
            assert described == "ValueError: bad ***!"

    def test_that_begin_with_the_host_do_not_hide_it(self) -> None:
        """As those of AWS."""
        url = url_with().set(host="shop.abc123.eu-west-1.rds.test")
        token = f"{url.host}:5432/?Action=connect&X-Amz-Signature={'0f' * 32}"
        text = without_secrets(
            f"no {url.host}:5432 for {token} ({token[:-9]})", url, {"password": token}
        )
        assert text == f"no {url.host}:5432 for *** (***)"

    def test_that_are_given_again_and_again_are_not_forgotten(self) -> None:
        secrets = Secrets(url_with())
        for number in range(100):
            for password in (SECRET, f"token-{number:04}"):
                secrets.note({"password": password})
        assert secrets.hide(f"{SECRET}, token-0090") == "***, ***"

    def test_of_long_ago_are_forgotten(self) -> None:
        """Else an app that runs for months would keep thousands."""
        secrets = Secrets(url_with())
        for number in range(100):
            secrets.note({"password": f"{number:04}-token"})
        assert secrets.hide("0000-token") == "0000-token"
