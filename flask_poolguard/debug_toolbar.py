"""A panel of Flask-DebugToolbar: what the request took from its pools.

Shown if ``DEBUG_TB_PANELS`` names ``flask_poolguard.debug_toolbar.PoolPanel``.
"""

from __future__ import annotations

import typing as t

from flask import current_app
from flask_debugtoolbar.panels import DebugPanel

from .error_notes.wording import seconds
from .tracking.request_checkouts import Request, Taken, taken_by

if t.TYPE_CHECKING:
    import werkzeug

# The toolbar's environment escapes what is put in.
_TEMPLATE: t.Final = """
{% if not is_recorded %}
<p>Nothing was recorded: the app has no PoolGuard, or was not in debug mode with its
first request.</p>
{% elif not found.count %}
<p>This request took no connection.</p>
{% else %}
<table>
  <thead><tr><th>Bind</th><th>Taken at</th><th>Waited</th><th>Held</th>
    <th>Given back</th></tr></thead>
  <tbody>
  {% for row in rows %}
    <tr class="{{ loop.cycle('flDebugOdd', 'flDebugEven') }}">
      {% for cell in row %}<td>{{ cell }}</td>{% endfor %}
    </tr>
  {% endfor %}
  </tbody>
</table>
{% if found.count > rows | length %}<p>and {{ found.count - rows | length }} more</p>
{% endif %}
{% endif %}
"""


class PoolPanel(DebugPanel):
    """Lists the connections that the request had taken when its answer was ready."""

    name = "PoolGuard"
    has_content = True

    _found = Request()
    _rows: t.Sequence[tuple[str, ...]] = ()
    _out = 0

    def process_response(
        self, request: werkzeug.Request, response: werkzeug.Response
    ) -> None:
        """Note what the request has taken so far."""
        self._found = taken_by(request.environ)
        self._rows = [_row(each) for each in self._found.taken]
        self._out = sum(each.is_out() for each in self._found.taken)

    def nav_title(self) -> str:
        """Return the title in the toolbar."""
        return "Pools"

    def nav_subtitle(self) -> str:
        """Return what is below it."""
        count = self._found.count
        taken = "1 checkout" if count == 1 else f"{count} checkouts"
        return f"{taken}, {self._out} out" if self._out else taken

    def title(self) -> str:
        """Return the title of the panel."""
        return "Connections that this request took"

    def url(self) -> str:
        """Return none: it has no page of its own."""
        return ""

    def content(self) -> str:
        """Return the panel, as HTML."""
        state = current_app.extensions.get("poolguard")
        return self.jinja_env.from_string(_TEMPLATE).render(
            is_recorded=state is not None and state.is_debug,
            found=self._found,
            rows=self._rows,
        )


def _row(taken: Taken) -> tuple[str, ...]:
    times = [
        "?" if each is None else seconds(each) for each in (taken.waited, taken.held())
    ]
    return (taken.tracker.facts.bind, taken.site(), *times, _returned(taken))


def _returned(taken: Taken) -> str:
    if not taken.is_out():
        return "yes"
    if taken.is_of_session():
        return "with its session, at the end of the request"
    return "not yet"
