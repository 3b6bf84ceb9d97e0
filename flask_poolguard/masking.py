"""Texts of errors without what an engine keeps secret, which may be shown.

One rule for all that the guard shows: what is secret is taken out of the *whole* text,
in each form that a driver or server may repeat it in, before the text is cut to a line.
"""

from __future__ import annotations

import itertools
import json
import re
import typing as t
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, quote_plus, unquote

from sqlalchemy.engine import URL, Engine

from .urls import HARMLESS, HOW_TO_QUOTE, parts_taken_for_a_place, unquoted_tail

# A shorter password is looked for as a word of its own, or it would spoil all others.
_SHORTEST: t.Final = 4
# A server cuts long names off. So much of the beginning of a secret shows it as well.
_BEGINNING: t.Final = 12
_HIDDEN: t.Final = "***"
# Of an error's line, in characters.
_LONGEST: t.Final = 500
# So much of an error's text is looked at, in characters: a server may send megabytes.
_LOOKED_AT: t.Final = 4096

# Within a value: ``host=db password='a b'``, ``-c name=value``, ``//user:password``.
# Both take time by the length of the value only: a token is one long word.
_NAMED: t.Final = re.compile(r"\b(\w{1,64})\s*=\s*('(?:[^'\\]|\\.)*'|[^\s,;&]+)")
_IN_URL: t.Final = re.compile(r"//[^/:]*:(.*)")
_QUOTED: t.Final = re.compile("%[0-9A-F]{2}")
# Names of options. Of a password any value is one; not so of others that may be secret,
# as allow_public_key_retrieval=true.
_PASSWORD: t.Final = re.compile(r"(?i)pass|pwd|secret|token|cred")
_TELLING: t.Final = re.compile(r"(?i)key|auth")
# Of other names, search_path=shop would hide each "shop", but a long value may be more.
_LONG: t.Final = 8
# These name methods of authentication.
_METHODS: t.Final = frozenset(
    ("auth_plugin", "authentication_plugin", "default_auth", "require_auth")
)
# Values of switches, in lower case.
_WELL_KNOWN: t.Final = frozenset(
    (
        "allow",
        "disable",
        "disabled",
        "enable",
        "enabled",
        "false",
        "none",
        "prefer",
        "preferred",
        "require",
        "required",
        "true",
        "verify-ca",
        "verify-full",
        "verify-identity",
        "verify_ca",
        "verify_identity",
    )
)

# The arguments of so many last connects are known, if they differ: an error of one may
# be told while others connect, each with a token of its own. SQLAlchemy's default pool
# opens up to 15 at once.
_CONNECTS: t.Final = 16

# On a dialect, which an engine keeps for life.
_KEPT: t.Final = "_poolguard_secrets"

# Options' values as text, each with the option's name.
_Texts = tuple[tuple[str, str], ...]


def _texts_in(
    value: object, name: str = "", around: tuple[int, ...] = ()
) -> Iterator[tuple[str, str]]:
    """Yield what may be secret of an option's value, or of what holds several.

    :param around: what holds it, by ``id()``: it may hold itself.
    """
    if id(value) in around or name.rpartition(".")[2] in HARMLESS:
        return
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value).decode(errors="replace")
    elif type(value) is int and (_PASSWORD.search(name) or _TELLING.search(name)):
        value = str(value)
    if isinstance(value, str):
        yield name, str.__str__(value)  # a subclass may show another
    elif isinstance(value, Mapping):
        for key, each in value.items():
            # {"ssl": {"key": …}} is ssl.key.
            inner = f"{name}.{key}".removeprefix(".")
            yield from _texts_in(each, inner, (*around, id(value)))
    elif isinstance(value, (tuple, list, set, frozenset)):
        for each in value:
            yield from _texts_in(each, name, (*around, id(value)))


def _secrets_in(name: str, text: str) -> Iterator[str]:
    """Yield what is secret of an option's value."""
    if _is_secret(name, text):
        yield text
    for word in text.split():
        in_url = _IN_URL.search(word.rpartition("@")[0])
        if in_url is not None:
            yield in_url[1]
    for inner, found in _NAMED.findall(text):
        part = found.strip("'\"")
        if _is_secret(inner, part):
            yield part


def _is_secret(name: str, text: str) -> bool:
    last = name.rpartition(".")[2]
    if last in HARMLESS or last in _METHODS:
        return False
    if _PASSWORD.search(name):
        return True
    shortest = _SHORTEST if _TELLING.search(name) else _LONG
    return len(text) >= shortest and text.lower() not in _WELL_KNOWN


