// The page of runs. It asks for what is new and draws it. All text of runs enters the page as text nodes only.
import { api, duration, el, pressed, typing } from "/static/base.js";
import { Plot, clock, short, swatch } from "/plots.js";

const $ = (id) => document.getElementById(id);
const OFTEN = 2000, SELDOM = 6000; // milliseconds between two questions: while something runs, and while nothing does
const LISTED = 20; // runs in the list before somebody asks for all
const STORE = "align-watch";
// What is looked at first, by the names under which the trainers log it
const FIRST = [
  ["loss", "loss"], ["eval_loss", "held-out loss"], ["objective/scores", "reward"], ["eval_objective/scores", "held-out reward"],
  ["reward", "reward"], ["rewards/margins", "reward margin"], ["rewards/accuracies", "pairs in order"], ["accuracy", "pairs in order"],
  ["objective/kl", "KL"], ["kl", "KL"], ["rollout/length", "length"], ["completions/mean_length", "length"],
  ["policy/entropy_avg", "entropy"], ["entropy", "entropy"], ["rollout/eos_rate", "stops"], ["loss/policy_avg", "policy loss"],
  ["loss/value_avg", "value loss"], ["learning_rate", "learning rate"], ["lr", "learning rate"], ["grad_norm", "gradient norm"],
];
const TITLES = new Map(FIRST);

const kept = JSON.parse(sessionStorage.getItem(STORE) || "{}");
const view = { axis: kept.axis || "step", smooth: kept.smooth || 0, log: kept.log || false, cursor: null };
let runs = []; // as the server lists them
let most = 12; // runs over each other
let instance = ""; // which server: another one has other numbers
let wanted = kept.on || null; // names of what is on, of before a reload
const on = new Map(); // by number of a run: what is known of it
const rows = new Map(); // the list's buttons by number
const plots = new Map(); // by metric
let listedAll = false, asking = false, again = false, lost = false, timer = 0;

function keep() {
  const names = runs.filter((run) => on.has(run.id)).map((run) => run.name);
  sessionStorage.setItem(STORE, JSON.stringify({ on: names, axis: view.axis, smooth: view.smooth, log: view.log }));
}

// --- asking

async function ask() {
  if (asking) return void (again = true);
  clearTimeout(timer);
  asking = true;
  again = false;
  const before = new Map(on);
  const known = [...on].map(([id, one]) => `${id}:${one.generation}:${one.row}`).join(",");
  try {
    take(await api(`/api/state?${new URLSearchParams({ on: known })}`), before);
    if (lost) trouble("");
    lost = false;
  } catch (refusal) {
    trouble(refusal.message);
    lost = true;
  }
  asking = false;
  if (again) return ask();
  timer = setTimeout(() => document.hidden || ask(), runs.some((run) => run.state === "running") ? OFTEN : SELDOM);
}

function take(state, before) {
  const other = instance && state.instance !== instance;
  if (other) {
    wanted = runs.filter((run) => on.has(run.id)).map((run) => run.name);
    on.clear();
    rows.clear();
    $("list").replaceChildren();
  }
  const first = !instance || other;
  const new_ = first ? [] : state.runs.filter((run) => run.state === "running" && !runs.some((one) => one.id === run.id));
  ({ instance, runs, most } = state);
  runs.forEach((run, at) => (run.number = at + 1));
  for (const id of on.keys()) if (!runs.some((run) => run.id === id)) on.delete(id);
  if (first) {
    const named = wanted && runs.filter((run) => wanted.includes(run.name)).map((run) => run.id);
    for (const id of named?.length ? named : state.proposed) begin(id);
    again = on.size > 0;
  } else {
    for (const [id, told] of Object.entries(state.curves)) {
      const one = on.get(Number(id));
      if (one && one === before.get(Number(id))) merge(one, told); // not one that was switched off and on meanwhile
    }
    for (const run of new_) if (begin(run.id)) again = true; // a run that began just now is what one wants to see
    for (const [id, mark] of Object.entries(state.samples)) newSamples(Number(id), mark);
  }
  list();
  draw();
}

