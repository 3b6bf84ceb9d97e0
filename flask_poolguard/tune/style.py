"""The style sheet of the HTML page, for light and dark screens."""

from __future__ import annotations

import typing as t

STYLE: t.Final = """
:root {
  --page: #ffffff; --card: #f5f7fa; --ink: #1b2330; --quiet: #5a6576;
  --grid: #dfe3ea; --rate: #1f6feb; --p95: #b4470f; --p50: #7a8699;
  --law: #7a8699; --chosen: #12805c; --band: #12805c22; --warning: #9a5b00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161d; --card: #1b212b; --ink: #e6eaf0; --quiet: #9aa6b8;
    --grid: #2c3440; --rate: #6cb0ff; --p95: #ff9e64; --p50: #8b98ab;
    --law: #8b98ab; --chosen: #4bd6a3; --band: #4bd6a326; --warning: #f0b44c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif;
}
main { max-width: 820px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 36px 0 8px; }
p { margin: 0 0 8px; }
.quiet, .key { color: var(--quiet); font-size: .875rem; }
.result {
  display: flex; gap: 24px; align-items: center; margin: 24px 0 16px;
  padding: 20px 24px; background: var(--card); border-radius: 10px;
}
.result .size {
  font-size: 4rem; line-height: 1; font-weight: 650; color: var(--chosen); margin: 0;
}
.result div { min-width: 0; }
.result div p:last-child { margin: 0; }
pre, code { font: .875rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
pre {
  margin: 0 0 8px; padding: 6px 10px; background: var(--page); border-radius: 6px;
  white-space: pre-wrap;
}
.notes { list-style: none; margin: 0; padding: 0; }
.notes li {
  margin: 0 0 8px; padding: 4px 12px; border-left: 3px solid var(--quiet);
  overflow-wrap: anywhere;
}
.notes .warning { border-color: var(--warning); }
.notes .warning b { color: var(--warning); }
svg { display: block; width: 100%; height: auto; }
svg text { font: 13px system-ui, sans-serif; fill: var(--quiet); }
svg text.axis { font-weight: 600; }
svg text.chosen { fill: var(--chosen); font-weight: 600; }
.grid { stroke: var(--grid); }
.band { fill: var(--band); }
line.chosen { stroke: var(--chosen); stroke-width: 2; }
polyline { fill: none; }
polyline.law { stroke: var(--law); stroke-width: 2; stroke-dasharray: 6 5; }
polyline.joined { stroke-width: 1.5; }
polyline.p95, .spread { stroke: var(--p95); }
polyline.p50 { stroke: var(--p50); }
.spread { fill: none; stroke: var(--rate); stroke-width: 1.5; }
.dot { stroke: var(--page); stroke-width: 1.5; }
.dot.rate { fill: var(--rate); }
.dot.p95 { fill: var(--p95); }
.dot.p50 { fill: var(--p50); }
.key span { font-size: 1rem; margin-left: 10px; }
.key span:first-child { margin-left: 0; }
.key .rate { color: var(--rate); }
.key .p95 { color: var(--p95); }
.key .p50 { color: var(--p50); }
.key .law { color: var(--law); }
.key .chosen { color: var(--chosen); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; white-space: nowrap; }
th { color: var(--quiet); font-size: .8125rem; font-weight: 600; }
td { border-top: 1px solid var(--grid); }
tr.chosen td { background: var(--band); font-weight: 600; }
"""
