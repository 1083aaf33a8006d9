// How sure the model was of a token, in five steps, and what the steps mean.

import { h } from "./explain/dom.js";

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
    h("span", {}, app.t("sure_legend")),
    names.map((name, i) => h("span", { class: "step" }, h("span", { class: `t s${i}` }, name))),
  );
}
