// Building the page out of nodes. Text from a prompt or a model file only ever becomes a text node, so it can never run
// as script.

/**
 * h("p", {class: "note", on: {click: f}}, "text", node, …): an element. Props: class, on, style, data; anything else is
 * an attribute.
 */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same in SVG. */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

function fill(element, props, children) {
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") element.setAttribute("class", value);
    else if (key === "on")
      for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (key === "style") for (const [name, its] of Object.entries(value)) element.style.setProperty(name, its);
    else if (key === "data") Object.assign(element.dataset, value);
    else if (key === "value") element.value = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

const MARKS = /\*([^*]+)\*|\[([^\]]+)\]\(#([\w-]+)\)|\{(\w+)\}|`([^`]+)`/g;

/**
 * Prose with four marks: *emphasis* (a term where it is explained), [text](#section), {q} (a symbol in its colour),
 * `code`.
 */
export function prose(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(MARKS)) {
    nodes.push(text.slice(end, match.index));
    const [, term, label, target, symbol, code] = match;
    if (term) nodes.push(h("dfn", {}, term));
    else if (label) nodes.push(h("a", { href: `#at=${target}`, data: { goto: target } }, label));
    else if (symbol) nodes.push(h("i", { class: `sym sym-${symbol}` }, symbol));
    else nodes.push(h("code", {}, code));
    end = match.index + match[0].length;
  }
  nodes.push(text.slice(end));
  return nodes;
}

const MATH_TAGS = new Set(
  (
    "math mrow mi mo mn mtext mfrac msqrt mroot msub msup msubsup munder mover munderover " +
    "mtable mtr mtd mspace mstyle mpadded"
  ).split(
    " ",
  ),
);
const MATH_ATTRIBUTES = new Set([
  "display",
  "mathvariant",
  "stretchy",
  "accent",
  "columnalign",
  "width",
  "lspace",
  "rspace",
  "linethickness",
  "form",
]);

const ENTITIES = { "&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": '"', "&#x27;": "'", "&#39;": "'" };

/**
 * A formula from MathML text: only MathML's own elements and harmless attributes pass; known symbols take the picture's
 * colour.
 * Read by hand, not by the browser's HTML parser, so that the page needs no way to turn text into markup at all
 * (Trusted Types: none).
 */
export function math(source, display = "block") {
  const open = [document.createElementNS("http://www.w3.org/1998/Math/MathML", "math")];
  for (const [, close, tag, attributes, alone, text] of source.matchAll(/<(\/?)([a-z]+)([^>]*?)(\/?)>|([^<]+)/g)) {
    if (text !== undefined) open.at(-1).append(text.replace(/&[#\w]+;/g, (name) => ENTITIES[name] ?? name));
    else if (tag === "math" || !MATH_TAGS.has(tag)) continue;
    else if (close) {
      const done = open.length > 1 ? open.pop() : open[0],
        symbol = SYMBOLS[done.textContent.trim()];
      if (symbol && (done.localName === "mi" || done.localName === "mtext"))
        done.setAttribute("class", `sym-${symbol}`);
    } else {
      const element = document.createElementNS("http://www.w3.org/1998/Math/MathML", tag);
      for (const [, name, value] of attributes.matchAll(/([a-z]+)=["']([^"']*)["']/g))
        if (MATH_ATTRIBUTES.has(name)) element.setAttribute(name, value);
      open.at(-1).append(element);
      if (!alone) open.push(element);
    }
  }
  open[0].setAttribute("display", display);
  return open[0];
}

// What a formula calls it → the class that carries its colour.
const SYMBOLS = {
  x: "x",
  q: "q",
  k: "k",
  v: "v",
  z: "z",
  A: "pattern",
  a: "pattern",
  S: "scores",
  s: "scores",
  μ: "mean",
  σ: "spread",
  γ: "gain",
  β: "shift",
  Q: "q",
  K: "k",
  V: "v",
  pattern: "pattern",
  scores: "scores",
  logits: "logits",
  softmax: "pattern",
};

/** A number as one reads it: four significant figures, a true minus, tabular. */
export function number(value, figures = 4) {
  if (value === null || value === undefined) return "–";
  if (value === "-inf" || value === -Infinity) return "−∞";
  if (value === "inf" || value === Infinity) return "∞";
  if (value === "nan" || Number.isNaN(value)) return "NaN";
  const size = Math.abs(value);
  let text =
    size === 0
      ? "0"
      : size >= 1e5 || size < 1e-4
        ? value.toExponential(figures - 1)
        : String(Number(value.toPrecision(figures)));
  if (size !== 0 && size < 1e5 && size >= 1e-4 && !Number.isInteger(value))
    text = value.toFixed(Math.max(0, Math.min(6, figures - 1 - Math.floor(Math.log10(size)))));
  return text.replace("-", "−").replace("e+", "e");
}

export function percent(p) {
  return p >= 0.9995
    ? "100 %"
    : p >= 0.1
      ? `${(100 * p).toFixed(1)} %`
      : p >= 0.001
        ? `${(100 * p).toFixed(2)} %`
        : p >= 1e-6
          ? `${Number((100 * p).toPrecision(2))} %`
          : p > 0
            ? "< 0.0001 %"
            : "0 %";
}

export function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < 4) [count, unit] = [count / 1000, unit + 1];
  return `${unit === 0 || count >= 100 ? Math.round(count) : count.toFixed(1)} ${units[unit]}`;
}

export function count(n) {
  return n.toLocaleString("en").replaceAll(",", "\u202f");
}

/** A token as one can see it: spaces and line ends have faces. */
export function visible(text) {
  return text === ""
    ? "∅"
    : text
        .replaceAll(" ", "␣")
        .replaceAll("\n", "↵")
        .replaceAll("\t", "⇥")
        .replaceAll("▁", "␣")
        .replaceAll("Ġ", "␣")
        .replaceAll("Ċ", "↵");
}

/** Runs ``f`` at most once a frame, with the latest arguments. */
export function eachFrame(f) {
  let latest = null,
    waiting = false;
  return (...args) => {
    latest = args;
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => ((waiting = false), f(...latest)));
  };
}

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
