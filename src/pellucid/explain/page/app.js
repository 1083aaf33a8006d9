// The page's state, kept in the address bar, and what sections share: words, numbers, the chosen token, layer, head and
// cell.

import { math, number, visible } from "./dom.js";
import { trouble } from "./figures.js";
import { Tip } from "./matrix.js";
import { en } from "./words.en.js";
import { zh } from "./words.zh.js";

const WORDS = { en, zh };
const NUMBERS = ["layer", "head", "pos"];
const KEYS = ["at", "layer", "head", "pos", "step", "cell", "text", "a", "b", "other", "part", "lang", "view", "theme"];

export class App {
  constructor(source) {
    this.source = source;
    this.watchers = [];
    this.eager = false;
    this.nearness = new IntersectionObserver((entries) => this.approach(entries), { rootMargin: "500px" });
    addEventListener("beforeprint", () => this.drawAll());
    this.model = null; // what the model is
    this.run = null; // what this run made: tokens, steps, checks, next tokens
    this.state = {
      at: "",
      layer: 0,
      head: 0,
      pos: 0,
      step: "",
      cell: "",
      text: "",
      a: "", // the two answers that causes are asked about; empty: the likeliest
      b: "",
      other: "", // the sentence beside the reader's own
      part: "", // of the model: layers.26.z:0
      lang: "",
      view: "story",
      theme: "",
    };
    Object.assign(this.state, readSettings(), readAddress());
    this.state.lang ||= (navigator.language || "en").startsWith("zh") ? "zh" : "en";
    this.tip = new Tip(this);
  }

  /** The text of ``key`` in the reader's language; entries may be functions of their arguments. */
  t(key, ...values) {
    const entry = WORDS[this.state.lang][key] ?? WORDS.en[key];
    return typeof entry === "function" ? entry(...values) : (entry ?? key);
  }

  /** Changes the state, the address, and whatever watches these keys. */
  set(changes) {
    const changed = Object.keys(changes).filter((key) => this.state[key] !== changes[key]);
    if (!changed.length) return;
    Object.assign(this.state, changes);
    this.keep();
    this.tell(changed);
  }

  tell(changed) {
    this.watchers = this.watchers.filter((watcher) => watcher.owner.isConnected || !watcher.seen);
    for (const watcher of this.watchers) if (watcher.keys.some((key) => changed.includes(key))) this.due(watcher);
  }

  /**
   * Calls ``tell`` with the state, then after each change of ``keys``, as long as ``owner`` is on the page; but only
   * while it is in sight or near: what nobody sees waits until it comes near, so that a change costs what is on the
   * screen. Answers a function that tells again.
   *
   * A picture that waits for numbers is drawn in two parts: ``tell`` gets the state as it was when it was told, and
   * answers (a promise of) a function that puts the picture in place. That one is called only if nothing was told
   * since: a late answer for another layer, token or run is thrown away. What goes wrong is said in ``owner``. What
   * comes bit by bit asks ``current``, its second argument, before each.
   */
  watch(owner, keys, tell) {
    const watcher = { owner, keys, tell, near: this.eager, stale: true, seen: false, turn: 0 };
    this.watchers.push(watcher);
    if (this.eager) this.due(watcher);
    else this.nearness.observe(owner);
    return () => this.due(watcher);
  }

  due(watcher) {
    watcher.stale = !(watcher.near || this.eager);
    watcher.turn += 1; // what is on its way was asked of another state
    watcher.owner.removeAttribute("aria-busy");
    if (!watcher.stale) this.draw(watcher, watcher.turn, this.run);
  }

  async draw(watcher, turn, run) {
    const current = () => watcher.turn === turn && this.run === run;
    try {
      const told = watcher.tell(Object.freeze({ ...this.state }), current);
      if (told instanceof Promise) watcher.owner.setAttribute("aria-busy", "true"); // fades, if it takes long
      const place = await told;
      if (!current()) return;
      watcher.owner.removeAttribute("aria-busy");
      place?.();
    } catch (error) {
      if (!current()) return;
      watcher.owner.removeAttribute("aria-busy");
      watcher.owner.replaceChildren(trouble(this, error));
    }
  }

