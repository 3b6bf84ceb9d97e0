// Workers with their pools: a row of marks for each pool, one mark per connection.

import { briefly, byId, clock, count, duration, el } from "./parts.js";

// More marks than that say no more than their number.
const MOST_MARKS = 60;
// From so many seconds on, the age of a connection that is out is shown in its mark.
const AGE_SHOWN = 1;
const GONE_SHOWN = 600_000;
const MOST_GONE = 8;
const OBSTACLES = {
  away: "server does not answer",
  full: "server has no connection left",
  login: "server refuses the login",
};

export const isLong = (pool, held) =>
  !held.kept &&
  pool.held_warning_seconds !== null &&
  held.held_seconds >= pool.held_warning_seconds;

const isOpening = (held) => held.thread === null && held.endpoint === null;

export function limitOf(pool) {
  if (!pool.size || pool.max_overflow === null || pool.max_overflow < 0) return null;
  return pool.size + pool.max_overflow;
}

// Return a mark for each place of a pool: its kind, its text, and what it says.
function marksOf(pool) {
  const marks = pool.holders.map((held) => {
    const age = held.held_seconds;
    const told = age >= AGE_SHOWN ? briefly(age) : "";
    const what = `${held.endpoint ?? "?"}, out for ${duration(age)}`;
    if (isOpening(held)) return ["opening", "…", "being opened or tested"];
    if (held.gone) return ["gone", "×", `ended by the server; ${what}`];
    if (held.kept) return ["kept", "K", `kept on purpose; ${what}`];
    if (isLong(pool, held)) return ["long", told, what];
    return [age >= AGE_SHOWN ? "aged" : "out", told, what];
  });
  const fill = (number, ...mark) => {
    for (let each = 0; each < number; each += 1) marks.push(mark);
  };
  fill((pool.checked_out ?? 0) - pool.holders.length, "out", "?", "out, holder not known");
  fill(pool.idle ?? 0, "idle", "", "idle");
  fill((limitOf(pool) ?? 0) - marks.length, "free", "", "not opened, may be");
  return marks;
}

function row(pool) {
  const marks = marksOf(pool);
  const shown = marks.slice(0, MOST_MARKS);
  const nodes = shown.map(([kind, text, title]) =>
    el("span", { class: `mark ${kind}`, title }, text));
  if (pool.size && pool.size < shown.length) {
    nodes.splice(pool.size, 0, el("span", { class: "edge", title: "overflow from here on" }));
  }
  if (marks.length > MOST_MARKS) nodes.push(`+${marks.length - MOST_MARKS}`);
  const waiters = Math.min(pool.waiting ?? 0, 12);
  const queue = Array.from({ length: waiters }, () => el("span", { class: "waiter" }, "›"));
  return el("div", { class: "row", role: "img", "aria-label": inWords(pool) },
    ...(queue.length ? [el("span", { class: "queue" }, ...queue)] : []), ...nodes);
}

function inWords(pool) {
  const limit = limitOf(pool);
  const held = pool.holders.filter((each) => !isOpening(each));
  const long = held.filter((each) => isLong(pool, each)).length;
  const open = (pool.checked_out ?? 0) + (pool.idle ?? 0);
  return [
    `${pool.checked_out ?? "unknown how many"} out`,
    held.length ? `the longest for ${duration(held[0].held_seconds)}` : "",
    long ? `${long} for too long` : "",
    `${pool.idle ?? "unknown how many"} idle`,
    pool.overflow > 0 ? `${pool.overflow} of them overflow` : "",
    limit === null ? "no limit known" : `room for ${Math.max(limit - open, 0)} more`,
    pool.waiting ? `${pool.waiting} waiting` : "nothing waits",
  ].filter(Boolean).join(", ");
}

