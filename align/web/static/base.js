// What our pages share: talking to the server, building nodes, and a little Markdown. Text never becomes HTML:
// nothing here or in a page sets innerHTML, so a completion with a script in it is shown and not run.

// The link has the token behind its #. It is handed in once for a session, which this browser keeps for this host and
// port alone (a cookie would go to every port), and must not stay in the address bar.
const SESSION = "align-session";
let token = handedIn();
let entering = token || !localStorage.getItem(SESSION) ? enter() : null; // on its way
let shut = ""; // why nobody gets in here

function handedIn() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found !== null) history.replaceState(null, "", location.pathname + location.search);
  return found || "";
}

addEventListener("hashchange", () => location.hash.startsWith("#token=") && location.reload()); // a link in an open tab
addEventListener("storage", (event) => event.key === SESSION && shut && location.reload()); // opened in another tab

/** Get a session for the token; where a page asks for none, without one. */
async function enter() {
  try {
    const found = await request("/api/enter", { token });
    localStorage.setItem(SESSION, found.session);
    token = "";
  } catch (error) {
    if (error.status !== 0) close(error.message); // else what is asked for next says that there is no answer
  } finally {
    entering = null;
  }
}

/** Show one sentence in place of the page: how to get in. */
function close(words) {
  shut = words;
  document.documentElement.classList.add("shut");
  document.body.append(el("p", { class: "notice", id: "shut", role: "alert", text: words }));
}

/** An answer of the server that is a refusal (`status`, `value`), or no answer at all (`status` 0). */
export class Refusal extends Error {
  constructor(message, status, value = {}) {
    super(message);
    this.status = status;
    this.value = value;
  }
}

/** GET `path`, or POST `body` to it as JSON; returns the JSON answer, or throws a Refusal with a sentence. */
export async function api(path, body, options) {
  await entering;
  if (shut) throw new Refusal(shut, 401);
  try {
    return await request(path, body, options);
  } catch (error) {
    if (!error.value?.enter) throw error;
    entering ||= enter(); // the session ended, or the server was started anew: some pages let everyone in
    await entering;
    if (shut) throw new Refusal(shut, 401);
    return request(path, body, options);
  }
}

async function request(path, body, { timeout = 30000, headers = {} } = {}) {
  const session = localStorage.getItem(SESSION);
  const options = { signal: AbortSignal.timeout(timeout), credentials: "omit", cache: "no-store", headers: { ...headers } };
  if (session) options.headers["x-align-session"] = session;
  if (body !== undefined) {
    options.method = "POST";
    Object.assign(options.headers, { "content-type": "application/json", "x-align": "1" });
    options.body = JSON.stringify(body);
  }
  let response, value;
  try {
    response = await fetch(path, options);
    value = await response.json();
  } catch {
    throw new Refusal("The server does not answer.", 0);
  }
  if (!response.ok) throw new Refusal(value.error || `The server answered ${response.status}.`, response.status, value);
  return value;
}

/** A node: `el("p", {class: "note", onclick: f}, "text", child)`. Strings become text; null and false are left out. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "text") node.textContent = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Is the keyboard in a field in which keys are letters? */
export function typing(event) {
  const node = event.target;
  return node instanceof HTMLElement && (node.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName));
}

/** Which of `keys` was pressed, or undefined: what the key says, in capitals or not; where it says no Latin letter
 * or sign at all, the letter that lies there on a Latin keyboard. */
export function pressed(event, keys) {
  const names = [event.key, event.key.toLowerCase()];
  const other = !/[\x20-\x7e\p{Script=Latin}]/u.test(event.key) && !event.getModifierState("AltGraph");
  if (other) names.push(/^Key([A-Z])$/.exec(event.code)?.[1].toLowerCase());
  return names.find((name) => Object.hasOwn(keys, name));
}

/** Markdown's headings, lists, paragraphs, **bold**, *emphasis* and `code`, as nodes. All else stays text. */
export function markdown(text) {
  const out = document.createDocumentFragment();
  for (const block of text.replace(/\r\n?/g, "\n").split(/\n\s*\n/)) {
    let list = null;
    let paragraph = null;
    for (const line of block.split("\n")) {
      const heading = /^(#{1,4})\s+(.*)$/.exec(line);
      const item = /^\s*(?:[-*]|(\d+)[.)])\s+(.*)$/.exec(line);
      if (heading) {
        out.append(el(`h${Math.min(heading[1].length + 1, 5)}`, { dir: "auto" }, ...inline(heading[2])));
        list = paragraph = null;
      } else if (item) {
        const tag = item[1] ? "ol" : "ul";
        if (!list || list.tagName.toLowerCase() !== tag) out.append((list = el(tag, { dir: "auto" })));
        list.append(el("li", {}, ...inline(item[2])));
        paragraph = null;
      } else if (line.trim() && list) {
        list.lastChild.append(" ", ...inline(line.trim()));
      } else if (line.trim()) {
        if (!paragraph) out.append((paragraph = el("p", { dir: "auto" })));
        else paragraph.append(" ");
        paragraph.append(...inline(line.trim()));
      }
    }
  }
  return out;
}

function inline(text) {
  const parts = [];
  const pattern = /\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|`([^`]+)`/g;
  let last = 0;
  for (const found of text.matchAll(pattern)) {
    parts.push(text.slice(last, found.index));
    const tag = found[1] ? "strong" : found[2] ? "em" : "code";
    parts.push(el(tag, { text: found[1] || found[2] || found[3] }));
    last = found.index + found[0].length;
  }
  parts.push(text.slice(last));
  return parts;
}

/** 90 -> "1 min", 5400 -> "1 h 30 min". */
export function duration(seconds) {
  if (seconds < 60) return "under 1 min";
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60 ? `${minutes % 60} min` : ""}`.trim();
}