function begin(id) {
  if (on.has(id) || on.size >= most) return false;
  const used = new Set([...on.values()].map((one) => one.place));
  let place = 0;
  while (used.has(place)) place += 1;
  on.set(id, { place, generation: 0, row: 0, curves: new Map(), odd: {}, episodes: null, mark: "", samples: null });
  return true;
}

function merge(one, told) {
  if (told.whole) one.curves = new Map();
  Object.assign(one, { known: true, generation: told.generation, row: told.row, odd: told.odd, episodes: told.episodes, leftOut: told.left_out });
  for (const [name, [stay, axis, mean, low, high]] of Object.entries(told.curves)) {
    const [step, seconds] = told.axes[axis];
    const old = one.curves.get(name) || { step: [], seconds: [], mean: [], low: null, high: null };
    const joined = (before, added) => before.slice(0, stay).concat(added);
    one.curves.set(name, {
      step: joined(old.step, step), seconds: joined(old.seconds, seconds), mean: joined(old.mean, mean),
      low: low && joined(old.low || old.mean, low), high: high && joined(old.high || old.mean, high),
    });
  }
}

function trouble(message) {
  $("trouble").textContent = message;
  $("trouble").hidden = !message;
}

// --- the list of runs

function facts(run) {
  const bad = ["failed", "killed", "unreadable"].includes(run.state);
  const parts = [el("span", { class: bad ? "bad" : "word", text: run.state })];
  if (run.state === "running" && run.step !== null) {
    parts.push(`step ${run.step.toLocaleString("en")}${run.steps ? ` of ${run.steps.toLocaleString("en")}` : ""}`);
    if (run.left !== null) parts.push(run.left < 60 ? "under 1 min left" : `about ${duration(run.left)} left`);
    if (run.quiet > 120) parts.push(`silent for ${duration(run.quiet)}`);
  } else if (run.state === "running") parts.push("nothing logged yet");
  else if (run.spent) parts.push(clock(run.spent));
  if (run.gate) parts.push(run.gate === "passed" ? "gate passed" : el("span", { class: "bad", text: `gate ${run.gate}` }));
  if (run.figures) parts.push(run.figures);
  const line = parts.flatMap((part, at) => (at ? [" · ", part] : [part]));
  return run.why ? [...line, el("span", { class: bad ? "bad" : "", text: ` ${run.why}` })] : line;
}

function list() {
  const running = runs.filter((run) => run.state === "running").length;
  $("count").textContent = `${runs.length}${running ? `, ${running} running` : ""}`;
  const shown = runs.filter((run, at) => listedAll || at < LISTED || on.has(run.id));
  for (const run of shown) {
    if (!rows.has(run.id)) rows.set(run.id, el("li", {}, el("button", { type: "button", onclick: () => toggle(run.id) })));
    const one = on.get(run.id);
    const button = rows.get(run.id).firstChild;
    button.setAttribute("aria-pressed", String(Boolean(one)));
    button.replaceChildren(...[
      el("span", { class: "key" }, run.number < 10 ? el("kbd", { text: String(run.number) }) : el("span", { class: "number", text: String(run.number) }),
        one && swatch(colours(one))),
      el("b", { text: run.name }), el("span", { class: "facts" }, facts(run)),
      run.state === "running" && run.steps && run.step !== null
        && el("progress", { max: run.steps, value: Math.min(run.step, run.steps), "aria-label": "steps made" }),
    ].filter(Boolean));
    if (run.number < 10) button.setAttribute("aria-keyshortcuts", String(run.number));
    else button.removeAttribute("aria-keyshortcuts");
  }
  const nodes = shown.map((run) => rows.get(run.id));
  if (nodes.some((node, at) => $("list").children[at] !== node) || $("list").children.length !== nodes.length) $("list").replaceChildren(...nodes);
  $("more").hidden = listedAll || runs.length <= LISTED;
  $("more").textContent = `All ${runs.length} runs`;
  const far = runs.filter((run) => on.has(run.id) && run.state === "running" && run.steps && run.step !== null);
  document.title = far.length ? `${Math.floor((100 * far[0].step) / far[0].steps)} % · ${far[0].name} · Watch` : "Watch";
}

