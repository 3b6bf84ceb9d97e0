// Small parts that all sections are drawn with. Texts of the report become text nodes
// and attributes only: a name that holds HTML stays a name.

const SVG = "http://www.w3.org/2000/svg";

export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(key, String(value));
  }
  node.append(...children.filter((each) => each !== null && each !== ""));
  return node;
}

export function byId(id) {
  return document.getElementById(id);
}

// Set a text only if it changed, so that a selection in it stays.
export function say(id, text) {
  const node = byId(id);
  if (node.textContent !== text) node.textContent = text;
}

// Seconds as short as they can be read: 1.2s, 95s, 3m10s, 2h05m, 3d02h.
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "?";
  if (seconds < 10) return `${seconds.toFixed(1)}s`;
  const whole = Math.floor(seconds);
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 120) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  if (whole < 86400) {
    return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
  }
  return `${Math.floor(whole / 86400)}d${two(Math.floor((whole % 86400) / 3600))}h`;
}

// The same with one unit, for where there is room for three letters.
export function briefly(seconds) {
  for (const [unit, letter] of [[86400, "d"], [3600, "h"], [60, "m"]]) {
    if (seconds >= unit) return `${Math.floor(seconds / unit)}${letter}`;
  }
  return `${Math.floor(seconds)}s`;
}

export function count(number, one, many = `${one}s`) {
  return number === 1 ? `1 ${one}` : `${number} ${many}`;
}

export function clock(milliseconds) {
  return new Date(milliseconds).toLocaleTimeString([], { hour12: false });
}

// Find out whether a section has anything new; what is the same is not drawn again, so
// that focus, selection and a screen reader's place in it stay.
export function changes() {
  const drawn = new Map();
  return (id, ...data) => {
    const text = JSON.stringify(data);
    if (drawn.get(id) === text) return false;
    drawn.set(id, text);
    return true;
  };
}