  approach(entries) {
    for (const { target, isIntersecting } of entries)
      for (const watcher of this.watchers.filter((its) => its.owner === target)) {
        Object.assign(watcher, { near: isIntersecting, seen: watcher.seen || target.isConnected });
        if (isIntersecting && watcher.stale) this.due(watcher);
      }
  }

  /** Everything at once, for printing. */
  drawAll() {
    this.eager = true;
    for (const watcher of this.watchers) if (watcher.stale) this.due(watcher);
    this.eager = false;
  }

  /** The address bar holds what is seen; settings are remembered beside it. */
  keep() {
    const { state } = this,
      parts = KEYS.filter((key) => state[key] !== "" && !(key === "theme")).map(
        (key) => `${key}=${encodeURIComponent(state[key])}`,
      );
    history.replaceState(null, "", `#${parts.join("&")}`);
    try {
      localStorage.setItem("pellucid", JSON.stringify({ lang: state.lang, view: state.view, theme: state.theme }));
    } catch {
      /* a browser may refuse storage to a local file */
    }
  }

  layerConfig(layer = this.state.layer) {
    return this.model.layers[layer];
  }

  token(position) {
    return visible(this.run.tokens[position]?.text ?? "");
  }

  /** What the trace holds under this name, or undefined: {name, shape}. */
  step(name) {
    return this.run.steps.find((step) => step.name === name);
  }

  has(name) {
    return this.step(name) !== undefined;
  }

  /** "Why this value?": opens the panel on a cell. */
  ask(name, index, run) {
    this.set({ step: name, cell: index.join(",") });
    this.why?.open(name, index, run);
  }

  /** An answer to "why" in one line, for the tip. */
  shortly(why) {
    const terms = why.terms.slice(0, 3).map((term) => number(term.value, 3)),
      rest = why.terms.length + (why.rest_count ?? 0) - terms.length;
    if (why.masked) return [this.t(`masked_${why.masked}`)];
    if (!terms.length) return why.numbers ? [math(`<mrow><mo>=</mo>${why.numbers}</mrow>`, "inline")] : [];
    return [`= ${terms.join(" + ").replaceAll("+ −", "− ")}${rest > 0 ? ` + ${this.t("smaller_terms", rest)}` : ""}`];
  }

  /**
   * Carries the page to a section, and keeps it there while the pictures around it arrive, unless the reader moves on.
   */
  go(id) {
    this.set({ at: id });
    const element = document.getElementById(id),
      until = performance.now() + 2500;
    this.settling?.disconnect();
    element?.scrollIntoView({ block: "start" });
    this.settling = new ResizeObserver(() =>
      performance.now() < until ? element?.scrollIntoView({ block: "start" }) : this.settling.disconnect(),
    );
    this.settling.observe(document.getElementById("page"));
    for (const event of ["wheel", "touchmove", "keydown", "pointerdown"])
      addEventListener(event, () => this.settling.disconnect(), { once: true, passive: true });
  }
}

export function readAddress(hash = location.hash) {
  const state = {};
  for (const part of hash.replace(/^#/, "").split("&")) {
    const [key, value = ""] = part.split("=");
    if (!KEYS.includes(key)) continue;
    const text = decode(value);
    state[key] = NUMBERS.includes(key) ? Math.max(0, parseInt(text, 10) || 0) : text;
  }
  if (state.lang && !WORDS[state.lang]) delete state.lang;
  return state;
}

function decode(value) {
  try {
    return decodeURIComponent(value);
  } catch {
    return "";
  }
}

function readSettings() {
  try {
    const { lang = "", view = "story", theme = "" } = JSON.parse(localStorage.getItem("pellucid") ?? "{}");
    return { lang: WORDS[lang] ? lang : "", view: view === "numbers" ? view : "story", theme };
  } catch {
    return {};
  }
}
