"""Texts of errors without what an engine keeps secret, which may be shown.

One rule for all that the guard shows: what is secret is taken out of the *whole* text,
in each form that a driver or server may repeat it in, before the text is cut to a line.
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, quote_plus, unquote

from sqlalchemy.engine import URL, Engine

from .urls import HARMLESS, HOW_TO_QUOTE, parts_taken_for_a_place, unquoted_tail

# Shorter values of options are not looked for: "1" stands everywhere. A password that
# is shorter is looked for as a word of its own.
_SHORTEST: t.Final = 4
# A server cuts long names off. So much of the beginning of a secret shows it as well.
_BEGINNING: t.Final = 12
_HIDDEN: t.Final = "***"
# Of an error's line, in characters.
_LONGEST: t.Final = 500

# Within a value: ``host=db password='a b'``, ``-c name=value``, ``//user:password@``.
_NAMED: t.Final = re.compile(r"(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|[^\s,;&]+)")
_TELLING: t.Final = re.compile(r"(?i)pass|pwd|secret|token|key|auth")
_LONG: t.Final = 8
_IN_URL: t.Final = re.compile(r"//[^\s/:@]*:(\S*)@")

# On a dialect, which an engine keeps for life.
_KEPT: t.Final = "_poolguard_secrets"


def without_secrets(text: str, url: URL, given: object = ()) -> str:
    """Return a message in which nothing that an engine keeps secret stands.

    :param given: what the driver was given besides: the arguments of a connect.
    """
    found = [str(url.password or "")]
    found += _within(url.query)
    found += _within(given)
    found += parts_taken_for_a_place(url)
    forms = sorted(set(_forms(found)), key=len, reverse=True)
    if forms:
        # All at once: a secret may be part of what stands for another.
        text = re.sub("|".join(map(_pattern, forms)), _HIDDEN, text)
    for each in forms:
        text = _without_beginning(text, each)
    return text


def _within(value: object, name: str = "") -> Iterator[str]:
    """Yield what is secret of an option's value, or of what holds several."""
    if name in HARMLESS:
        return
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        parts = [value, *_IN_URL.findall(value)]
        parts += _named_in(value)
        yield from (each for each in parts if len(each) >= _SHORTEST)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _within(each, str(key))
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _within(each)


def _named_in(value: str) -> Iterator[str]:
    for name, found in _NAMED.findall(value):
        part = found.strip("'\"")
        # search_path=shop would hide each "shop".
        if _TELLING.search(name) or (len(part) >= _LONG and name not in HARMLESS):
            yield part


def _forms(secrets: Iterable[str]) -> Iterator[str]:
    """Yield in which forms a message may repeat secrets."""
    for each in filter(None, secrets):
        yield each
        yield unquote(each, errors="replace")
        yield repr(each)[1:-1]
        for form in (quote, quote_plus):
            for safe in ("/", ""):
                yield form(each, safe, errors="surrogatepass")


def _pattern(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= _SHORTEST else rf"(?<!\w){escaped}(?!\w)"


def _without_beginning(text: str, secret: str) -> str:
    """Hide a secret that was cut off."""
    if len(secret) <= _BEGINNING:
        return text
    start = text.find(secret[:_BEGINNING])
    while start >= 0:
        end = start + _BEGINNING
        while text[end : end + 1] == secret[end - start : end - start + 1] != "":
            end += 1
        text = text[:start] + _HIDDEN + text[end:]
        start = text.find(secret[:_BEGINNING], start + len(_HIDDEN))
    return text


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
    """What one engine keeps secret.

    :ivar given: the arguments of its last connect, as its listeners left them; they may
        hold a password that the URL does not, such as a token.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self.given: tuple[object, ...] = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def hide(self, text: str) -> str:
        """Return a message without them."""
        return without_secrets(text, self._url, self.given)

    def describe(self, error: BaseException) -> str:
        """Return an error's type and the first line of its text, without them; and
        how to write a password, if that is what is wrong.
        """
        line = first_line(error, self.hide(str(error)))
        return f"{line} ({HOW_TO_QUOTE})" if unquoted_tail(self._url) else line


def secrets_of(engine: Engine) -> Secrets:
    """Return what an engine keeps secret."""
    found = engine.dialect.__dict__.setdefault(_KEPT, Secrets(engine.url))
    return t.cast(Secrets, found)
