// The pools in short, beside the buttons. No other site may show the live page in a frame,
// nor does this one; it asks for the same figures.

const EVERY = 1000;
const status = document.querySelector("script[data-status]").dataset.status;
const verdict = document.getElementById("verdict");
const pools = document.getElementById("pools");

function cell(text) {
  const node = document.createElement("td");
  node.textContent = text;
  return node;
}

function row(worker, pool) {
  const node = document.createElement("tr");
  const figures = [pool.checked_out, pool.idle, pool.waiting, pool.leaks, pool.closed?.dead];
  node.append(cell(worker.pid), cell(pool.bind), ...figures.map((each) => cell(each ?? "?")));
  return node;
}

function show(report) {
  const { level, text } = report.verdict;
  const said = `${level.toUpperCase()}: ${text}`;
  if (verdict.textContent !== said) verdict.textContent = said;
  pools.replaceChildren(...report.workers.flatMap((worker) =>
    worker.pools.map((pool) => row(worker, pool))));
}

async function poll() {
  try {
    if (document.visibilityState === "visible") {
      const answer = await fetch(status, { cache: "no-store", signal: AbortSignal.timeout(3000) });
      show(await answer.json());
    }
  } catch {
    verdict.textContent = "No answer";
  }
  setTimeout(poll, EVERY);
}

poll();
