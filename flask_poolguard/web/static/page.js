// Asks for the report while the page is visible, and draws what has changed.

import { byId, changes, clock, duration, say } from "./parts.js";
import { drawGone, drawLegend, drawWorkers, watchWorkers } from "./pools.js";
import {
  countWorkers, drawFindings, drawHolders, drawHour, drawServers,
} from "./sections.js";

// What these add up to is in docs/web.md, "How soon".
const EVERY = 1000;
// An answer takes milliseconds. A browser asks again by the same connection, which leads
// to the same worker; that one may be stopped, or all its threads may be busy. While that
// connection is in use, a second question takes another, which may reach another worker.
const ASK_AGAIN = 250;
const GIVE_UP = 3000;
const SIGNS = { critical: "✕", warning: "!", ok: "✓", unknown: "?", silent: "?" };

const hasChanged = changes();
const gone = watchWorkers();
let timer = null;
let asking = null;
let report = null;
let answeredAt = Date.now();
let failure = "";

function isVisible() {
  return document.visibilityState === "visible";
}

async function question(signal) {
  const answer = await fetch("status.json", { signal, cache: "no-store" });
  return { status: answer.status, report: answer.ok ? await answer.json() : null };
}

// Ask, and once more if the answer does not come soon or is cut off; the first counts.
async function ask(signal) {
  const first = question(signal);
  const soon = first.then(() => true, () => false);
  const late = new Promise((done) => setTimeout(done, ASK_AGAIN, false));
  return await Promise.race([soon, late]) ? first : Promise.any([first, question(signal)]);
}

async function poll() {
  if (asking || !isVisible()) return;
  const aborter = new AbortController();
  const deadline = setTimeout(() => aborter.abort(), GIVE_UP);
  asking = aborter;
  try {
    const answer = await ask(aborter.signal);
    if (!answer.report) throw new Error(`HTTP ${answer.status}`);
    report = answer.report;
    answeredAt = Date.now();
    failure = "";
  } catch (error) {
    // Else it was given up because the page is not visible.
    if (isVisible()) failure = describe(error.errors?.at(-1) ?? error);
  } finally {
    clearTimeout(deadline);
    aborter.abort(); // the question that was not answered
    asking = null;
    plan();
  }
  if (failure) {
    showSilence();
  } else if (report) {
    draw();
  }
}

function describe(error) {
  if (error.message === "HTTP 404") {
    return "The app refuses this page now (404): log in again, then reload it";
  }
  if (error.message.startsWith("HTTP ")) {
    return `The app answers with an error (${error.message}); its log says more`;
  }
  if (error.name === "AbortError") {
    return "The app does not answer: all its threads may be busy, or wait for a connection";
  }
  return "The app cannot be reached: it may be down, or the way to it";
}

function plan() {
  clearTimeout(timer);
  if (isVisible()) timer = setTimeout(poll, failure ? 500 : EVERY);
}

function showVerdict(level, word, cause, taken) {
  byId("verdict").dataset.level = level;
  document.body.classList.toggle("silent", level === "silent");
  say("sign", SIGNS[level] ?? "?");
  say("level", word);
  say("cause", cause);
  say("taken", taken);
  document.title = `${SIGNS[level] ?? "?"} ${word} ${report?.app ?? ""} pools`;
}

function showSilence() {
  const age = duration((Date.now() - answeredAt) / 1000);
  const before = report
    ? `Below, as it was at ${clock(answeredAt)}: ${report.verdict.level}, ${report.verdict.text}`
    : "";
  showVerdict("silent", "NO ANSWER", `${failure} (for ${age}).`, before);
  announce(failure, "no answer");
}

function draw() {
  const { level, text } = report.verdict;
  const taken = `${clock(Date.parse(report.taken_at))}, asked every ${EVERY / 1000} s`;
  showVerdict(level, level.toUpperCase(), text, taken);
  say("about", report.app);
  const codes = report.findings.filter((each) => each.level !== "info").map((each) => each.code);
  announce(`${level}: ${text}`, level, codes);
  say("workers-count", countWorkers(report));
  if (hasChanged("workers", report.workers, report.host)) {
    drawWorkers(report);
    drawHolders(report);
  }
  const ended = gone(report, answeredAt);
  if (hasChanged("gone", ended)) drawGone(ended);
  if (hasChanged("findings", report.findings)) drawFindings(report);
  const minute = Math.floor(Date.parse(report.taken_at) / 60_000);
  if (hasChanged("hour", report.minutes, minute)) drawHour(report);
  if (hasChanged("servers", report.servers, report.settings)) drawServers(report);
}

// A screen reader is told when the verdict changes, not each time that an age in it does.
function announce(text, ...about) {
  if (hasChanged("announced", ...about)) say("announced", text);
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
poll();