function toggle(id) {
  if (!on.delete(id) && !begin(id)) return trouble(`${most} runs are shown at once; switch one off first.`);
  trouble("");
  keep();
  list();
  draw();
  ask();
}

const colours = (one) => ({ colour: one.place % 6, dashed: one.place >= 6 });

// --- the curves

function lineOf(run, one, name) {
  const curve = one.curves.get(name);
  const odd = one.odd[name];
  if (!curve && !odd) return null;
  const { step = [], seconds = [], mean = [], low = null, high = null } = curve || {};
  const x = view.axis === "time" ? seconds : view.axis === "step" ? step : one.episodes ? step.map((n) => n * one.episodes) : [];
  const none = x.length === 0;
  return { run: { number: run.number, name: run.name, ...colours(one) }, x, y: none ? [] : mean, low: none ? null : low, high: none ? null : high, odd };
}

const groupOf = (name) => (name.includes("/") ? name.split("/")[0] : /^(eval|train)_/.exec(name)?.[1] || "other");

/** Metrics of what is on: those that are looked at first, then by what their names begin with; and those with one value. */
function arranged(shown) {
  const names = new Set(shown.flatMap(([, one]) => [...one.curves.keys(), ...Object.keys(one.odd)]));
  const first = FIRST.map(([name]) => name).filter((name) => names.has(name));
  const groups = new Map([["", first]]);
  const once = [];
  for (const name of [...names].sort()) {
    if (TITLES.has(name)) continue;
    const longest = Math.max(...shown.map(([, one]) => one.curves.get(name)?.mean.length ?? 0));
    if (longest < 2 && !shown.some(([, one]) => one.odd[name])) once.push(name);
    else groups.set(groupOf(name), [...(groups.get(groupOf(name)) || []), name]);
  }
  return { groups, once };
}

let drawn = ""; // which metrics stand on the page

function draw() {
  const shown = runs.filter((run) => on.has(run.id)).map((run) => [run, on.get(run.id)]);
  for (const option of $("axis").options) {
    if (option.value === "episode") option.disabled = shown.some(([, one]) => one.known) && !shown.some(([, one]) => one.episodes);
    if (option.disabled && view.axis === option.value) $("axis").value = view.axis = "step";
  }
  const { groups, once } = arranged(shown);
  const marks = JSON.stringify([[...groups], once.length > 0]);
  if (marks !== drawn) build(groups, once.length > 0);
  drawn = marks;
  for (const names of groups.values()) {
    for (const name of names) plots.get(name).draw(shown.map(([run, one]) => lineOf(run, one, name)).filter(Boolean), view);
  }
  if (once.length) single(shown, once);
  writeSamples(shown);
  const empty = shown.filter(([, one]) => one.known && one.curves.size === 0).map(([run]) => run.name);
  const leftOut = shown.reduce((sum, [, one]) => sum + (one.leftOut || 0), 0);
  let words = shown.length ? "" : "No run is switched on: choose one in the list, or press its number.";
  if (empty.length) words = `${empty.join(", ")}: nothing is logged there${groups.get("").length ? "" : " yet"}.`;
  if (leftOut) words = `${leftOut} metrics beyond the first 300 of a run are left out.`;
  $("nothing").textContent = words;
  $("nothing").hidden = !words;
  filter();
}

const onScreen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const plot = plots.get(entry.target.dataset.metric);
    plot.seen = entry.isIntersecting;
    if (plot.seen && plot.stale) plot.paint();
  }
}, { rootMargin: "200px" });

