// The page on which one talks to models. What they say becomes text nodes and nothing else; see /static/base.js.
import { api, el, pressed, Refusal, typing } from "/static/base.js";

const $ = (id) => document.getElementById(id);
const EVERY = 100; // ms between two looks at answers that grow; the server takes a page that is silent for 5 s as closed
const RETRY = 1000; // ms after one that failed
const TALK = "align-talk"; // under which a tab keeps its conversation over reloads

let talk = null; // all that is shown: the server's state
let columns = []; // of the last round: {edition, count, text, ending, thinking, ends}: nodes, and what they hold
let asking = false; // a request is under way that changes something
let looking = false;
let over = ""; // why this conversation cannot go on

// ---------------------------------------------------------------------------------------------------------- showing

function draw(state) {
  const before = talk;
  talk = state;
  over = "";
  sessionStorage.setItem(TALK, state.key);
  $("login").hidden = true;
  $("bar").hidden = $("tools").hidden = false;
  const names = state.models.map((one) => one.name);
  $("who").replaceChildren(...(state.blind ? ["Blind, among ", ...joined(names), " · ", el("bdi", { text: state.name })] : joined(names)));
  const notes = [...state.notes];
  if (state.blind && state.models.every((one) => one.goes_on)) notes.push(`each ${state.models[0].how}`);
  $("notes").textContent = notes.join("; ");
  $("notes").hidden = !notes.length;
  const low = nearBottom();
  $("talk").replaceChildren(...state.rounds.map(round));
  if (state.returned && !$("words").value.trim()) $("words").value = state.returned;
  bar();
  if (low || before?.rounds.length !== state.rounds.length) toBottom();
  if (state.busy) look();
  else if (before && state.rounds.length && (before.busy || before.rounds.at(-1)?.number !== state.rounds.at(-1).number)) ended();
}

function joined(names) {
  return names.flatMap((name, i) => [...(i ? [i < names.length - 1 ? ", " : " and "] : []), el("bdi", { text: name })]);
}

function round(one) {
  columns = one.columns.map(card(one));
  const grid = el("div", { class: `columns of${one.columns.length}` }, columns.map((column) => column.node));
  const outcome = told(one);
  return el("section", { class: "round", "aria-label": `Round ${one.number}` }, el("div", { class: "words text", dir: "auto", text: one.words }), grid, outcome && el("p", { class: "outcome muted" }, ...outcome));
}

/** What became of a vote, in words. */
function told(one) {
  if (!one.choice) return null;
  const kept = one.columns.find((column) => column.kept);
  const name = kept && el("bdi", { text: kept.name });
  const saved = one.saved ? "Saved. " : "These answers are all the same, so no vote was saved. ";
  if (!kept) return [saved, "All bad: nobody has heard these answers, and your words are back in the text box."];
  if (one.choice === "a tie") return [saved, "A tie: all models go on from the answer of ", name, ", drawn at random."];
  return [saved, "All models go on from the answer of ", name, "."];
}

/** An answer under its name, or under its number where the name is not told yet. */
const card = (one) => (column, at) => {
  const text = el("span", { class: "text", dir: "auto" });
  const ends = el("span", { class: "ending muted" });
  const model = talk.models.find((found) => found.name === column.name);
  const number = talk.blind && el("button", { class: "number", disabled: true, "aria-label": `Vote for answer ${at + 1}`, onclick: (event) => act(event, () => vote(at)) }, String(at + 1));
  const name = column.name && el("span", { class: "name" }, el("bdi", { text: column.name }));
  const how = model?.goes_on && !talk.blind && el("span", { class: "muted", text: "goes on with your text" });
  const mark = one.choice && column.chosen && el("span", { class: "mark", text: one.choice === "a tie" ? "tie" : "chosen" });
  const body = el("div", { class: "body", "aria-live": "off" }, text, ends);
  const kept = one.choice ? (column.kept ? "card kept" : "card left") : "card";
  const node = el("article", { class: kept, "aria-label": column.name || `Answer ${at + 1}` }, el("div", { class: "head" }, number, name, how, mark), body);
  const made = { node, text, ends, number, count: 0, edition: 0 };
  fill(made, column);
  return made;
};

/** Put what is new of an answer behind what is there, or in its place. */
function fill(column, { edition, start, text, thinking, ending }) {
  const all = start ? column.text.textContent + text : text;
  if (text || edition !== column.edition) column.text.textContent = all;
  column.count = start + [...text].length; // the server counts characters, not their halves
  column.edition = edition;
  column.ends.textContent = ending || (thinking ? "(thinking …)" : "");
}

