// The page on which answers are ranked. Everything shown from the server becomes text nodes; see /static/base.js.
import { api, duration, el, markdown, pressed, Refusal, typing } from "/static/base.js";
import { moved, ordinal, placed, ranks, stepped, without } from "/ranking.js";

const $ = (id) => document.getElementById(id);
const HEARTBEAT = 30000; // ms; the server gives a name free after four of them
const KEPT = 30; // tasks whose unsaved or just saved ranks the tab remembers, for reloads and undo
const WIDE = matchMedia("(min-width: 70rem)");

let task = null; // what is asked: {id, mark, prompt, completions}, and the `key` under which the tab remembers it
let labels = ""; // which labels are ranked: another project may be served at this address tomorrow
let work = null; // what has been done about it: {groups, reason, better, spent}
let tie = false; // the next one placed ties with the last
let saving = false;
let entering = null; // a login that is under way
let offline = false;
let since = 0; // when the clock of this task last started

/** A request in this tab's name: the browser may have become somebody else's in another tab. */
function call(path, body, { timeout } = {}) {
  const name = sessionStorage.getItem("align-name");
  return api(path, body, { timeout, headers: name ? { "x-align-annotator": encodeURIComponent(name) } : {} });
}

// ------------------------------------------------------------------------------------------- what the tab remembers

function remembered() {
  try {
    return JSON.parse(sessionStorage.getItem("align-work")) || {};
  } catch {
    return {};
  }
}

function remember() {
  if (!task) return;
  count();
  const all = remembered();
  all[task.key] = { ...work, of: task.completions.length, at: Date.now() };
  const kept = Object.entries(all).sort((a, b) => b[1].at - a[1].at).slice(0, KEPT);
  sessionStorage.setItem("align-work", JSON.stringify(Object.fromEntries(kept)));
}

/** What was done about the task on the page before: by this person, about these labels, and as many answers. */
function begun() {
  const found = remembered()[task.key];
  return found?.of === task.completions.length ? found : {};
}

/** Add the time since the clock started; it stands still while the page is hidden. */
function count() {
  const now = performance.now();
  if (work && since) work.spent += (now - since) / 1000;
  since = document.hidden ? 0 : now;
}

// ---------------------------------------------------------------------------------------------------------- showing

function side(value) {
  if (typeof value === "string") return text(value);
  if (value.length === 1) return text(value[0].content); // a plain question or answer needs no label
  return value.map((turn) => el("div", { class: `turn ${turn.role === "user" ? "" : "other"}` }, el("h3", { class: "muted", text: turn.role }), text(turn.content)));
}

function text(words) {
  return words.trim() ? el("div", { class: "text", dir: "auto", text: words }) : el("div", { class: "muted", text: "(an empty answer)" });
}

function card(completion, index) {
  const number = index + 1;
  const key = el("button", { class: "number", "aria-pressed": "false", onclick: (event) => act(event, () => place(index)) }, String(number));
  const tied = el("button", { class: "tie", title: "Tie with the one placed last", "aria-label": `Tie answer ${number} with the one placed last`, onclick: (event) => act(event, () => place(index, true)) }, "=");
  const body = el("div", { class: "body" }, side(completion));
  const whole = el("button", { class: "plain whole", hidden: true, "aria-expanded": "false", onclick: (event) => act(event, () => unfold(body, whole)) }, "Show all");
  const grip = el("span", { class: "grip", "aria-hidden": "true", text: "⠿" });
  const head = el("div", { class: "head" }, key, el("span", { class: "rank" }), whole, tied, grip);
  const node = el("article", { class: "card", "aria-label": `Answer ${number}` }, head, body);
  head.addEventListener("pointerdown", (event) => grab(event, index, event.target === grip));
  return node;
}

function unfold(body, whole) {
  const open = body.classList.toggle("open");
  whole.textContent = open ? "Show less" : "Show all";
  whole.setAttribute("aria-expanded", String(open));
}

/** Long answers scroll inside their cards, by keyboard too. */
function measure() {
  for (const node of document.querySelectorAll(".card")) {
    const body = node.querySelector(".body");
    const long = body.scrollHeight > body.clientHeight + 4;
    node.querySelector(".whole").hidden = !long && !body.classList.contains("open");
    if (long) body.tabIndex = 0;
  }
}

