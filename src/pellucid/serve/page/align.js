// Which letters of an answer each token wrote. A token's own text is not always what stands in the answer: a first
// token may lose its space, a thought's marks and the end of an answer are taken out, and a character may be made of
// several tokens. So tokens are laid along the text, and what cannot be laid has no letters (``at`` stays null).

const BROKEN = "\ufffd"; // what a part of a character reads as alone
const AHEAD = 24; // letters that a token may be found further on, where something before it was taken out

/**
 * Sets ``part`` ("reasoning" or "content"), ``at`` and ``end`` of the tokens of ``answer`` that have not been laid yet;
 * ``ended``: no more text will come. ``answer``: {content, reasoning, tokens}; remembers in ``answer.laid`` how far it
 * came, so that a growing answer costs what is new in it.
 */
export function lay(answer, ended) {
  const laid = (answer.laid ??= { next: 0, content: 0, reasoning: 0, part: "reasoning", broken: [] });
  while (laid.next < answer.tokens.length) {
    const token = answer.tokens[laid.next];
    if (token.text.includes(BROKEN)) {
      laid.broken.push(token);
      laid.next += 1;
      continue;
    }
    const letters = place(answer, laid, token.text);
    if (letters === "wait" && !ended) return;
    if (letters && letters !== "wait") {
      const [part, at, end] = letters;
      share(laid.broken, part, laid[part], at);
      Object.assign(token, { part, at, end });
      Object.assign(laid, { part, [part]: end, broken: [] });
    }
    laid.next += 1;
  }
  if (ended && laid.broken.length) {
    share(laid.broken, laid.part, laid[laid.part], answer[laid.part].length);
    laid.broken = [];
  }
}

/** The tokens of one character: the first has its letters, the others stand behind it. */
function share(tokens, part, from, to) {
  if (from >= to) return;
  tokens.forEach((token, i) => Object.assign(token, { part, at: i ? to : from, end: to }));
}

/** [part, at, end]; "wait" where the text is not there yet; null where it will not be. */
function place(answer, laid, text) {
  if (!text) return null;
  for (const part of laid.part === "reasoning" ? ["reasoning", "content"] : ["content"]) {
    const whole = answer[part],
      from = laid[part];
    for (const form of forms(text)) {
      if (whole.startsWith(form, from)) return [part, from, from + form.length];
      if (laid.broken.length || /^\s/.test(whole.slice(from, from + 1))) {
        const at = whole.slice(from, from + AHEAD + form.length).indexOf(form);
        if (at >= 0 && (laid.broken.length || !whole.slice(from, from + at).trim()))
          return [part, laid.broken.length ? from + at : from, from + at + form.length];
      }
    }
    const at = text.trim().length > 2 ? whole.slice(from, from + AHEAD + text.length).indexOf(text) : -1;
    if (at >= 0) return [part, from + at, from + at + text.length];
  }
  const rest = answer.content.slice(laid.content).trim()
    ? answer.content.slice(laid.content)
    : answer.reasoning.slice(laid.reasoning);
  return !rest.trim() || text.startsWith(rest) ? "wait" : null;
}

/** As it is, and without the spaces around it, which a chat's parts are often freed of. */
function forms(text) {
  const bare = [text.trimStart(), text.trimEnd(), text.trim()];
  return [text, ...new Set(bare.filter((form) => form && form !== text))];
}
