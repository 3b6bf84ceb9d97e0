"""Which addresses are a blueprint's own, told without the app's URL converters.

Flask redirects to the missing slash, and raises a 405 or a 400, before it calls a
converter; one that looks a model up must not be called for an answer that needs none.
So no address is matched again: it is compared with the text of the blueprint's rules.
"""

from __future__ import annotations

import re
import typing as t

from flask import current_app, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

if t.TYPE_CHECKING:
    from werkzeug.routing import MapAdapter, Rule

_VARIABLE: t.Final = re.compile(r"<[^<>]*>")


class OwnAddresses:
    """The addresses of a blueprint under the name that it has in an app.

    :param name: what the blueprint's endpoints begin with.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._rules: list[tuple[re.Pattern[str], Rule]] | None = None

    def endpoint_of(self, found: HTTPException) -> str | None:
        """Return for which endpoint of the blueprint Flask answers the current request
        by itself; None if it may be for one of the app's own.
        """
        if self._rules is None:  # two threads may do it at once
            self._rules = [
                (_pattern(_plain(each.rule)), each)
                for each in current_app.url_map.iter_rules()
                if self._owns(each)
            ]
        path = _plain(request.path)
        own = [rule for pattern, rule in self._rules if pattern.fullmatch(path)]
        adapter = current_app.create_url_adapter(request) if own else None
        if adapter is None:
            return None
        own = [each for each in own if _is_there(each, adapter)]
        methods = {method for each in own for method in each.methods or ()}
        asked: t.Iterable[str] = [request.method]
        if isinstance(found, MethodNotAllowed):  # of all rules of that address
            asked = found.valid_methods or ()
        if not methods.issuperset(asked) or self._is_the_apps(path, own, adapter):
            return None
        return own[0].endpoint if own else None

    def _owns(self, rule: Rule) -> bool:
        return str(rule.endpoint).rpartition(".")[0] == self._name

    def _is_the_apps(self, path: str, own: list[Rule], adapter: MapAdapter) -> bool:
        """Tell whether the app has a rule with the same text, which may come first."""
        texts = {each.rule for each in own}
        texts |= {f"{path}/" if each.endswith("/") else path for each in texts}
        return any(
            each.rule in texts
            and not self._owns(each)
            and (each.methods is None or "GET" in each.methods)
            and _is_there(each, adapter)
            for each in current_app.url_map.iter_rules()
        )


def _plain(path: str) -> str:
    """Return a path without what the routing mends by a redirect."""
    return re.sub("/+", "/", path).rstrip("/")


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".+".join(map(re.escape, _VARIABLE.split(text))), re.DOTALL)


def _is_there(rule: Rule, adapter: MapAdapter) -> bool:
    """Tell whether a rule is of the host, or the subdomain, that is asked."""
    if adapter.map.host_matching or adapter.subdomain is None:
        wanted, found = rule.host, adapter.server_name
    else:
        wanted, found = rule.subdomain, adapter.subdomain
    return _pattern(wanted or "").fullmatch(found) is not None
