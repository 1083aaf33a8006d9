// How sure the model was of a token: the probability in words of figures, in five steps of colour; and how a token is
// spelled.

import { h, percent, visible } from "./explain/dom.js";

const STEPS = [0.9, 0.5, 0.2, 0.05]; // least probability of each step but the last

/** The class of a token by the probability that the model gave it. */
export function sureness({ logprob }) {
  if (logprob === null || logprob === undefined) return "";
  const p = Math.exp(logprob),
    step = STEPS.findIndex((least) => p >= least);
  return `s${step < 0 ? STEPS.length : step}`;
}

export function legend(app) {
  const names = ["90–100 %", "50–90 %", "20–50 %", "5–20 %", "< 5 %"];
  return h(
    "div",
    { class: "sure-legend" },
    h("span", { class: "what" }, app.t("sure_legend")),
    names.map((name, i) => h("span", { class: `t s${i}` }, name)),
  );
}

/** A probability as one reads it; 100 % is said of what is certain, and of nothing else. */
export function share(p) {
  if (p < 0.9995 || p === 1) return percent(p);
  return p < 0.99995 ? `${(100 * p).toFixed(2)} %` : "> 99.99 %";
}

/** A token as one can see it: spaces and line ends have faces, bytes that are no whole character are numbers. */
export function face({ text, bytes }) {
  if (!bytes || !text.includes("\ufffd")) return visible(text);
  const parts = [];
  for (let i = 0; i < bytes.length;) {
    const length = wide(bytes, i);
    parts.push(
      length
        ? new TextDecoder().decode(new Uint8Array(bytes.slice(i, i + length)))
        : `<${bytes[i].toString(16).toUpperCase()}>`,
    );
    i += length || 1;
  }
  return visible(parts.join(""));
}

/** The bytes of the whole character that begins here, or 0. */
function wide(bytes, i) {
  const first = bytes[i],
    length = first < 0x80 ? 1 : first >> 5 === 6 ? 2 : first >> 4 === 14 ? 3 : first >> 3 === 30 ? 4 : 0;
  const rest = bytes.slice(i + 1, i + length);
  return length && rest.length === length - 1 && rest.every((byte) => byte >> 6 === 2) ? length : 0;
}
