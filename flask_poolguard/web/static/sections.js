// Findings, holders, the last hour, servers and settings.

import { byId, count, duration, el, svg } from "./parts.js";
import { isLong, nameOf } from "./pools.js";

const MOST_HOLDERS = 20;
const SIGNS = { critical: "✕", warning: "!", info: "i" };
const FRESH_SECONDS = 3;

function finding(each) {
  return el("li", { class: `finding ${each.level}` },
    el("p", { class: "what" },
      el("span", { class: "sign", "aria-hidden": "true" }, SIGNS[each.level]),
      el("strong", {}, `${each.level} `), el("code", {}, each.code), " ", each.message),
    each.consequence ? el("p", { class: "so" }, "So: ", each.consequence) : "",
    el("p", { class: "fix" }, el("strong", {}, "Fix: "), each.fix));
}

export function drawFindings(report) {
  const hints = report.findings.filter((each) => each.level === "info");
  const grave = report.findings.filter((each) => each.level !== "info");
  byId("findings-part").hidden = !grave.length;
  byId("findings").replaceChildren(...grave.map(finding));
  byId("hints-part").hidden = !hints.length;
  byId("hints").replaceChildren(...hints.map(finding));
}

// Return the connections that are out, those of one endpoint, line and fate together.
function heldNow(report) {
  const groups = new Map();
  for (const worker of report.workers) {
    for (const pool of worker.pools) {
      for (const each of pool.holders) {
        const key = JSON.stringify(
          [pool.bind, each.endpoint, each.site, each.now, each.kept, each.gone]);
        if (!groups.has(key)) groups.set(key, []);
        groups.get(key).push({ worker, pool, ...each });
      }
    }
  }
  const longest = (group) => group[0].held_seconds;
  for (const group of groups.values()) {
    group.sort((one, other) => other.held_seconds - one.held_seconds);
  }
  return [...groups.values()].sort((one, other) => longest(other) - longest(one));
}

function where(each) {
  const nodes = [];
  if (each.now) {
    const old = (each.now_seconds ?? 0) > FRESH_SECONDS;
    nodes.push(el("span", {}, "now at ", el("code", {}, each.now),
      old ? ` (seen ${duration(each.now_seconds)} ago)` : ""));
  }
  if (each.site) {
    nodes.push(el("span", { class: "taken" }, "taken at ", el("code", {}, each.site)));
  }
  return el("span", { class: "where" }, ...nodes);
}

function holders(group, host) {
  const first = group[0];
  const tags = [];
  if (first.kept) tags.push("kept on purpose");
  if (first.gone) tags.push("ended by the server");
  const long = isLong(first.pool, first);
  const isOpening = first.endpoint === null && first.site === null;
  const workers = [...new Set(group.map((each) => nameOf(each.worker, host)))];
  return el("li", { class: "holder" },
    el("span", { class: first.gone || long ? "age bad" : "age" },
      duration(first.held_seconds), long ? el("span", { class: "unseen" }, ", too long") : ""),
    el("span", { class: "who" },
      group.length > 1 ? `${group.length} × ` : "",
      el("strong", {}, isOpening ? "being opened" : first.endpoint ?? "?"),
      el("small", {}, ` ${first.pool.bind}, ${workers.length > 1 ? "workers" : "worker"} `,
        workers.join(" "), ...tags.map((tag) => el("span", { class: "tag" }, tag)))),
    where(first));
}

export function drawHolders(report) {
  const held = heldNow(report);
  const nodes = held.slice(0, MOST_HOLDERS).map((each) => holders(each, report.host));
  const more = held.slice(MOST_HOLDERS).flat().length;
  if (more > 0) nodes.push(el("li", { class: "quiet" }, `and ${more} more`));
  if (!held.length) nodes.push(el("li", { class: "quiet" }, "No connection is out."));
  byId("holders").replaceChildren(...nodes);
}

