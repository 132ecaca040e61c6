// A ranking in the making: groups of answers, best first, tied within a group. Plain data in, plain data out.

/** Ranks of `count` answers, 1 is best; those not placed are tied last. [[2], [0, 1]] of 4 -> [2, 2, 1, 3]. */
export function ranks(groups, count) {
  const out = Array(count).fill(groups.length + 1);
  groups.forEach((group, place) => group.forEach((answer) => (out[answer] = place + 1)));
  return out;
}

/** The groups without `answer`. */
export function without(groups, answer) {
  return groups.map((group) => group.filter((one) => one !== answer)).filter((group) => group.length);
}

/** `answer` after all others, or tied with the last of them. Placed already: taken out. */
export function placed(groups, answer, tie) {
  if (groups.flat().includes(answer)) return without(groups, answer);
  if (tie && groups.length) return [...groups.slice(0, -1), [...groups.at(-1), answer]];
  return [...groups, [answer]];
}

/** `answer` moved to a rank of its own before group `gap`, or into group `group`, or (neither) out of the ranking. */
export function moved(groups, answer, { gap, group }) {
  const next = groups.map((one) => one.filter((other) => other !== answer));
  if (group !== undefined) next[group].push(answer);
  if (gap !== undefined) next.splice(gap, 0, [answer]);
  return next.filter((one) => one.length);
}

/** `answer` one step better (-1) or worse (1): out of a tie to a rank of its own, from there into the next group. */
export function stepped(groups, answer, step) {
  const at = groups.findIndex((group) => group.includes(answer));
  if (at < 0) return groups;
  if (groups[at].length > 1) return moved(groups, answer, { gap: step < 0 ? at : at + 1 });
  const to = at + step;
  return to < 0 || to >= groups.length ? groups : moved(groups, answer, { group: to });
}

/** 1 -> "1st". */
export function ordinal(n) {
  return n + (["th", "st", "nd", "rd"][n] || "th");
}