function show(state) {
  labels = state.labels;
  task = state.task && { ...state.task, key: `${labels} ${state.task.mark} ${state.name}` };
  tie = false;
  $("login").hidden = true;
  $("leave").hidden = false;
  $("leave").replaceChildren(el("bdi", { text: state.name }), ": leave");
  $("manage").hidden = !state.manager;
  $("show-guidelines").hidden = false;
  const { done, total, per_hour: pace, seconds_left: left } = state.progress;
  const parts = [`${done} of ${total}`];
  if (pace) parts.push(`${Math.round(pace)} an hour`);
  if (left && task) parts.push(`${left < 60 ? "" : "about "}${duration(left)} left`);
  $("progress").textContent = parts.join(" · ");
  $("work").hidden = $("bar").hidden = !task;
  $("finished").hidden = Boolean(task);
  if (!task) {
    $("finished-text").textContent = done ? `${done} answers of yours are saved. Thank you.` : "Everything that was to be ranked has been given out.";
    return;
  }
  work = { groups: [], reason: "", better: "", spent: 0, ...begun() };
  since = document.hidden ? 0 : performance.now();
  $("prompt").replaceChildren(...[side(task.prompt)].flat());
  $("answers").replaceChildren(...task.completions.map(card));
  $("answers").classList.toggle("many", task.completions.length > 4);
  $("reason").value = work.reason;
  $("better").value = work.better;
  draw();
  measure();
  scrollTo(0, 0);
}

/** The ranking as it stands: on the cards, and in the strip below with places to drop between. */
function draw() {
  const count = task.completions.length;
  const place = ranks(work.groups, count);
  const rest = place.flatMap((rank, answer) => (rank > work.groups.length ? [answer] : []));
  document.querySelectorAll(".card").forEach((node, answer) => {
    const in_ranking = !rest.includes(answer);
    const size = in_ranking ? work.groups[place[answer] - 1].length : 1;
    node.classList.toggle("placed", in_ranking);
    node.querySelector(".rank").textContent = in_ranking ? ordinal(place[answer]) + (size > 1 ? " =" : "") : "";
    const key = node.querySelector(".number");
    key.setAttribute("aria-pressed", String(in_ranking));
    key.setAttribute("aria-label", `Answer ${answer + 1}: ${in_ranking ? `${ordinal(place[answer])}; take out` : "place next"}`);
    node.querySelector(".tie").disabled = in_ranking || !work.groups.length;
  });
  const strip = [];
  work.groups.forEach((group, at) => strip.push(gap(at), cell(ordinal(at + 1), group, { group: at })));
  strip.push(gap(work.groups.length));
  if (!work.groups.length) strip.push(el("span", { class: "muted hint", text: "Best first: press an answer’s number, or drag it here." }));
  else if (rest.length) strip.push(cell(`${ordinal(work.groups.length + 1)}, ${rest.length > 1 ? "not placed: tied last" : "the rest"}`, rest, { rest: true }));
  $("ranking").replaceChildren(...strip);
  const last = $("ranking").querySelector(`[data-group="${work.groups.length - 1}"]`);
  $("ranking").scrollLeft = last ? last.offsetLeft - $("ranking").offsetLeft - 60 : 0; // where it scrolls, on phones
  $("ranking").classList.toggle("tying", tie);
  $("save").disabled = saving || !work.groups.length;
  $("back").disabled = !work.groups.length;
  $("save").firstChild.textContent = saving ? "Saving… " : "Save ";
}

function gap(at) {
  return el("span", { class: "gap", "data-gap": at, "aria-hidden": "true" });
}

function cell(title, group, target) {
  const chips = group.map((answer) => {
    const label = `Answer ${answer + 1}, ${title}`;
    const node = el("button", { class: "chip", "data-answer": answer, "aria-label": target.rest ? `${label}; place next` : `${label}; left and right arrows move it` }, String(answer + 1));
    node.addEventListener("pointerdown", (event) => grab(event, answer, true));
    node.addEventListener("click", (event) => act(event, () => (target.rest ? place(answer) : look(answer))));
    node.addEventListener("keydown", (event) => chipKey(event, answer, target.rest));
    return node;
  });
  const attributes = { class: target.rest ? "cell rest" : "cell" };
  if (!target.rest) attributes["data-group"] = target.group;
  else attributes["data-rest"] = "1";
  return el("span", attributes, el("span", { class: "ordinal", text: title }), ...chips.flatMap((chip, i) => (i ? [el("span", { class: "equals", "aria-hidden": "true", text: "=" }), chip] : [chip])));
}

function look(answer) {
  document.querySelectorAll(".card")[answer].scrollIntoView({ block: "nearest" });
}

function say(words) {
  $("said").textContent = words;
}

function inWords() {
  return work.groups.map((group, at) => `${ordinal(at + 1)}: ${group.map((answer) => answer + 1).join(" equals ")}`).join(", ");
}