def _forms(secret: str) -> Iterator[str]:
    """Yield in which forms a message may repeat a secret."""
    yield secret
    yield unquote(secret, errors="replace")
    for form in (quote, quote_plus):
        for safe in ("/", ""):
            quoted = form(secret, safe, errors="surrogatepass")
            yield quoted
            yield _QUOTED.sub(lambda found: found[0].lower(), quoted)
    for shown in (secret, secret.encode(errors="surrogatepass")):  # in Python
        yield repr(shown).removeprefix("b")[1:-1]
    for is_ascii in (True, False):
        yield json.dumps(secret, ensure_ascii=is_ascii)[1:-1]
    for mark in ("'", '"', "`"):  # in SQL
        yield secret.replace(mark, 2 * mark)
    yield secret.replace("\\", r"\\").replace("'", r"\'")  # in a DSN


class _Masks:
    """Finds secrets in texts, in time that grows by the length of the text.

    :param host: may be shown, though tokens of clouds begin with it.
    """

    def __init__(self, secrets: Iterable[str], host: str) -> None:
        forms = {form for each in filter(None, secrets) for form in _forms(each)}
        self._longest = max(map(len, forms), default=0)
        self._forms: dict[str, list[str]] = {}
        for form in forms:
            known = len(host) if form.startswith(host) else 0
            beginning = form[: known + _BEGINNING]
            self._forms.setdefault(beginning, []).append(form)
        # One may begin as another does.
        beginnings = sorted(self._forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_pattern, beginnings)) or "(?!)")

    def hide(self, text: str, end: int) -> str:
        """Return a text, up to an index, without any character of a secret.

        One that is shown in part at that index is looked for beyond it.
        """
        text = text[: end + self._longest]
        pieces, shown = [], 0
        hit = self._pattern.search(text)
        while hit is not None and hit.start() < end:
            start = hit.start()
            # One may end with the beginning of another.
            if start >= shown:
                pieces += [text[shown:start], _HIDDEN]
            forms = self._forms[hit[0]]
            length = max(_common(text, start, form) for form in forms)
            shown = max(shown, start + length)
            hit = self._pattern.search(text, start + 1)
        return "".join((*pieces, text[shown:end]))


def _pattern(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= _SHORTEST else rf"(?<!\w){escaped}(?!\w)"


def _common(text: str, start: int, secret: str) -> int:
    """Return how much of a secret's beginning stands there: it may be cut off."""
    lengths = range(1, len(secret) + 1)
    return bisect(lengths, False, key=lambda n: not text.startswith(secret[:n], start))


def first_line(error: BaseException, text: str | None = None) -> str:
    """Return an error's type and the first line of its text, cut off, without control
    characters: it may be a server's, which can be anyone.

    :param text: its text without secrets; its own if it can know none.
    """
    text = str(error) if text is None else text
    line = next(filter(None, map(str.strip, text.splitlines())), "")
    if len(line) > _LONGEST:
        line = f"{line[:_LONGEST]}…"
    line = "".join(char if char.isprintable() else "?" for char in line)
    return f"{type(error).__name__}: {line}"


class Secrets:
    """What one engine keeps secret: its URL's password, and what its last connects were
    given, as its listeners left it, such as tokens.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        # With numbers that tell which was given last.
        self._given: dict[_Texts, int] = {}
        self._numbers = itertools.count()
        # With what it was made of: to find all forms takes as long as a request.
        self._made: tuple[tuple[_Texts, ...], _Masks] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def note(self, *given: object) -> None:
        """Note the arguments of a connect.

        Several threads connect at once: each step is one of a dict's own, without a
        lock, which a fork might leave locked.
        """
        self._given[tuple(_texts_in(given))] = next(self._numbers)
        if len(self._given) > _CONNECTS:
            numbered = sorted(self._given.copy().items(), key=lambda each: each[1])
            for texts, _ in numbered[:-_CONNECTS]:
                self._given.pop(texts, None)

    def hide(self, text: str, end: int | None = None) -> str:
        """Return a message, up to an index, without them."""
        return self._masks().hide(text, len(text) if end is None else end)

    def describe(self, error: BaseException) -> str:
        """Return an error's type and the first line of its text, without them; and
        how to write a password, if that is what is wrong.
        """
        line = first_line(error, self.hide(str(error), _LOOKED_AT))
        return f"{line} ({HOW_TO_QUOTE})" if unquoted_tail(self._url) else line

    def _masks(self) -> _Masks:
        given, made = tuple(self._given), self._made
        if made is None or made[0] != given:
            found = [str(self._url.password or "")]
            for texts in (_texts_in(self._url.query), *given):
                for name, each in texts:
                    found += _secrets_in(name, each)
            found += parts_taken_for_a_place(self._url)
            made = self._made = (given, _Masks(found, self._url.host or ""))
        return made[1]


def secrets_of(engine: Engine) -> Secrets:
    """Return what an engine keeps secret."""
    found = engine.dialect.__dict__.setdefault(_KEPT, Secrets(engine.url))
    return t.cast(Secrets, found)
