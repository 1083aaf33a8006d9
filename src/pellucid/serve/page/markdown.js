// Markdown into nodes. Whatever an answer holds becomes text nodes: no HTML is read, no picture is fetched, a link is
// one only to http, https or mail. Every letter that is shown keeps its place in the source, so that whoever draws it
// knows which token wrote it.

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])([ \t]+|$)/;
const DIVIDER = /^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const DEEPEST = 12; // quotes and lists within one another; deeper is text

/**
 * The blocks of a source: {kind, from, to, …}; a line is {text, from}, a stretch of the source without its line end and
 * without the marks of what it stands in.
 */
export function blocks(source) {
  let from = 0;
  const lines = source.split("\n").map((text) => {
    const line = { text, from };
    from += text.length + 1;
    return line;
  });
  return parse(lines, 0);
}

function parse(lines, depth) {
  const made = [];
  let i = 0;
  while (i < lines.length) {
    const start = i,
      { text } = lines[i];
    let match;
    if (!text.trim()) {
      i += 1;
      continue;
    }
    let block;
    if ((match = FENCE.exec(text))) {
      const fence = match[1],
        indent = text.indexOf(fence),
        closing = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}[ \t]*$`);
      const inner = [];
      for (i += 1; i < lines.length && !closing.test(lines[i].text); i += 1) inner.push(cut(lines[i], indent));
      block = { kind: "code", language: match[2].trim(), lines: inner, closed: i < lines.length };
      i += 1;
    } else if ((match = HEADING.exec(text))) {
      const body = text.slice(match[0].length).replace(/[ \t]+#+[ \t]*$/, "");
      block = {
        kind: "heading",
        level: match[1].length,
        lines: [{ text: body, from: lines[i].from + match[0].length }],
      };
      i += 1;
    } else if (RULE.test(text)) {
      block = { kind: "rule" };
      i += 1;
    } else if (depth < DEEPEST && QUOTE.test(text)) {
      const inner = [];
      for (; i < lines.length && QUOTE.test(lines[i].text); i += 1)
        inner.push(dropped(lines[i], QUOTE.exec(lines[i].text)[0].length));
      block = { kind: "quote", blocks: parse(inner, depth + 1) };
    } else if (depth < DEEPEST && ITEM.test(text)) [block, i] = list(lines, i, depth);
    else if (text.includes("|") && DIVIDER.test(lines[i + 1]?.text ?? "") && lines[i + 1].text.includes("-"))
      [block, i] = table(lines, i);
    else {
      const inner = [];
      for (; i < lines.length && lines[i].text.trim() && (i === start || !begins(lines, i, depth)); i += 1)
        inner.push(lines[i]);
      block = { kind: "paragraph", lines: inner };
    }
    const last = lines[Math.min(i, lines.length) - 1];
    made.push({ ...block, from: lines[start].from, to: last.from + last.text.length });
  }
  return made;
}

/** Whether a line ends the paragraph before it. A list interrupts one, as chat models write it. */
function begins(lines, i, depth) {
  const { text } = lines[i];
  if (FENCE.test(text) || HEADING.test(text) || RULE.test(text)) return true;
  if (depth < DEEPEST && (QUOTE.test(text) || (ITEM.test(text) && ITEM.exec(text)[3]))) return true;
  return text.includes("|") && DIVIDER.test(lines[i + 1]?.text ?? "") && lines[i + 1].text.includes("|");
}

function list(lines, i, depth) {
  const first = ITEM.exec(lines[i].text),
    sort = (mark) => (/\d/.test(mark) ? mark.slice(-1) : mark),
    items = [];
  let loose = false;
  while (i < lines.length) {
    const match = ITEM.exec(lines[i].text);
    if (!match || sort(match[2]) !== sort(first[2]) || RULE.test(lines[i].text)) break;
    const indent = match[1].length + match[2].length + Math.min(match[3].length || 1, 4),
      inner = [dropped(lines[i], Math.min(indent, lines[i].text.length))];
    for (i += 1; i < lines.length; i += 1) {
      const { text } = lines[i],
        blank = !text.trim();
      if (blank) {
        const next = lines[i + 1]?.text;
        if (next === undefined || !(next.startsWith(" ".repeat(indent)) || ITEM.test(next))) break;
        loose ||= !ITEM.test(next) || sort(ITEM.exec(next)[2]) === sort(first[2]);
        inner.push({ text: "", from: lines[i].from });
      } else if (text.search(/[^ ]/) >= indent) inner.push(dropped(lines[i], indent));
      else if (ITEM.test(text) || begins(lines, i, depth) || !lines[i - 1].text.trim()) {
        if (ITEM.test(text) && text.search(/[^ ]/) >= 2 && sort(ITEM.exec(text)[2]) !== sort(match[2]))
          inner.push(cut(lines[i], indent)); // a list in it, indented by less than its text
        else break;
      } else inner.push(cut(lines[i], indent)); // a paragraph that goes on without its indent
    }
    const task = /^\[([ xX])\][ \t]+/.exec(inner[0].text);
    if (task) inner[0] = dropped(inner[0], task[0].length);
    items.push({ task: task ? task[1] !== " " : null, blocks: parse(inner, depth + 1) });
  }
  const number = parseInt(first[2], 10);
  return [{ kind: "list", ordered: !Number.isNaN(number), start: number, items, loose }, i];
}

function table(lines, i) {
  const columns = cells(lines[i + 1]).map(({ text }) => {
    const bare = text.trim();
    return bare.endsWith(":") ? (bare.startsWith(":") ? "center" : "end") : "start";
  });
  const head = cells(lines[i]),
    rows = [];
  for (i += 2; i < lines.length && lines[i].text.includes("|") && lines[i].text.trim(); i += 1)
    rows.push(cells(lines[i]).slice(0, columns.length));
  return [{ kind: "table", columns, head: head.slice(0, columns.length), rows }, i];
}

/** The cells of a row, each a stretch of its line. */
function cells({ text, from }) {
  const made = [];
  let start = /^[ \t]*\|/.exec(text)?.[0].length ?? 0;
  for (let i = start; i <= text.length; i += 1) {
    if (text[i] === "\\") i += 1;
    else if (text[i] === "|" || i === text.length) {
      if (i < text.length || text.slice(start, i).trim())
        made.push(trimmed({ text: text.slice(start, i), from: from + start }));
      start = i + 1;
    }
  }
  return made;
}

const dropped = ({ text, from }, count) => ({ text: text.slice(count), from: from + count });
const cut = (line, most) => dropped(line, Math.min(most, line.text.search(/[^ ]|$/)));
const trimmed = (line) => {
  const inner = dropped(line, line.text.search(/[^ \t]|$/));
  return { text: inner.text.trimEnd(), from: inner.from };
};

// --- within a line ---------------------------------------------------------------------------------------------------

const PUNCTUATION = /[!-/:-@[-`{-~]/;
const ADDRESS = /https?:\/\/[^\s<>"'`\\\]]+/y;
const ANGLED = /<(https?:\/\/[^\s<>]+|mailto:[^\s<>]+|[\w.+-]+@[\w-]+\.[\w.]+)>/y;
const TARGET = /\(\s*(<[^<>\n]*>|[^\s()]*(?:\([^\s()]*\)[^\s()]*)*)(?:\s+(?:"[^"\n]*"|'[^'\n]*'))?\s*\)/y;

/**
 * What stands in some lines: a tree of {kind: "text", text, from} and {kind: "strong" | "em" | "del" | "code" | "link",
 * inner, href}. A text never crosses a place where the source was cut.
 */
export function inline(lines) {
  const whole = lines.map((line) => line.text).join("\n");
  const starts = [];
  let at = 0;
  for (const line of lines) {
    starts.push([at, line.from]);
    at += line.text.length + 1;
  }
  return resolve(scan(whole, starts));
}

function scan(whole, starts) {
  const items = [],
    brackets = [];
  let i = 0,
    from = 0;
  const put = (start, end) => items.push(...texts(whole, starts, start, end));
  const flush = (end) => from < end && put(from, end);
  const past = (end) => ((i = end), (from = end));
  while (i < whole.length) {
    const char = whole[i];
    if (char === "\\" && PUNCTUATION.test(whole[i + 1] ?? "")) {
      flush(i);
      from = i + 1;
      i += 2;
    } else if (char === "`") {
      const length = run(whole, i),
        end = closing(whole, i + length, length);
      if (end < 0) {
        i += length;
        continue;
      }
      flush(i);
      const padded = /^ .*[^ ].* $/s.test(whole.slice(i + length, end)) ? 1 : 0;
      items.push({ kind: "code", inner: texts(whole, starts, i + length + padded, end - padded) });
      past(end + length);
    } else if (char === "*" || char === "_" || (char === "~" && whole[i + 1] === "~")) {
      const length = run(whole, i),
        before = whole[i - 1] ?? " ",
        after = whole[i + length] ?? " ";
      flush(i);
      items.push({ kind: "mark", char, start: i, length, ...flanks(char, before, after), whole, starts });
      past(i + length);
    } else if (char === "[" || (char === "!" && whole[i + 1] === "[")) {
      flush(i);
      const length = char === "!" ? 2 : 1;
      brackets.push({ place: items.length, picture: char === "!" });
      put(i, i + length);
      past(i + length);
    } else if (char === "]" && brackets.length) {
      const opened = brackets.pop();
      TARGET.lastIndex = i + 1;
      const match = TARGET.exec(whole),
        href = match ? address(match[1].replace(/^<|>$/g, "")) : null;
      if (!match || href === null) {
        i += 1;
        continue;
      }
      flush(i);
      const inner = resolve(items.splice(opened.place).slice(1));
      items.push({ kind: opened.picture ? "picture" : "link", href, inner });
      past(i + 1 + match[0].length);
    } else if (char === "<" && (ANGLED.lastIndex = i) >= 0 && ANGLED.test(whole)) {
      const end = ANGLED.lastIndex,
        bare = whole.slice(i + 1, end - 1);
      flush(i);
      const href = /^(https?:|mailto:)/.test(bare) ? bare : `mailto:${bare}`;
      items.push({ kind: "link", href, inner: texts(whole, starts, i + 1, end - 1) });
      past(end);
    } else if (char === "h" && !/\w/.test(whole[i - 1] ?? " ") && (ADDRESS.lastIndex = i) >= 0 && ADDRESS.test(whole)) {
      const bare = whole.slice(i, ADDRESS.lastIndex).replace(/[.,;:!?)*_~]+$/, "");
      flush(i);
      items.push({ kind: "link", href: bare, inner: texts(whole, starts, i, i + bare.length) });
      past(i + bare.length);
    } else i += 1;
  }
  flush(whole.length);
  return items;
}

/** A stretch of the joined lines, cut where they were joined. */
function texts(whole, starts, start, end) {
  const made = [];
  for (let i = line(starts, start); i < starts.length && starts[i][0] < end; i += 1) {
    const a = Math.max(start, starts[i][0]),
      b = Math.min(end, starts[i + 1]?.[0] ?? end);
    if (a < b) made.push({ kind: "text", text: whole.slice(a, b), from: starts[i][1] + a - starts[i][0] });
  }
  return made;
}

function line(starts, at) {
  let low = 0,
    high = starts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle][0] <= at) low = middle;
    else high = middle - 1;
  }
  return low;
}

function run(whole, i) {
  let end = i;
  while (whole[end] === whole[i]) end += 1;
  return end - i;
}

/** Where a run of exactly ``length`` backticks starts, or −1. */
function closing(whole, from, length) {
  for (let i = whole.indexOf("`", from); i >= 0; i = whole.indexOf("`", i)) {
    const marks = run(whole, i);
    if (marks === length) return i;
    i += marks;
  }
  return -1;
}

/** Whether a run of marks can open or close. Source: CommonMark 0.31, 6.2; Chinese letters count as any other. */
function flanks(char, before, after) {
  const space = /\s/,
    mark = /[\p{P}\p{S}]/u;
  const left = !space.test(after) && (!mark.test(after) || space.test(before) || mark.test(before)),
    right = !space.test(before) && (!mark.test(before) || space.test(after) || mark.test(after));
  const wide = /[\u3000-\u9fff\uff00-\uffef]/; // between these there are no spaces that could tell
  const opens = left || (!space.test(after) && wide.test(before)),
    closes = right || (!space.test(before) && wide.test(after));
  if (char !== "_") return { opens, closes };
  return { opens: left && (!right || mark.test(before)), closes: right && (!left || mark.test(after)) };
}

/** Marks into emphasis: each closer takes the nearest opener of its kind before it. */
function resolve(items) {
  const floor = {}; // below this there is no opener left for a closer of this kind
  const made = [];
  for (const item of items) {
    if (item.kind !== "mark") {
      made.push(item);
      continue;
    }
    let left = { ...item };
    while (left.closes && left.length > 0) {
      const key = `${left.char}${left.opens}${left.length % 3}`;
      let open = made.length - 1;
      for (; open >= (floor[key] ?? 0); open -= 1) if (matches(made[open], left)) break;
      if (open < (floor[key] ?? 0)) {
        floor[key] = made.length;
        break;
      }
      const opener = made[open],
        used = left.char === "~" || (opener.length > 1 && left.length > 1) ? 2 : 1;
      if (used > Math.min(opener.length, left.length)) break;
      const inner = made.splice(open + 1).flatMap((one) => (one.kind === "mark" ? shown(one, 0, one.length) : [one]));
      const kind = left.char === "~" ? "del" : used === 2 ? "strong" : "em";
      opener.length -= used;
      if (!opener.length) made.pop();
      made.push({ kind, inner });
      for (const [name, at] of Object.entries(floor)) floor[name] = Math.min(at, made.length - 1);
      left = { ...left, start: left.start + used, length: left.length - used };
    }
    if (left.length > 0) made.push(left);
  }
  return made.flatMap((one) => (one.kind === "mark" ? shown(one, 0, one.length) : [one]));
}

function matches(opener, closer) {
  if (opener.kind !== "mark" || opener.char !== closer.char || !opener.opens) return false;
  const both = opener.closes || closer.opens;
  return !both || (opener.length + closer.length) % 3 !== 0 || (opener.length % 3 === 0 && closer.length % 3 === 0);
}

const shown = ({ whole, starts, start, length }) => texts(whole, starts, start, start + length);

/** An address that may be followed, or null. */
function address(text) {
  return /^(https?:\/\/|mailto:)[^\s]+$/i.test(text) ? text : null;
}