function complain(words) {
  $("notice").textContent = words || "";
  $("notice").hidden = !words;
}

// ---------------------------------------------------------------------------------------------------------- ranking

/** Run a button's action; after a click of a pointer Enter means "save" again and not this button. */
function act(event, action) {
  if (event.detail > 0) event.currentTarget.blur();
  action();
}

function change(groups) {
  if (saving) return; // what is on its way to the server stays on the page
  work.groups = groups;
  tie = false;
  remember();
  draw();
  say(inWords() || "Nothing is placed.");
}

function place(answer, tied = tie) {
  if (saving) return;
  if (answer >= task.completions.length) return void say(`There are ${task.completions.length} answers.`);
  change(placed(work.groups, answer, tied));
}

function takeBack() {
  if (work.groups.length) change(without(work.groups, work.groups.at(-1).at(-1)));
}

function chipKey(event, answer, rest) {
  const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  if (rest || (!step && event.key !== "Delete")) return;
  event.preventDefault();
  change(step ? stepped(work.groups, answer, step) : without(work.groups, answer));
  document.querySelector(`.chip[data-answer="${answer}"]`)?.focus();
}

// ------------------------------------------------------------------------------------------------------- drag and drop

/** Drag an answer into the ranking: by the head of its card or its grip, or by its chip. Touch scrolls elsewhere. */
function grab(event, answer, byTouch) {
  if (saving || event.button !== 0 || (event.pointerType !== "mouse" && !byTouch)) return;
  const start = { x: event.clientX, y: event.clientY };
  let ghost = null;
  let over = null;
  const follow = (move) => {
    if (move.pointerId !== event.pointerId) return;
    if (!ghost) {
      if (Math.hypot(move.clientX - start.x, move.clientY - start.y) < 6) return;
      ghost = el("div", { class: "ghost", "aria-hidden": "true" }, String(answer + 1));
      document.body.append(ghost);
      document.body.classList.add("dragging");
    }
    move.preventDefault();
    ghost.style.transform = `translate(${move.clientX}px, ${move.clientY}px)`;
    const under = target(move.clientX, move.clientY);
    if (under !== over) {
      over?.classList.remove("over");
      under?.classList.add("over");
      over = under;
    }
  };
  const finish = (end) => {
    if (end.pointerId !== event.pointerId) return;
    for (const [name, listener] of listeners) document.removeEventListener(name, listener);
    if (!ghost) return;
    ghost.remove();
    document.body.classList.remove("dragging");
    addEventListener("click", swallow, { capture: true, once: true }); // the click that ends the drag is no click
    setTimeout(() => removeEventListener("click", swallow, { capture: true }), 0);
    over?.classList.remove("over");
    if (end.type === "pointerup" && over) drop(answer, over.dataset);
  };
  // on the document: before the drag has begun, a fast pointer leaves what it started on
  const listeners = [["pointermove", follow], ["pointerup", finish], ["pointercancel", finish]];
  for (const [name, listener] of listeners) document.addEventListener(name, listener);
}

function swallow(event) {
  event.stopPropagation();
  event.preventDefault();
}

/** What lies under the pointer: a gap, a rank, the rest; anywhere else in the strip it is the nearest of them. */
function target(x, y) {
  const box = $("ranking").getBoundingClientRect();
  if (x < box.left || x > box.right || y < box.top - 24 || y > box.bottom + 8) return null;
  const all = [...$("ranking").querySelectorAll("[data-gap], [data-group], [data-rest]")];
  const far = (node) => {
    const b = node.getBoundingClientRect();
    return Math.hypot(Math.max(b.left - x, 0, x - b.right), Math.max(b.top - y, 0, y - b.bottom));
  };
  return all.reduce((best, node) => (far(node) < far(best) ? node : best));
}

function drop(answer, { gap: before, group }) {
  if (before !== undefined) change(moved(work.groups, answer, { gap: Number(before) }));
  else if (group !== undefined) change(moved(work.groups, answer, { group: Number(group) }));
  else change(without(work.groups, answer));
}

// ------------------------------------------------------------------------------------------------------------- saving