function build(groups, once) {
  const open = new Map([...document.querySelectorAll("details.group")].map((node) => [node.dataset.group, node.open]));
  const narrow = matchMedia("(max-width: 40rem)").matches;
  const figure = (name) => {
    if (!plots.has(name)) {
      plots.set(name, new Plot(name, TITLES.get(name) || name, moveTo));
      onScreen.observe(plots.get(name).node);
    }
    return plots.get(name).node;
  };
  const sections = [...groups].filter(([, names]) => names.length).map(([group, names]) => {
    const inside = el("div", { class: "plots" }, names.map(figure));
    if (!group) return el("section", { class: "group", "aria-label": "First of all" }, inside);
    return el("details", { class: "group", open: open.get(group) ?? !narrow, "data-group": group },
      el("summary", {}, `${group} `, el("span", { class: "muted", text: String(names.length) })), inside);
  });
  const samples = $("samples") || el("section", { id: "samples", class: "group", tabindex: "-1", "aria-label": "Last samples", hidden: true });
  sections.splice(groups.get("").length ? 1 : 0, 0, samples);
  if (once) sections.push(el("section", { class: "group once", id: "once" }));
  $("curves").replaceChildren(...sections);
}

function single(shown, names) {
  const cell = (one, name) => el("td", { text: one.curves.has(name) ? short(one.curves.get(name).mean.at(-1)) : "" });
  $("once").replaceChildren(el("h2", { text: "Logged once" }), el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col", text: "metric" }),
      shown.map(([run, one]) => el("th", { scope: "col", class: `t${one.place % 6}`, text: String(run.number), title: run.name })))),
    el("tbody", {}, names.map((name) => el("tr", { "data-metric": name }, el("th", { scope: "row", text: name }), shown.map(([, one]) => cell(one, name))))))));
}

function filter() {
  const words = $("find").value.trim().toLowerCase();
  for (const node of document.querySelectorAll("[data-metric]")) {
    node.hidden = !`${node.dataset.metric} ${TITLES.get(node.dataset.metric) || ""}`.toLowerCase().includes(words);
  }
  for (const group of document.querySelectorAll(".group:not(#samples)")) {
    group.hidden = !group.querySelector("[data-metric]:not([hidden])");
    if (words && group.tagName === "DETAILS" && !group.hidden) group.open = true;
  }
  if ($("samples")) $("samples").hidden = Boolean(words) || !$("samples").childElementCount;
}

// --- samples

async function newSamples(id, mark) {
  const one = on.get(id);
  if (!one || one.mark === mark) return;
  one.mark = mark;
  try {
    one.samples = mark ? await api(`/api/samples?run=${id}`) : null;
  } catch {
    one.mark = ""; // the next answer asks again
    return;
  }
  draw();
}

const NAMES = { score: "score", reward: "reward", gold: "gold score", kl: "KL", tokens: "tokens", length: "tokens" };

function sample(row) {
  const numbers = Object.entries(row.numbers).filter(([name]) => name !== "length" || !("tokens" in row.numbers));
  const words = numbers.map(([name, value]) => `${NAMES[name]} ${short(value)}`);
  if (row.cut) words.push("cut at the longest answer");
  return el("li", {}, el("div", { class: "text asked", dir: "auto", text: row.prompt }),
    row.completions.map((text) => el("div", { class: "text answer", dir: "auto", text: text || "(nothing)" })),
    words.length > 0 && el("p", { class: "facts numbers", text: words.join(" · ") }));
}

let written = ""; // whose samples stand on the page

function writeSamples(shown) {
  const having = shown.filter(([, one]) => one.samples?.rows.length);
  const marks = JSON.stringify(having.map(([run, one]) => [run.id, run.number, one.place, one.mark, one.samples.file]));
  if (!$("samples") || marks === written) return;
  written = marks;
  const parts = having.flatMap(([run, one]) => [
    el("h3", {}, el("span", { class: `t${one.place % 6}`, text: `${run.number} ` }), run.name, el("span", { class: "muted", text: ` ${one.samples.file}` })),
    el("ul", { class: "said" }, one.samples.rows.slice(0, having.length > 1 ? 4 : 6).map(sample)),
  ]);
  $("samples").replaceChildren(...(parts.length ? [el("h2", { text: "Last samples" }), ...parts] : []));
}

// --- reading values

function moveTo(x) {
  view.cursor = x;
  for (const plot of plots.values()) if (plot.seen && plot.node.isConnected) plot.point();
  say();
}

function inView() {
  return [...plots.values()].filter((plot) => plot.node.isConnected && !plot.node.hidden && plot.lines.some((line) => line.x.length));
}

