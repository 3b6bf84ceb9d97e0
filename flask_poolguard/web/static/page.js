// Asks for the report while the page is visible, and draws what has changed.

import { byId, changes, clock, duration, say } from "./parts.js";
import { drawGone, drawLegend, drawWorkers, watchWorkers } from "./pools.js";
import {
  countWorkers, drawFindings, drawHolders, drawHour, drawServers,
} from "./sections.js";

const EVERY = 1500;
// An answer takes milliseconds; from then on the page says that it waits for one.
const LATE = 3000;
const GIVE_UP = 15_000;
const SIGNS = { critical: "✕", warning: "!", ok: "✓", unknown: "?" };

const hasChanged = changes();
const gone = watchWorkers();
let timer = null;
let asking = null;
let askedAt = 0;
let report = null;
let reportAt = 0;
let failure = "";

function isVisible() {
  return document.visibilityState === "visible";
}

async function poll() {
  if (asking || !isVisible()) return;
  const aborter = new AbortController();
  const deadline = setTimeout(() => aborter.abort(), GIVE_UP);
  asking = aborter;
  askedAt = Date.now();
  try {
    const answer = await fetch("status.json", { signal: aborter.signal, cache: "no-store" });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    report = await answer.json();
    reportAt = Date.now();
    failure = "";
    draw();
  } catch (error) {
    if (isVisible()) failure = describe(error);
  } finally {
    clearTimeout(deadline);
    asking = null;
    drawAge();
    plan();
  }
}

function describe(error) {
  if (error.message === "HTTP 404") {
    return "The app refuses this page now (404): log in again, then reload it.";
  }
  if (error.message.startsWith("HTTP ")) {
    return `The app answered with an error (${error.message}): its log says more.`;
  }
  if (error.name === "AbortError") {
    return "The app does not answer: all its threads may be busy or waiting.";
  }
  return "The app cannot be reached: it may be down, or the way to it.";
}

function plan() {
  clearTimeout(timer);
  if (isVisible()) timer = setTimeout(poll, EVERY);
}

function draw() {
  const { level, text } = report.verdict;
  byId("verdict").dataset.level = level;
  say("sign", SIGNS[level] ?? "?");
  say("level", level.toUpperCase());
  say("about", report.app);
  say("cause", text);
  document.title = `${SIGNS[level] ?? "?"} ${level.toUpperCase()} ${report.app} pools`;
  announce(level, text);
  say("workers-count", countWorkers(report));
  if (hasChanged("workers", report.workers, report.host)) {
    drawWorkers(report);
    drawHolders(report);
  }
  const ended = gone(report, reportAt);
  if (hasChanged("gone", ended)) drawGone(ended);
  if (hasChanged("findings", report.findings)) drawFindings(report);
  const minute = Math.floor(Date.parse(report.taken_at) / 60_000);
  if (hasChanged("hour", report.minutes, minute)) drawHour(report);
  if (hasChanged("servers", report.servers, report.settings)) drawServers(report);
}

// A screen reader is told when the verdict changes, not each time that an age in it does.
function announce(level, text) {
  const codes = report.findings.filter((each) => each.level !== "info").map((each) => each.code);
  if (hasChanged("announced", level, codes)) say("announced", `${level}: ${text}`);
}

function drawAge() {
  const now = Date.now();
  const late = asking !== null && now - askedAt > LATE;
  let text = failure;
  if (!text && late) {
    text = `No answer from the app for ${duration((now - askedAt) / 1000)}: all its threads may be busy or waiting.`;
  }
  if (text && report) text += ` What is shown is of ${clock(reportAt)}.`;
  const stale = byId("stale");
  stale.hidden = !text;
  document.body.classList.toggle("old", Boolean(text));
  say("stale", text);
  if (report) say("taken", `${clock(Date.parse(report.taken_at))}, asked every ${EVERY / 1000} s`);
}

document.addEventListener("visibilitychange", () => {
  if (isVisible()) {
    poll();
  } else {
    clearTimeout(timer);
    asking?.abort();
  }
});

drawLegend();
setInterval(drawAge, 1000);
poll();