async function save({ bad = false, skip = false } = {}) {
  if (saving || !task) return;
  if (!bad && !skip && !work.groups.length) return void complain("Place at least the best answer; to say that all are equal, press e.");
  remember();
  const ranking = skip || (bad && !work.groups.length) ? null : ranks(work.groups, task.completions.length);
  const body = { labels, task: task.id, mark: task.mark, ranking, all_bad: bad, skip, reason: work.reason, better: work.better, seconds: work.spent };
  await ask(async () => {
    const state = await call("/api/answer", body);
    show(state);
    const what = skip ? "Skipped" : bad ? "Saved as all bad" : "Saved";
    $("status").textContent = `${what}, ${state.progress.done} of ${state.progress.total}`;
    say(`${what}. ${state.task ? "Next question." : "Nothing is left."}`);
    if (state.task) $("prompt").focus({ preventScroll: true });
  }, "Not saved: ");
}

async function undo() {
  if (saving) return;
  if (task) remember();
  await ask(async () => {
    show(await call("/api/undo", { labels }));
    $("status").textContent = "Taken back: answer again";
    say("The last answer was taken back.");
  });
}

/** One request at a time. Whatever goes wrong is said in a sentence, and what is on the page stays: false then. */
async function ask(request, prefix = "") {
  saving = true;
  if (task) draw();
  try {
    try {
      await request();
    } catch (error) {
      if (error.status !== 401 || !(await again())) throw error;
      await request(); // the server was started anew: the name is known, so the work goes on
    }
    online();
    complain("");
    return true;
  } catch (error) {
    await failed(error, prefix);
    return false;
  } finally {
    saving = false;
    if (task) draw();
  }
}

async function failed(error, prefix) {
  if (!(error instanceof Refusal)) throw error;
  if (error.status === 401 || error.value.other) return login(error.message);
  if (error.status === 410) {
    await reload(); // answered in another tab, given to somebody else, or of other labels than are served now
    return tell(error.message);
  }
  offline = error.status === 0;
  const next = offline ? ` Your work is kept in this tab${prefix ? ": press Enter to try again." : "."}` : "";
  tell(prefix + error.message + next);
}

/** Say it where it can be seen: the notice is in the bar, which is there with a task only. */
function tell(words) {
  complain(words);
  if ($("bar").hidden) $("progress").textContent = words;
}

async function reload() {
  const state = await call("/api/state");
  if (!state.name) throw new Refusal("Type your name to go on; what you saved is kept.", 401);
  show(state);
}

function online() {
  if (offline) complain("");
  offline = false;
}

// -------------------------------------------------------------------------------------------------------------- login

function login(message = "", inUse = false) {
  remember();
  task = null;
  $("sheet").close();
  $("work").hidden = $("bar").hidden = $("finished").hidden = $("leave").hidden = $("show-guidelines").hidden = true;
  $("progress").textContent = "";
  $("login").hidden = false;
  $("name").value ||= sessionStorage.getItem("align-name") || localStorage.getItem("align-name") || "";
  $("login-error").textContent = message;
  $("login-error").hidden = !message;
  $("take-over").hidden = !inUse;
  // in the middle of the work the keys that are still coming must not become a part of the name
  $(message && $("name").value ? "begin" : "name").focus();
}

/** Under the same name as before in this tab; false where that does not work without asking. */
async function again() {
  const name = sessionStorage.getItem("align-name");
  if (!name) return false;
  try {
    entering ||= api("/api/login", { name });
    await entering;
    return true;
  } catch (error) {
    if (error.status === 0) throw error;
    return false;
  } finally {
    entering = null;
  }
}

async function begin(event, takeOver = false) {
  event.preventDefault();
  const name = $("name").value.trim();
  if (!name || entering) return;
  try {
    entering = api("/api/login", { name, take_over: takeOver });
    const state = await entering;
    sessionStorage.setItem("align-name", state.name);
    localStorage.setItem("align-name", state.name);
    show(state);
    await guidelines();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    login(error.message, error.value.in_use);
    $("name").focus();
  } finally {
    entering = null;
  }
}

async function leave() {
  if (saving || !(await ask(() => call("/api/logout", {})))) return;
  sessionStorage.removeItem("align-name");
  login();
}

// --------------------------------------------------------------------------------------------------------- guidelines

async function guidelines() {
  try {
    const { text: words } = await api("/api/guidelines");
    $("guidelines-text").replaceChildren(markdown(words));
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    $("guidelines-text").replaceChildren(el("p", { class: "muted", text: `The guidelines did not come: ${error.message}` }));
  }
  if (!$("sheet").open) layGuidelines();
}

/** Beside the task where there is room and they are wanted, else out of sight. */
function layGuidelines() {
  $("sheet").close();
  besideTask(WIDE.matches && localStorage.getItem("align-guidelines") !== "closed");
}