function facts(pool) {
  const limit = limitOf(pool);
  const unlimited = pool.size === 0 || pool.max_overflow === -1;
  const of = limit ?? (unlimited ? "∞" : "?");
  const isFull = limit !== null && (pool.checked_out ?? 0) >= limit;
  const out = [
    el("span", { class: isFull ? "fact warn" : "fact" },
      `${pool.checked_out ?? "?"} of ${of} out${isFull ? ", full" : ""}`),
  ];
  const add = (kind, text) => out.push(el("span", { class: `fact ${kind}` }, text));
  if (pool.waiting) {
    const age = duration(pool.oldest_wait_seconds);
    add("bad", `${pool.waiting} waiting, first for ${age}`);
  }
  if (pool.obstacle) {
    const text = OBSTACLES[pool.obstacle] ?? pool.obstacle;
    add("bad", `${text}, for ${duration(pool.obstacle_seconds)}`);
  }
  if (pool.connecting && (pool.oldest_connect_seconds ?? 0) >= 1) {
    add("warn", `${pool.connecting} connecting for ${duration(pool.oldest_connect_seconds)}`);
  }
  if (pool.timeouts) add("", count(pool.timeouts, "timeout"));
  if (pool.unavailable) add("", `${pool.unavailable} refused`);
  if (pool.closed?.dead) add("", `${pool.closed.dead} found dead`);
  if (pool.leaks) add("warn", count(pool.leaks, "leak"));
  return out;
}

function describePool(pool) {
  return el("div", { class: "pool" },
    el("span", { class: "bind" }, pool.bind),
    el("div", { class: "places" }, row(pool), el("span", { class: "facts" }, ...facts(pool))));
}

export function nameOf(worker, host) {
  return worker.host === host ? `${worker.pid}` : `${worker.host}:${worker.pid}`;
}

export function drawWorkers(report) {
  const nodes = report.workers.map((worker) =>
    el("article", { class: worker.stopped ? "worker stopped" : "worker" },
      el("h3", {}, `worker ${nameOf(worker, report.host)}`,
        worker.stopped ? el("span", { class: "badge" }, "■ stopped") : ""),
      ...(worker.pools.length
        ? worker.pools.map(describePool)
        : [el("p", { class: "quiet" }, "no pool in use yet")])));
  if (!nodes.length) nodes.push(el("p", { class: "bad" }, "No live worker was found."));
  byId("workers").replaceChildren(...nodes);
}

const LEGEND = [
  ["out", "", "out"], ["aged", "7s", "out for so long"], ["long", "2m", "out for too long"],
  ["opening", "…", "being opened"], ["idle", "", "idle"], ["free", "", "room for one more"],
  ["kept", "K", "kept on purpose"], ["gone", "×", "ended by the server"],
];

export function drawLegend() {
  const items = LEGEND.map(([kind, text, what]) =>
    el("span", {}, el("span", { class: `mark ${kind}`, "aria-hidden": "true" }, text), ` ${what}`));
  items.push(el("span", {}, el("span", { class: "edge", "aria-hidden": "true" }), " overflow after this"));
  items.push(el("span", {}, el("span", { class: "waiter", "aria-hidden": "true" }, "›"), " waits"));
  byId("legend").replaceChildren(...items);
}

// Remember the workers of the poll before, to name those that are gone.
export function watchWorkers() {
  let before = new Map();
  let gone = [];
  return (report, now) => {
    const key = (each) => `${each.host} ${each.pid} ${each.started_at}`;
    const live = new Map(report.workers.map((each) => [key(each), nameOf(each, report.host)]));
    for (const [each, name] of before) {
      if (!live.has(each)) gone.push({ name, at: now });
    }
    before = live;
    gone = gone.filter((each) => now - each.at < GONE_SHOWN).slice(-MOST_GONE);
    return gone;
  };
}

export function drawGone(gone) {
  const list = byId("gone");
  list.hidden = !gone.length;
  list.replaceChildren(...gone.map((each) =>
    el("li", {}, `✕ worker ${each.name} ended, seen at ${clock(each.at)}`)));
}
