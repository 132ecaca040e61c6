// Small plots drawn by hand as SVG: one metric, a line for each run, its number at the line's end.
import { el } from "/static/base.js";

const SPACE = "http://www.w3.org/2000/svg";
const LEFT = 48, RIGHT = 22, TOP = 9, BOTTOM = 20; // CSS pixels around the lines
const APART = 12; // between two numbers at the ends of lines

function shape(tag, properties = {}, text) {
  const node = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(properties)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

/** A number as people read it: 0.0312, 1,250, 2.5e-5. */
export function short(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e6 || size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e").replace("-", "−").replace("e-", "e−");
  const digits = Math.max(0, 3 - Math.floor(Math.log10(size)));
  const text = value.toLocaleString("en", { maximumFractionDigits: Math.min(digits, 6) });
  return text.replace("-", "−");
}

/** Seconds as 40 s, 3:20 or 1:04:00. */
export function clock(seconds) {
  const whole = Math.round(seconds);
  if (whole < 100) return `${whole} s`;
  const two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(whole / 3600), minutes = Math.floor((whole % 3600) / 60);
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** Round values from low to high, about `most` of them; of a logarithmic scale 1, 2 and 5 times powers of ten. */
export function ticks(low, high, most, log = false) {
  const found = [];
  if (log) {
    for (const set of [[1], [1, 3], [1, 2, 5]]) {
      found.length = 0;
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
        for (const times of set) {
          const value = Number(`${times}e${power}`);
          if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
        }
      }
      if (found.length >= 3) break;
    }
    const every = Math.ceil(found.length / (most + 1));
    if (found.length >= 2) return found.filter((_, at) => at % every === 0);
    found.length = 0; // less than one of these steps: as on a linear scale
  }
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = power * ([1, 2, 5, 10].find((times) => times * power >= rough * 0.999) ?? 10);
  for (let n = Math.ceil(low / size - 1e-9); n * size <= high + size * 1e-9; n++) found.push(Number((n * size).toPrecision(12)));
  return found;
}

/** Times at round seconds, minutes or hours. */
function timeTicks(low, high, most) {
  const steps = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
  const size = steps.find((one) => (high - low) / one <= most) ?? 86400 * Math.ceil((high - low) / 86400 / most);
  const found = [];
  for (let n = Math.ceil(low / size); n * size <= high; n++) found.push(n * size);
  return found;
}

/** An exponential mean with its beginning corrected, as in TensorBoard. */
export function smoothed(values, weight) {
  let sum = 0, share = 0;
  return values.map((value) => {
    sum = weight * sum + (1 - weight) * value;
    share = weight * share + (1 - weight);
    return sum / share;
  });
}

/** Where in a rising list the value nearest to x is. */
export function nearest(list, x) {
  let low = 0, high = list.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - list[low - 1] < list[low] - x ? low - 1 : low;
}

const classes = (run) => `k${run.colour}${run.dashed ? " dashed" : ""}`;

/** A short piece of a run's line, for lists. */
export function swatch(run) {
  const node = shape("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" });
  node.append(shape("path", { class: `line ${classes(run)}`, d: "M1 4H25" }));
  return node;
}

/** One metric's plot. `draw` takes lines `{run, x, y, low, high, odd}`; the run has `number`, `name`, `colour`, `dashed`. */
export class Plot {
  constructor(name, title, onCursor) {
    this.name = name;
    this.svg = shape("svg", { role: "img" });
    this.values = el("p", { class: "values" });
    this.node = el("figure", { "data-metric": name },
      el("figcaption", {}, el("b", { text: title }), " ", title !== name && el("span", { class: "muted", text: name })), this.values, this.svg);
    this.lines = [];
    this.seen = false; // is it on the screen?
    const at = (event) => this.scale && onCursor(this.scale.back(event.clientX - this.svg.getBoundingClientRect().left));
    this.svg.addEventListener("pointermove", at);
    this.svg.addEventListener("pointerdown", at);
    this.svg.addEventListener("pointerleave", () => onCursor(null));
  }

  draw(lines, view) {
    this.lines = lines.filter((line) => line.x.length || line.odd);
    this.view = view;
    this.stale = true;
    if (this.seen) this.paint();
  }

  paint() {
    const width = this.svg.clientWidth, height = this.svg.clientHeight;
    if (!width || !this.view) return;
    this.stale = false;
    const { smooth, axis } = this.view;
    for (const line of this.lines) line.shown = smooth > 0 ? smoothed(line.y, smooth) : line.y;
    const drawn = this.lines.filter((line) => line.x.length);
    const log = this.view.log && drawn.every((line) => line.y.every((value) => value > 0));
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren();
    this.scale = drawn.length ? scaling(drawn, width, height, log, smooth) : null;
    if (this.scale) {
      this.frame(width, height, log, axis);
      for (const line of drawn) this.line(line, smooth);
      this.numbers(drawn, height);
    }
    this.marks = shape("g");
    this.svg.append(this.marks);
    this.svg.setAttribute("aria-label", `${this.name}: ${this.lines.map((line) => line.x.length
      ? `run ${line.run.number} ${line.run.name}, from ${short(line.y[0])} to ${short(line.y.at(-1))}` : `run ${line.run.number}, no number`).join("; ")}`);
    this.point();
  }

