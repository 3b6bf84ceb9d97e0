"""A run's outcome as one self-contained HTML page."""

from __future__ import annotations

import os
import secrets
import typing as t

from markupsafe import Markup

from . import run_view
from .axes import latency, number
from .caveats import caveats_of
from .chart import Chosen, Dot, Line, chart
from .choice import Choice
from .failures import TuneError
from .outcome import Outcome, Size
from .style import STYLE

_PAGE: t.Final = Markup("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
<p class="quiet">{when}</p>
</header>
{result}
{notes}
<section>
<h2>Throughput</h2>
{throughput}
<p class="key"><span class="rate">●</span> mean, lowest and highest of all rounds
<span class="law">╌╌</span> the universal scalability law
<span class="chosen">┃</span> {chosen} (95% range)</p>
</section>
<section>
<h2>Latency</h2>
{latency}
<p class="key"><span class="p95">●</span> 95th percentile <span class="p50">●</span>
median, all from the moment of asking, waiting for a connection included</p>
</section>
<section>
<h2>Figures</h2>
{table}
</section>
<section>
<h2>What was run</h2>
{run}
</section>
</main>
</body>
</html>
""")

_TABLE_HEADINGS: t.Final = (
    "pool_size",
    "connections",
    "{unit}/s",
    "lowest",
    "highest",
    "p50",
    "p95",
    "in use",
    "CPU",
)


class PageFile:
    """Where the page goes.

    :param replace: whether a file that is there may be replaced.
    :raises TuneError: the file is there, or cannot be written.
    """

    def __init__(self, path: str, *, replace: bool) -> None:
        self._path = path
        self._replace = replace
        if not replace and os.path.lexists(path):
            raise self._is_there()
        folder = os.path.dirname(os.path.abspath(path))
        # Now, and not after all has been measured.
        if not os.path.isdir(folder):
            raise TuneError(f"{path} cannot be written: there is no folder {folder}.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise TuneError(f"{path} cannot be written: no permission in {folder}.")

    def write(self, outcome: Outcome, choice: Choice) -> None:
        """Write it whole or not at all.

        :raises TuneError: it cannot be written, or has appeared meanwhile.
        """
        # In the same folder, so that it only needs a new name.
        draft = f"{self._path}.{secrets.token_hex(4)}.part"
        try:
            try:
                with open(draft, "x", encoding="utf-8") as file:
                    file.write(render(outcome, choice))
                if self._replace:
                    os.replace(draft, self._path)
                else:
                    os.link(draft, self._path)  # unlike a renaming it replaces nothing
            finally:
                if os.path.lexists(draft):
                    os.unlink(draft)
        except FileExistsError:
            raise self._is_there() from None
        except OSError as error:
            raise TuneError(
                f"{self._path} cannot be written: {error.strerror}."
            ) from error

    def _is_there(self) -> TuneError:
        return TuneError(
            f"{self._path} is there already; --force replaces it, or choose another"
            " name."
        )


def render(outcome: Outcome, choice: Choice) -> str:
    """Return the page of an outcome, and of the choice in it."""
    plan = outcome.plan
    page = _PAGE.format(
        title=f"Pool size of {plan.app}",
        style=Markup(STYLE),  # noqa: S704 (a constant of ours)
        when=f"Measured by flask pool tune, {outcome.taken_at}",
        result=_result(outcome, choice),
        notes=_caveats(outcome),
        throughput=_throughput(outcome, choice),
        chosen="the least that it takes" if choice.still_rising else "enough",
        latency=_latency(outcome, choice),
        table=_table(outcome),
        run=_run(outcome),
    )
    return str(page)


def _result(outcome: Outcome, choice: Choice) -> Markup:
    return Markup(
        '<section class="result"><p class="size">{size}</p><div><p>{headline}</p>'
        '<pre>{setting}</pre><p class="quiet">{words}</p></div></section>'
    ).format(
        size=f"≥ {choice.size}" if choice.still_rising else choice.size,
        headline=run_view.headline(outcome, choice),
        setting=run_view.setting(outcome.plan, choice),
        words=run_view.in_words(outcome, choice),
    )


def _caveats(outcome: Outcome) -> Markup:
    items = [
        Markup('<li class="{}"><b>{}</b> {}</li>').format(
            "warning" if note.is_serious else "note",
            "Warning" if note.is_serious else "Note",
            note.message,
        )
        for note in caveats_of(outcome)
    ]
    if not items:
        return Markup("")
    return Markup('<ul class="notes">\n{}\n</ul>').format(Markup("\n").join(items))


def _throughput(outcome: Outcome, choice: Choice) -> Markup:
    plan = outcome.plan
    dots = [
        Dot(
            each.size,
            each.per_second,
            min(each.rounds),
            max(each.rounds),
            f"pool_size {each.size}: {number(each.per_second)} {plan.unit}/s",
        )
        for each in outcome.sizes
    ]
    return chart(
        f"Throughput by pool size; {run_view.headline(outcome, choice)}",
        f"{plan.unit} per second, all processes",
        [Line("rate", dots)],
        lambda size: choice.law.throughput(size * plan.processes),
        Chosen(choice.size, choice.low, choice.high),
    )


def _latency(outcome: Outcome, choice: Choice) -> Markup:

    def dots(name: str, of: t.Callable[[Size], float | None]) -> list[Dot]:
        return [
            Dot(
                each.size,
                (of(each) or 0) * 1000,
                None,
                None,
                f"pool_size {each.size}: {name} {latency(of(each))}",
            )
            for each in outcome.sizes
        ]

    return chart(
        "Latency by pool size",
        "milliseconds",
        [
            Line("p95", dots("p95", lambda each: each.p95_seconds), joined=True),
            Line("p50", dots("p50", lambda each: each.p50_seconds), joined=True),
        ],
        None,
        Chosen(choice.size, choice.low, choice.high),
    )


def _table(outcome: Outcome) -> Markup:
    heads = Markup("").join(
        Markup("<th>{}</th>").format(each.format(unit=outcome.plan.unit))
        for each in _TABLE_HEADINGS
    )
    rows = []
    for each in outcome.sizes:
        share = each.machine_share
        cells = (
            str(each.size),
            str(each.connections),
            number(each.per_second),
            number(min(each.rounds)),
            number(max(each.rounds)),
            latency(each.p50_seconds),
            latency(each.p95_seconds),
            f"{each.busy:.1f}",
            "?" if share is None else f"{share:.0%}",
        )
        is_chosen = outcome.choice is not None and outcome.choice.size == each.size
        rows.append(
            Markup("<tr{}>{}</tr>").format(
                Markup(' class="chosen"') if is_chosen else "",
                Markup("").join(Markup("<td>{}</td>").format(cell) for cell in cells),
            )
        )
    return Markup(
        '<div class="scroll"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody>'
        '\n</table></div>\n<p class="key">In use: connections of each process that'
        " were out, on average. CPU: of all cores of the machine that brought the"
        " load.</p>"
    ).format(heads, Markup("\n").join(rows))


def _run(outcome: Outcome) -> Markup:
    plan = outcome.plan
    total = sum(work.weight for work in plan.works)
    items = [
        Markup("<li><code>{}</code>{}</li>").format(
            str(work), f" {work.weight / total:.0%}" if len(plan.works) > 1 else ""
        )
        for work in plan.works
    ]
    return Markup(
        "<ul>{works}</ul>\n<p>{processes} × {threads} threads (processes × threads of"
        " each), each beginning anew as soon as it is answered; {rounds} rounds of"
        " {seconds:g} s for each size, in an order that chance decided. Bind"
        " <b>{bind}</b>: <code>{url}</code>, {server}. The machine that brought the"
        " load has {cores} cores.</p>"
    ).format(
        works=Markup("\n").join(items),
        processes=plan.processes,
        threads=plan.threads,
        rounds=plan.rounds,
        seconds=plan.seconds,
        bind=plan.bind,
        url=plan.url,
        server=plan.server or "a server that is unknown",
        cores=plan.cores,
    )
