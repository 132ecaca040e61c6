// The review page. Text of documents enters the page as text nodes only; nothing here parses it.
import { api, duration, el, pressed, typing } from "/static/base.js";

const $ = (id) => document.getElementById(id);
let shown = null; // the document on the page
let busy = false; // a decision is on its way: keys wait, so that none falls on a document that was not seen
let mark = -1; // the marked passage that `j` went to last

/** The answer, or null with the refusal's sentence on the page. */
async function ask(path, body) {
  try {
    return await api(path, body);
  } catch (refusal) {
    trouble(refusal.message);
    return null;
  }
}
const read = (path, values) => ask(`${path}?${new URLSearchParams(values)}`);

const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
const words = (key) => key.replaceAll("_", " ");
const filter = () => ({ rule: $("rule").value, why: $("why").value });

function trouble(message) {
  $("trouble").textContent = message;
  $("trouble").hidden = !message;
}

// --- the document

function pieces(list, parent, beside) {
  for (const piece of list) {
    if (piece.gap) parent.append(gap(...piece.gap, beside));
    else if (piece.marked) parent.append(el("mark", { text: piece.text }));
    else parent.append(document.createTextNode(piece.text));
  }
}

function gap(start, end, beside) {
  const id = shown.id;
  const button = el("button", { type: "button", class: "gap" }, `… ${plural(end - start, "character")} not shown: open`);
  button.addEventListener("click", async () => {
    button.disabled = true;
    const answer = await read("/api/part", { id, start, end, beside });
    button.disabled = false;
    if (!answer || !button.isConnected) return;
    const opened = document.createDocumentFragment();
    pieces(answer.pieces, opened, beside);
    button.replaceWith(opened);
  });
  return button;
}

function show(item) {
  shown = item;
  mark = -1;
  $("document").hidden = !item;
  $("done").hidden = Boolean(item);
  $("note").value = "";
  for (const id of ["keep", "drop", "next", "note"]) $(id).disabled = !item;
  if (!item) return;
  origin(item, $("where"));
  $("reasons").replaceChildren(...item.reasons.map(reason));
  $("text").replaceChildren();
  pieces(item.pieces, $("text"), false);
  const pair = Boolean(item.beside);
  $("document").classList.toggle("pair", pair);
  $("where").hidden = pair;
  $("goes").hidden = $("beside").hidden = !pair;
  $("beside-text").replaceChildren();
  if (item.beside) {
    origin(item, $("goes-where"));
    origin(item.beside, $("beside-where"));
    pieces(item.beside.pieces, $("beside-text"), true);
  }
  window.scrollTo({ top: 0 });
}

const origin = (item, place) =>
  place.replaceChildren(el("b", { text: item.source || "no source" }), ` · ${plural(item.length, "character")} · ${item.name}`);

function reason(row) {
  const others = row.others ? ` ${plural(row.others, "other document")} in the queue ${row.others === 1 ? "comes" : "come"} from ${words(row.rule)}.` : "";
  return el("li", {},
    row.rule && el("b", { text: row.reason || row.rule }),
    row.detail && el("span", { text: row.detail }),
    el("span", { class: "muted", text: row.told + others }));
}

function nextMark() {
  const marks = document.querySelectorAll("#document mark");
  if (!marks.length) return;
  if (marks[mark]) marks[mark].classList.remove("here");
  mark = (mark + 1) % marks.length;
  marks[mark].classList.add("here");
  marks[mark].scrollIntoView({ block: "center" });
}

// --- progress and the rules

const share = (found) =>
  found ? [`${Math.round(found.value * 100)} %`, `${Math.round(found.low * 100)} to ${Math.round(found.high * 100)}`] : ["–", ""];

const cell = ([value, range]) => el("td", { class: "num" }, String(value), range && el("span", { text: range }));

async function refresh() {
  const state = await read("/api/state", filter());
  if (!state) return;
  const decided = state.kept + state.dropped;
  $("run").textContent = state.run;
  $("file").textContent = state.file;
  document.title = `${decided} of ${state.total} · Review`;
  const parts = [`${decided.toLocaleString("en")} of ${plural(state.total, "document")} decided`];
  parts.push(`${state.kept} kept, ${state.dropped} dropped`);
  if (state.per_minute) parts.push(`${state.per_minute.toFixed(state.per_minute < 10 ? 1 : 0)} a minute`);
  if (state.seconds_left) parts.push(`${duration(state.seconds_left)} left`);
  parts.push(`as ${state.reviewer}`);
  $("progress").textContent = parts.join(" · ");
  $("bar").max = state.total || 1;
  $("bar").value = decided;
  if ($("rule").length === 1) {
    for (const one of state.filters) $("rule").append(new Option(`${words(one.rule)} (${one.documents})`, one.rule));
  }
  $("rules").replaceChildren(...state.rules.map((row) => el("tr", {},
    el("th", { scope: "row", class: row.rule.includes(": ") && "of", text: words(row.rule.split(": ").pop()) }),
    cell([row.flagged]), cell([row.reviewed]), cell(share(row.precision)), cell(share(row.recall)))));
}

// --- deciding

async function step(path, values, said) {
  if (busy) return;
  busy = true;
  document.body.classList.add("busy");
  const answer = await ask(path, { ...values, ...filter() });
  busy = false;
  document.body.classList.remove("busy");
  if (!answer) return; // the sentence is on the page; the document stays
  trouble("");
  show(answer.document);
  $("saved").textContent = said(answer);
  refresh();
}

const decide = (decision, done) => shown && step("/api/decide", { id: shown.id, decision, note: $("note").value }, () => `Saved: ${done}.`);
const keep = () => decide("keep", "kept");
const drop = () => decide("drop", "dropped");
const undo = () => step("/api/undo", {}, (answer) => (answer.undone ? "Taken back: decide again." : "You have no decision to take back."));

async function skip() {
  if (busy) return;
  busy = true;
  const before = shown && shown.id;
  const answer = await read("/api/next", { ...filter(), after: before || "" });
  busy = false;
  if (!answer) return;
  trouble("");
  show(answer.document);
  $("saved").textContent = shown && shown.id === before ? "This is the only one left." : "";
}

const KEYS = { k: keep, d: drop, n: skip, ArrowRight: skip, u: undo, j: nextMark, "?": () => $("keys").showModal(), m: () => $("note").focus() };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || $("keys").open) return;
  if (event.target === $("note")) {
    if (event.key === "Enter" || event.key === "Escape") $("note").blur();
    return;
  }
  if (typing(event)) return;
  const act = KEYS[pressed(event, KEYS)];
  if (!act || (event.repeat && act !== nextMark)) return; // a key held down decides one document
  event.preventDefault();
  act();
});

$("keep").addEventListener("click", keep);
$("drop").addEventListener("click", drop);
$("next").addEventListener("click", skip);
$("undo").addEventListener("click", undo);
$("help").addEventListener("click", KEYS["?"]);
for (const id of ["rule", "why"]) {
  $(id).addEventListener("change", async () => {
    $(id).blur();
    const answer = await read("/api/next", filter());
    if (answer) show(answer.document);
    refresh();
  });
}
(async () => {
  await refresh();
  const answer = await read("/api/next", filter());
  if (answer) show(answer.document);
})();