  frame(width, height, log, axis) {
    const { X, Y, low, high, first, last } = this.scale;
    for (const value of ticks(low, high, 3, log)) {
      this.svg.append(shape("path", { class: "grid", d: `M${LEFT} ${Y(value)}H${width - RIGHT}` }));
      this.svg.append(shape("text", { x: LEFT - 6, y: Y(value) + 4, "text-anchor": "end" }, short(value)));
    }
    this.svg.append(shape("path", { class: "base", d: `M${LEFT} ${height - BOTTOM}H${width - RIGHT}` }));
    const most = Math.max(2, Math.floor(width / 75));
    const marks = first === last ? [first] : axis === "time" ? timeTicks(first, last, most) : ticks(first, last, most).filter(Number.isInteger);
    for (const value of marks) {
      this.svg.append(shape("path", { class: "base", d: `M${X(value)} ${height - BOTTOM}v4` }));
      this.svg.append(shape("text", { x: X(value), y: height - 4, "text-anchor": "middle" }, axis === "time" ? clock(value) : short(value)));
    }
  }

  line(line, smooth) {
    const { X, Y } = this.scale;
    const path = (values) => values.map((value, at) => `${at ? "L" : "M"}${X(line.x[at]).toFixed(1)} ${Y(value).toFixed(1)}`).join("");
    const of = classes(line.run);
    if (line.low && !smooth) {
      const back = line.low.map((value, at) => `L${X(line.x[at]).toFixed(1)} ${Y(value).toFixed(1)}`).reverse().join("");
      this.svg.append(shape("path", { class: `band k${line.run.colour}`, d: `${path(line.high)}${back}Z` }));
    }
    if (line.x.length === 1) this.svg.append(shape("circle", { class: `k${line.run.colour}`, cx: X(line.x[0]), cy: Y(line.y[0]), r: 3 }));
    if (smooth) this.svg.append(shape("path", { class: `line faint ${of}`, d: path(line.y) }));
    this.svg.append(shape("path", { class: `line ${of}`, d: path(line.shown) }));
  }

  /** The runs' numbers at the ends of their lines, none upon another. */
  numbers(drawn, height) {
    const { X, Y } = this.scale;
    const ends = drawn.map((line) => ({ line, x: X(line.x.at(-1)) + 5, y: Y(line.shown.at(-1)) })).sort((a, b) => a.y - b.y);
    const near = (a, b) => Math.abs(a.x - b.x) < 16;
    ends.forEach((end, at) => {
      for (const other of ends.slice(0, at)) if (near(end, other)) end.y = Math.max(end.y, other.y + APART);
    });
    for (let at = ends.length - 1; at >= 0; at--) { // those that were pushed out below come up again
      ends[at].y = Math.min(ends[at].y, height - BOTTOM - 4);
      for (const other of ends.slice(at + 1)) if (near(ends[at], other)) ends[at].y = Math.min(ends[at].y, other.y - APART);
    }
    for (const { line, x, y } of ends) this.svg.append(shape("text", { class: `name t${line.run.colour}`, x, y: y + 4 }, String(line.run.number)));
  }

  /** The values at the cursor, or the last ones. */
  point() {
    if (!this.view) return;
    const { cursor } = this.view;
    this.values.replaceChildren(...this.lines.map((line) => {
      const at = line.x.length === 0 ? -1 : cursor === null ? line.x.length - 1 : this.under(line, cursor);
      const number = el("b", { class: `t${line.run.colour}`, text: String(line.run.number) });
      return el("span", {}, number, ` ${at < 0 ? "–" : short(line.shown ? line.shown[at] : line.y[at])}`,
        line.odd && el("b", { class: "odd", text: ` ${line.odd[1]} at step ${line.odd[0]}` }));
    }));
    if (!this.marks) return;
    this.marks.replaceChildren();
    if (cursor === null || !this.scale || cursor < this.scale.first || cursor > this.scale.last) return;
    const { X, Y, bottom } = this.scale;
    this.marks.append(shape("path", { class: "cursor", d: `M${X(cursor)} ${TOP}V${bottom}` }));
    for (const line of this.lines) {
      const at = line.x.length ? this.under(line, cursor) : -1;
      if (at >= 0) this.marks.append(shape("circle", { class: `k${line.run.colour}`, cx: X(line.x[at]), cy: Y(line.shown[at]), r: 3.2 }));
    }
  }

  /** The point of a line that is read at x; -1 where the line has none near it. */
  under(line, x) {
    const at = nearest(line.x, x);
    const gap = Math.max(at ? line.x[at] - line.x[at - 1] : 0, at + 1 < line.x.length ? line.x[at + 1] - line.x[at] : 0);
    return Math.abs(line.x[at] - x) <= gap || line.x[at] === x ? at : -1;
  }
}

function scaling(drawn, width, height, log, smooth) {
  const all = (pick) => drawn.flatMap(pick);
  const ends = all((line) => [line.x[0], line.x.at(-1)]);
  const first = Math.min(...ends), last = Math.max(...ends);
  let low = Infinity, high = -Infinity;
  for (const line of drawn) {
    for (const values of smooth || !line.low ? [line.y] : [line.low, line.high]) {
      for (const value of values) {
        if (log && value <= 0) continue;
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
  }
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  const f = log ? Math.log : (value) => value;
  const bottom = height - BOTTOM;
  const across = width - LEFT - RIGHT;
  const X = (x) => (first === last ? LEFT + across / 2 : LEFT + ((x - first) / (last - first)) * across);
  const Y = (y) => bottom - 3 - ((f(Math.max(y, log ? low : y)) - f(low)) / (f(high) - f(low))) * (bottom - TOP - 3);
  const back = (pixel) => Math.min(last, Math.max(first, first + ((pixel - LEFT) / across) * (last - first)));
  return { X, Y, back, low, high, first, last, bottom };
}
