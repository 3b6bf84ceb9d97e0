"""A run's outcome as one self-contained HTML page."""

from __future__ import annotations

from importlib import resources

import jinja2
from markupsafe import Markup

from . import diagram, run_view, text
from .caveats import caveats_of
from .choice import Choice
from .outcome import Outcome


def render(outcome: Outcome, choice: Choice) -> str:
    """Return the page of an outcome, and of the choice in it."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = resources.files(__package__).joinpath("page.html").read_text("utf-8")
    return environment.from_string(source).render(
        outcome=outcome,
        plan=outcome.plan,
        choice=choice,
        headline=run_view.headline(outcome, choice),
        setting=run_view.setting(outcome.plan, choice),
        law=run_view.in_words(outcome, choice),
        caveats=caveats_of(outcome),
        colours=diagram.COLOURS,
        diagram=Markup(diagram.svg(outcome, choice)),  # noqa: S704 (no text of the app)
        total_weight=sum(work.weight for work in outcome.plan.works),
        text=text,
    )