function say() {
  const plot = view.cursor === null ? null : inView().sort((a, b) => a.node.compareDocumentPosition(b.node) & 2 ? 1 : -1)[0];
  if (!plot) return void ($("said").textContent = "");
  const at = view.axis === "time" ? clock(view.cursor) : `${view.axis} ${short(Math.round(view.cursor))}`;
  const values = plot.lines.map((line) => {
    const point = line.x.length ? plot.under(line, view.cursor) : -1;
    return `${line.run.number} ${point < 0 ? "–" : short((line.shown || line.y)[point])}`;
  });
  $("said").textContent = `${at}: ${TITLES.get(plot.name) || plot.name} ${values.join(", ")}`;
}

function stepBy(many) {
  const all = [...new Set(inView().flatMap((plot) => plot.lines.flatMap((line) => line.x)))].sort((a, b) => a - b);
  if (!all.length) return;
  const before = all.filter((x) => x < view.cursor).length; // null counts as 0
  const between = view.cursor !== null && all[before] !== view.cursor && many > 0; // a pointer went there
  const at = view.cursor === null ? (many < 0 ? all.length - 1 : 0) : before + many - (between ? 1 : 0);
  moveTo(all[Math.max(0, Math.min(all.length - 1, at))]);
}

// --- tools and keys

function changed() {
  view.axis = $("axis").value;
  view.smooth = Number($("smooth").value);
  view.log = $("log").checked;
  $("smoothed").textContent = view.smooth ? view.smooth.toFixed(2) : "off";
  keep();
  draw();
}

function nextAxis() {
  const open = [...$("axis").options].filter((option) => !option.disabled).map((option) => option.value);
  $("axis").value = open[(open.indexOf(view.axis) + 1) % open.length];
  moveTo(null);
  changed();
}

function toSamples() {
  const place = $("samples");
  if (!place || place.hidden) return;
  const there = document.activeElement === place;
  (there ? $("curves") : place).focus({ preventScroll: true });
  if (there) scrollTo({ top: 0 });
  else scrollTo({ top: place.getBoundingClientRect().top + scrollY - $("tools").offsetHeight - 12 });
}

const KEYS = {
  x: nextAxis,
  l: () => { $("log").checked = !$("log").checked; changed(); },
  s: () => $("smooth").focus(),
  "/": () => $("find").focus(),
  m: toSamples,
  ArrowLeft: (event) => stepBy(event.shiftKey ? -10 : -1),
  ArrowRight: (event) => stepBy(event.shiftKey ? 10 : 1),
  Escape: () => moveTo(null),
  "?": () => $("keys").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || $("keys").open) return;
  if (typing(event) && event.key === "Escape") {
    if (event.target === $("find")) $("find").value = "";
    event.target.blur();
    return filter();
  }
  const letters = typing(event) && !["checkbox", "range"].includes(event.target.type);
  if (letters || (event.target.type === "range" && event.key.startsWith("Arrow"))) return;
  const run = /^[1-9]$/.test(event.key) && runs[Number(event.key) - 1];
  if (run) return event.repeat ? undefined : toggle(run.id);
  const act = KEYS[pressed(event, KEYS)];
  if (!act) return;
  event.preventDefault();
  act(event);
});

$("axis").value = view.axis;
$("smooth").value = String(view.smooth);
$("log").checked = view.log;
$("smoothed").textContent = view.smooth ? view.smooth.toFixed(2) : "off";
$("axis").addEventListener("change", () => { $("axis").blur(); moveTo(null); changed(); });
$("smooth").addEventListener("input", changed);
$("log").addEventListener("change", changed);
$("find").addEventListener("input", filter);
$("help").addEventListener("click", KEYS["?"]);
$("more").addEventListener("click", () => { listedAll = true; list(); });
document.addEventListener("visibilitychange", () => document.hidden || ask());
new ResizeObserver(() => {
  for (const plot of plots.values()) {
    plot.stale = true;
    if (plot.seen && plot.node.isConnected) plot.paint();
  }
}).observe($("curves"));
ask();