function besideTask(open) {
  $("guidelines").append($("guidelines-text"));
  $("guidelines").hidden = !open;
  $("work").classList.toggle("beside", open);
  $("show-guidelines").setAttribute("aria-expanded", String(open));
  if (task) measure();
}

/** Open or close them: where there is no room beside the task, over it, and then the keys are theirs. */
function toggleGuidelines() {
  if (WIDE.matches && task) {
    besideTask($("guidelines").hidden);
    localStorage.setItem("align-guidelines", $("guidelines").hidden ? "closed" : "open");
  } else if ($("sheet").open) {
    $("sheet").close();
  } else {
    $("sheet").append($("guidelines-text"));
    $("sheet").showModal();
  }
}

// --------------------------------------------------------------------------------------------------------------- keys

const KEYS = {
  Enter: () => save(),
  Backspace: takeBack,
  "=": () => {
    tie = work.groups.length > 0;
    draw();
    say(tie ? "The next one ties with the last." : "Place one first.");
  },
  e: () => change([task.completions.map((_, answer) => answer)]),
  b: () => save({ bad: true }),
  0: () => save({ bad: true }),
  s: () => save({ skip: true }),
  u: undo,
  r: () => $("reason").focus(),
  w: () => $("better").focus(),
  g: toggleGuidelines,
  "?": () => $("keys").showModal(),
};
const WITHOUT_TASK = new Set(["u", "g", "?"]);

function key(event) {
  if ($("keys").open || event.defaultPrevented) return;
  if (event.key === "Escape") return void (typing(event) && event.target.blur());
  if (event.key === "Enter" && event.ctrlKey && task && !$("sheet").open) return void (event.preventDefault(), event.target.blur(), save());
  if (typing(event) || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
  if (!$("login").hidden || !$("use-keys").checked) return;
  if (event.key === "Enter" && event.target.closest("button, a, summary")) return; // the button has the focus
  const known = pressed(event, KEYS);
  if ($("sheet").open && known !== "g") return;
  if (known && (task || WITHOUT_TASK.has(known))) {
    event.preventDefault();
    KEYS[known]();
    return;
  }
  // Some keyboards have the digits on Shift: what the key says comes first, where it lies second
  const digit = /^[1-9]$/.test(event.key) ? event.key : /^Digit([0-9])$/.exec(event.code)?.[1];
  if (!digit || !task || (digit === "0" && event.shiftKey)) return;
  event.preventDefault();
  if (digit === "0") return void KEYS[0]();
  place(Number(digit) - 1, tie || (event.shiftKey && event.key !== digit));
}

// -------------------------------------------------------------------------------------------------------------- start

function listen() {
  document.addEventListener("keydown", key);
  document.addEventListener("visibilitychange", () => (document.hidden ? remember() : count()));
  addEventListener("pagehide", remember);
  addEventListener("resize", () => task && measure());
  WIDE.addEventListener("change", layGuidelines);
  $("sheet").addEventListener("close", () => $("sheet").open || $("guidelines").append($("guidelines-text"))); // said late
  for (const name of ["reason", "better"]) {
    $(name).addEventListener("input", () => {
      work[name] = $(name).value;
      remember();
    });
  }
  const buttons = { save: () => save(), equal: KEYS.e, bad: KEYS.b, skip: KEYS.s, back: takeBack, undo, "undo-last": undo, leave,
    "show-guidelines": toggleGuidelines, "hide-guidelines": toggleGuidelines, "show-keys": KEYS["?"],
    "look-again": () => ask(reload) };
  for (const [name, action] of Object.entries(buttons)) $(name).addEventListener("click", (event) => act(event, action));
  $("login").addEventListener("submit", begin);
  $("take-over").addEventListener("click", (event) => begin(event, true));
  $("use-keys").checked = localStorage.getItem("align-keys") !== "off";
  $("use-keys").addEventListener("change", () => localStorage.setItem("align-keys", $("use-keys").checked ? "on" : "off"));
  setInterval(heartbeat, HEARTBEAT);
}

async function heartbeat() {
  if (!$("login").hidden || saving) return;
  try {
    await call("/api/alive", {}, { timeout: 10000 });
    online();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.value.other) return login(error.message);
    if (error.status === 401 && !(await again().catch(() => true))) login("Your name was taken over in another browser, or the server was started anew.");
    else if (error.status === 0) await failed(error, "");
  }
}

async function start() {
  listen();
  try {
    let state = await call("/api/state");
    if (!state.name && (await again())) state = await call("/api/state");
    if (!state.name) return login();
    sessionStorage.setItem("align-name", state.name);
    show(state);
    await guidelines();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    login(error.message);
  }
}

start();