function bar() {
  const last = talk.rounds.at(-1);
  const { temperature, seed, max_new_tokens: tokens, system } = talk.settings;
  const drawn = talk.draw ? `, ${talk.draw} drawn` : "";
  $("show-settings").textContent = `temperature ${temperature} · seed ${seed}${drawn} · up to ${tokens} tokens${system ? " · system message" : ""}`;
  $("talk").setAttribute("aria-busy", String(asking || talk.busy));
  $("stop").hidden = !talk.busy;
  $("send").hidden = talk.busy;
  $("send").disabled = asking || talk.due || Boolean(over);
  $("again").disabled = asking || talk.busy || !last || Boolean(over);
  $("undo").hidden = !talk.blind;
  $("undo").disabled = asking || talk.busy || !last?.choice || Boolean(over);
  for (const id of ["keep", "show-settings"]) $(id).disabled = talk.busy || Boolean(over);
  $("anew").disabled = talk.busy;
  $("vote").hidden = !talk.due || Boolean(over);
  $("numbers").replaceChildren(...(talk.due ? columns.map((_, at) => el("button", { class: "number", "aria-label": `Answer ${at + 1} is better`, onclick: (event) => act(event, () => vote(at)) }, String(at + 1))) : []));
  for (const column of columns) if (column.number) column.number.disabled = !talk.due || asking;
  $("words").placeholder = talk.models.every((one) => one.goes_on) ? "A text that they go on with" : "Say something";
  complain(over || talk.problem);
  waiting(talk.before);
}

function waiting(before) {
  const told = talk.blind ? `${talk.votes} ${talk.votes === 1 ? "vote" : "votes"} saved` : "";
  $("status").textContent = !talk.busy ? told : before ? `Waiting: ${before} ${before === 1 ? "page is" : "pages are"} answered before` : "Answering …";
}

function nearBottom() {
  return innerHeight + scrollY >= document.documentElement.scrollHeight - 160;
}

function toBottom() {
  scrollTo(0, document.documentElement.scrollHeight);
}

function say(words) {
  $("said").textContent = words;
}

function complain(words) {
  $("notice").textContent = words || "";
  $("notice").hidden = !words;
}

/** Run a button's action; after a click of a pointer Enter is not this button's. */
function act(event, action) {
  if (event.detail > 0) event.currentTarget.blur();
  action();
}

// ---------------------------------------------------------------------------------------------------- asking, looking

/** One change at a time. What goes wrong is said in a sentence, and what is on the page stays: false then. */
async function ask(path, more = {}, prefix = "") {
  if (asking || !talk) return false;
  if (over) return void complain(over);
  asking = true;
  bar();
  try {
    const state = await api(path, { key: talk.key, ...more });
    asking = false;
    draw(state);
    return true;
  } catch (error) {
    asking = false;
    bar();
    failed(error, prefix);
    return false;
  }
}

function failed(error, prefix = "") {
  if (!(error instanceof Refusal)) throw error;
  if (error.status === 410) {
    over = `${prefix}${error.message} Votes that were saved are kept. Begin anew (n).`;
    talk = { ...talk, busy: false, due: false };
    bar();
  } else {
    complain(prefix + error.message + (error.status === 0 && prefix ? " Press the key again to try again." : ""));
  }
}

/** Follow the answers until they end. */
async function look() {
  if (looking) return;
  looking = true;
  try {
    while (talk.busy) {
      await new Promise((done) => setTimeout(done, EVERY));
      await once();
    }
  } finally {
    looking = false;
  }
}

async function once() {
  const have = columns.map((column) => `${column.edition}.${column.count}`).join(",");
  const values = new URLSearchParams({ key: talk.key, round: talk.rounds.at(-1)?.number ?? "", have });
  let found;
  try {
    found = await api(`/api/look?${values}`);
  } catch (error) {
    failed(error);
    return new Promise((done) => setTimeout(done, RETRY));
  }
  if (!talk.busy) return; // stopped meanwhile
  if (found.key) return draw(found);
  const low = nearBottom();
  found.columns.forEach((column, at) => fill(columns[at], column));
  complain("");
  waiting(found.before);
  if (low) toBottom();
}

/** The answers are there: to the vote, or to the text box. */
function ended() {
  if (!talk.due) return void say(talk.problem || "The answers are there.");
  say(`${columns.length} answers are there. Which is better? 1 to ${columns.length}, 0 for a tie, b if all are bad.`);
  if (!$("words").value && document.activeElement === $("words")) $("words").blur(); // so that letters are keys
}

async function send() {
  const words = $("words").value;
  if (!words.trim() || !talk || talk.busy || asking) return;
  if (talk.due) return void complain("Vote first: the answer that you choose is what all models will have heard.");
  $("words").value = ""; // what is typed from here on is said next
  if (!(await ask("/api/say", { words }, "Not sent: "))) $("words").value = words + $("words").value;
}

async function vote(choice) {
  if (!talk?.due) return;
  if (typeof choice === "number" && choice >= columns.length) return void say(`There are ${columns.length} answers.`);
  if (await ask("/api/vote", { round: talk.rounds.at(-1).number, choice }, "Not saved: ")) {
    const last = talk.rounds.at(-1);
    say(`${last.saved ? "Saved" : "Not saved, they are all the same"}: ${last.choice}. ${last.columns.map((column, at) => `${at + 1} is ${column.name}`).join(", ")}.`);
    $("words").focus();
  }
}