const FIGURES = [
  ["checkouts", "checkouts", ""], ["most_out", "most out", ""],
  ["waits", "waits", "warn"], ["most_waiting", "most waiting", "warn"],
  ["timeouts", "timeouts", "bad"], ["unavailable", "no connection", "bad"],
  ["leaks", "leaks", "bad"],
];
const MINUTES = 60;
const STEP = 4;
const HEIGHT = 24;

function sparkline(values, kind, label) {
  const most = Math.max(...values);
  const bars = values.flatMap((value, index) => {
    if (!value) return [];
    const height = Math.max((value / most) * HEIGHT, 2);
    return [svg("rect", {
      x: index * STEP, y: HEIGHT - height, width: STEP - 1, height,
    })];
  });
  return svg("svg", {
    viewBox: `0 0 ${MINUTES * STEP} ${HEIGHT}`, class: `spark ${kind}`, role: "img",
    "aria-label": label, preserveAspectRatio: "none",
  }, svg("path", { d: `M0 ${HEIGHT - 0.5}H${MINUTES * STEP}`, class: "base" }), ...bars);
}

function timeOf(seconds) {
  const options = { hour: "2-digit", minute: "2-digit", hour12: false };
  return new Date(seconds * 1000).toLocaleTimeString([], options);
}

function figure(minutes, first, [key, name, kind]) {
  const values = Array.from({ length: MINUTES }, (_, each) =>
    minutes.get(first + each * 60)?.[key] ?? 0);
  const most = Math.max(...values);
  if (!most) return null;
  const last = values.findLastIndex((value) => value > 0);
  const told = `max ${most}, last ${timeOf(first + last * 60)}`;
  return el("div", { class: "figure" },
    el("span", { class: "name" }, name),
    sparkline(values, kind, `${name}: ${told}`),
    el("span", { class: "most", "aria-hidden": "true" }, told));
}

export function drawHour(report) {
  const now = Math.floor(Date.parse(report.taken_at) / 60_000) * 60;
  const first = now - (MINUTES - 1) * 60;
  const binds = new Map();
  for (const each of report.minutes) {
    if (!binds.has(each.bind)) binds.set(each.bind, new Map());
    binds.get(each.bind).set(each.at, each);
  }
  const nodes = [...binds].map(([bind, minutes]) =>
    el("div", { class: "bind-hour" }, el("h3", {}, bind),
      ...FIGURES.map((each) => figure(minutes, first, each)).filter(Boolean)));
  if (!nodes.length) nodes.push(el("p", { class: "quiet" }, "Nothing happened."));
  byId("hour").replaceChildren(...nodes);
}

function serverText(server) {
  const parts = [];
  if (server.product) parts.push(server.product);
  if (server.max_connections !== null) {
    const taken = server.connections ?? "?";
    const room = server.max_connections - (server.reserved ?? 0) - (server.connections ?? 0);
    parts.push(`${taken} of ${server.max_connections} connections, room for ${room}`);
  }
  if (server.budget !== null) {
    parts.push(`budget: ${server.budget_taken ?? "?"} of ${server.budget} places taken`);
  }
  return parts.join(", ") || "not asked by this page: flask pool status asks";
}

export function drawServers(report) {
  const servers = new Map(report.servers.map((each) => [each.bind, each]));
  const nodes = report.settings.map((bind) =>
    el("div", { class: "server" }, el("h3", {}, bind.bind),
      el("p", {}, el("code", {}, bind.url)),
      servers.has(bind.bind) ? el("p", { class: "quiet" }, serverText(servers.get(bind.bind))) : "",
      el("dl", {}, ...[{ name: "pool", value: bind.pool_class, origin: "" }, ...bind.settings]
        .map((each) => el("div", {}, el("dt", {}, each.name),
          el("dd", {}, each.value, each.origin ? el("small", {}, ` ${each.origin}`) : ""))))));
  if (!nodes.length) nodes.push(el("p", { class: "quiet" }, "No bind is known."));
  byId("servers").replaceChildren(...nodes);
}

export function countWorkers(report) {
  const stopped = report.workers.filter((each) => each.stopped).length;
  const text = `${count(report.workers.length, "live worker")} on ${report.host}`;
  return stopped ? `${text}, ${stopped} stopped` : text;
}
