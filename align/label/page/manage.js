// The manager's page: everyone's progress, agreement and bias, live; and the guidelines.
import { api, duration, el, markdown, Refusal } from "/static/base.js";

const $ = (id) => document.getElementById(id);
const EVERY = 10000; // ms
let before = ""; // the guidelines as they were read

const number = (n) => n.toLocaleString("en");

function table(node, heads, rows) {
  const head = heads ? [el("thead", {}, el("tr", {}, heads.map((text) => el("th", { scope: "col", text }))))] : [];
  node.replaceChildren(...head, el("tbody", {}, rows.map((row) => el("tr", {}, row.map((text) => el("td", { text }))))));
}

function show(found) {
  $("shown").hidden = false;
  const figures = [["items", found.counts.items], ["still wanted", found.counts.wanted], ["in hand", found.counts.in_hand], ["answers", found.counts.answers]];
  $("counts").replaceChildren(...figures.map(([name, n]) => el("div", {}, el("dt", { text: name }), el("dd", { text: number(n) }))));
  const people = found.annotators.map((a) => [
    a.name, a.live ? "at work" : a.kind === "person" ? "away" : a.kind, `${number(a.done)} of ${number(a.total)}`,
    a.kind === "person" && a.per_hour ? `${Math.round(a.per_hour)} an hour` : "", a.kind === "person" && a.seconds_left ? duration(a.seconds_left) : "",
  ]);
  table($("annotators"), ["name", "", "done", "pace", "time left"], people.length ? people : [["Nobody has begun.", "", "", "", ""]]);
  $("alike").hidden = !found.alike.length;
  $("alike").replaceChildren(...found.alike.map((text) => el("li", { dir: "auto", text })));
  $("links").hidden = !found.token;
  $("link").textContent = link("/", found.token);
  const quality = found.quality;
  table($("lines"), null, quality ? quality.lines : [["Figures appear with the first rankings."]]);
  $("table").hidden = !quality;
  if (quality) table($("table"), quality.table[0], quality.table.slice(1));
  $("export").textContent = found.export;
  $("file").textContent = found.file;
}

const link = (path, token) => `${location.origin}${path}#token=${token}`;

async function renew() {
  if (!confirm("All links that you sent stop working, and everyone has to open a new one. What is saved stays.")) return;
  try {
    const { visitor, manager } = await api("/api/renew", {});
    $("link").textContent = link("/", visitor);
    $("renewed").replaceChildren("Done. Yours is now ", el("code", { class: "link", text: link("/manage", manager) }));
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    $("renewed").textContent = `Not done: ${error.message}`;
  }
}

async function refresh() {
  try {
    const first = $("shown").hidden;
    show(await api("/api/manage"));
    if (first) await edit();
    $("live").textContent = `as of ${new Date().toLocaleTimeString()}`;
    $("notice").hidden = true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    $("notice").textContent = error.message;
    $("notice").hidden = false;
  }
}

function preview() {
  $("preview").replaceChildren(markdown($("text").value));
  $("saved").textContent = $("text").value === before ? "" : "Not saved yet.";
}

async function save() {
  try {
    before = (await api("/api/guidelines", { text: $("text").value, before })).text;
    $("saved").textContent = "Saved.";
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    $("saved").textContent = `Not saved: ${error.message}`;
  }
}

async function edit() {
  try {
    before = $("text").value = (await api("/api/guidelines")).text;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    $("saved").textContent = `The guidelines did not come: ${error.message} Load the page again.`;
    return;
  }
  preview();
  $("text").disabled = $("save").disabled = false;
  $("text").addEventListener("input", preview);
  $("save").addEventListener("click", save);
  addEventListener("beforeunload", (event) => $("text").value !== before && event.preventDefault());
}

async function start() {
  $("renew").addEventListener("click", renew);
  await refresh();
  setInterval(() => document.hidden || refresh(), EVERY);
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
}

start();