async function undo() {
  if (await ask("/api/undo")) {
    if (talk.rounds.at(-1).words === $("words").value) $("words").value = ""; // what "all bad" had put there
    say("The vote was taken back.");
    $("words").blur();
  }
}

async function anew() {
  if (talk?.busy) return;
  if (over) await open(talk.name || "");
  else await ask("/api/reset");
  $("words").focus();
}

/** Hand the conversation to the browser as a file. */
async function keep() {
  if (!talk || talk.busy || over) return;
  try {
    const { lines } = await api(`/api/save?${new URLSearchParams({ key: talk.key })}`);
    const link = el("a", { href: URL.createObjectURL(new Blob([lines], { type: "application/jsonl" })), download: "talk.jsonl" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000); // once the browser has it
    say("Saved as talk.jsonl.");
  } catch (error) {
    failed(error);
  }
}

// ----------------------------------------------------------------------------------------------------------- settings

function showSettings() {
  if (!talk || talk.busy || over) return;
  for (const [name, value] of Object.entries(talk.settings)) $(name).value = value;
  for (const [name, most] of Object.entries(talk.limits)) $(name).max = most;
  $("settings-error").hidden = true;
  $("settings").showModal();
}

async function useSettings(event) {
  event.preventDefault();
  const number = (id) => Number($(id).value);
  const body = { key: talk.key, system: $("system").value, temperature: number("temperature"), seed: number("seed"), max_new_tokens: number("max_new_tokens") };
  try {
    const state = await api("/api/settings", body);
    $("settings").close();
    draw(state);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    $("settings-error").textContent = error.message;
    $("settings-error").hidden = false;
  }
}

// --------------------------------------------------------------------------------------------------------------- keys

const KEYS = {
  0: () => vote("tie"),
  "=": () => vote("tie"),
  e: () => vote("tie"),
  b: () => vote("bad"),
  u: undo,
  r: () => $("again").disabled || ask("/api/again"),
  t: () => $("words").focus(),
  s: showSettings,
  d: keep,
  n: anew,
  "?": () => $("keys").showModal(),
};

function key(event) {
  if (event.defaultPrevented || $("keys").open || $("settings").open || $("bar").hidden) return;
  if (event.key === "Escape") return void (talk.busy ? ask("/api/stop") : typing(event) && event.target.blur());
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
  const inBox = event.target === $("words");
  if (inBox && event.key === "Enter" && !event.shiftKey) return void (event.preventDefault(), send());
  // Some keyboards have the digits on Shift: what the key says comes first, where it lies second
  const digit = /^[0-9]$/.test(event.key) ? event.key : /^Digit([0-9])$/.exec(event.code)?.[1];
  if (inBox && (!/^[0-4]$/.test(event.key) || !talk.due || $("words").value)) return;
  if (!inBox && (typing(event) || (event.key === "Enter" && event.target.closest("button, a")))) return;
  const known = pressed(event, KEYS) ?? (digit === "0" && !event.shiftKey ? "0" : undefined);
  if (known === undefined && !(digit > 0)) return;
  event.preventDefault();
  if (known !== undefined) KEYS[known]();
  else vote(Number(digit) - 1);
}

// -------------------------------------------------------------------------------------------------------------- start

async function open(name) {
  try {
    const state = await api("/api/open", { name });
    if (state.name) localStorage.setItem("align-name", state.name);
    draw(state);
    $("words").focus();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (talk) return failed(error);
    login(error.value.name && !name ? "" : error.message);
  }
}

function login(message) {
  $("login").hidden = false;
  $("name").value ||= localStorage.getItem("align-name") || "";
  $("login-error").textContent = message;
  $("login-error").hidden = !message;
  $("name").focus();
}

function listen() {
  document.addEventListener("keydown", key);
  const buttons = { anew, keep, undo, "show-keys": KEYS["?"], "show-settings": showSettings, again: KEYS.r, tie: KEYS[0], bad: KEYS.b,
    stop: () => ask("/api/stop"), "leave-settings": () => $("settings").close() };
  for (const [name, action] of Object.entries(buttons)) $(name).addEventListener("click", (event) => act(event, action));
  $("composer").addEventListener("submit", (event) => (event.preventDefault(), send()));
  $("settings-form").addEventListener("submit", useSettings);
  $("login").addEventListener("submit", (event) => (event.preventDefault(), open($("name").value.trim())));
}

async function start() {
  listen();
  const held = sessionStorage.getItem(TALK);
  if (held) {
    try {
      return draw(await api(`/api/look?${new URLSearchParams({ key: held })}`));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (error.status !== 410) return login(error.message);
    }
  }
  await open("");
}

start();
