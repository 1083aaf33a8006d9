// What every section is built from: a step as a figure, the sentence as a thread, bars, steppers, a section's frame.

import { css, ink, limitOf } from "./colour.js";
import { h, math, number, percent, prose, visible } from "./dom.js";
import { Matrix } from "./matrix.js";
import { Gone, LeftOut } from "./source.js";

/** What the model does not have here, though nothing is missing: a layer that does not attend. By the words' key. */
export class Absent extends Error {}

/** A section: number, title, story, and where its figures go. */
export function frame(app, id, no) {
  const element = h(
    "section",
    { id, "aria-labelledby": `${id}-title` },
    h("h2", { id: `${id}-title` }, no === "" ? "" : h("span", { class: "no" }, String(no)), app.t(`${id}_title`)),
  );
  return element;
}

/** Paragraphs of the story under ``key``; "" where there are none. */
export function story(app, key, ...values) {
  const text = app.t(key, ...values);
  return h(
    "div",
    { class: "story" },
    (Array.isArray(text) ? text : [text]).map((paragraph) => h("p", {}, prose(paragraph))),
  );
}

/**
 * Runs ``make`` and puts what it makes in place; what an offline file left out is said, anything else is an error in
 * plain sight.
 */
export function later(app, make, ...classes) {
  const place = h("div", { class: classes.join(" ") });
  Promise.resolve()
    .then(make)
    .then((nodes) => place.replaceChildren(...[nodes].flat(Infinity).filter(Boolean)))
    .catch((error) => place.replaceChildren(trouble(app, error)));
  return place;
}

export function trouble(app, error) {
  if (error instanceof LeftOut)
    return h("p", { class: "placeholder" }, app.t(error.message === "live" ? "needs_live" : "left_out_here"));
  if (error instanceof Absent) return h("p", { class: "placeholder" }, app.t(error.message));
  if (error instanceof Gone) return h("p", { class: "bad", role: "alert" }, app.t("server_gone"));
  console.error(error);
  return h("p", { class: "bad", role: "alert" }, String(error.message));
}

/** A figure of the training story, with what each has: a title, one sentence, and the formula of its numbers. */
export function picture(app, info, key, formula, ...nodes) {
  return h(
    "figure",
    { class: "picture", data: { picture: key } },
    h("figcaption", {}, h("b", {}, app.t(`${key}_name`)), h("span", {}, prose(app.t(`${key}_says`)))),
    h("div", { class: "formula" }, math(info.formulas[formula])),
    ...nodes,
  );
}

const tokenRow = (app) => (i) => `${i} ${app.token(i)}`;

/**
 * A step of the run as a figure: caption, matrix, and for an engineer its formula, shape, range, sources and code line.
 * ``at`` gives the leading indices for the state (head, say); ``kind`` "pattern" draws query rows by key columns.
 */
export function stepFigure(
  app,
  nameOf,
  {
    at = () => [0],
    keys = ["layer", "head"],
    scale = "signed",
    square = false,
    caption = null,
    formula = "story",
    rowHeight,
    facts = true,
  } = {},
) {
  const element = h("figure"),
    head = h("figcaption"),
    equation = h("div", { class: formula === "numbers" ? "formula only-numbers" : "formula" }),
    line = h("div", { class: "facts only-numbers" });
  let matrix = null;
  const show = async (state) => {
    const name = nameOf(state),
      step = app.step(name);
    element.classList.toggle("absent", !step);
    if (!step) return;
    const [rows, cols] = step.shape.slice(-2),
      tensor = { name, at: at(state), rows, cols };
    const options = {
      scale,
      square,
      rowHeight,
      rowLabel: tokenRow(app),
      colLabel: square ? (j) => app.token(j) : null,
      onPick: ([i]) => app.set({ pos: i }),
    };
    if (matrix) matrix.show(tensor);
    else element.append(head, equation, (matrix = new Matrix(app, tensor, options)).element, facts ? line : "");
    matrix.mark(state.pos);
    const described = await app.source.get(`step/${name}`, { run: app.run.run }).catch(() => null);
    return () => {
      if (!described) return head.replaceChildren(h("code", {}, name));
      head.replaceChildren(
        h("b", {}, described.title[app.state.lang]),
        h("span", {}, caption ? app.t(caption) : described.meaning[app.state.lang]),
        h("code", { class: "only-numbers" }, name),
      );
      if (formula) equation.replaceChildren(math(described.mathml));
      line.replaceChildren(...factsOf(app, described));
    };
  };
  app.watch(element, keys, show);
  app.watch(element, ["pos"], (state) => matrix?.mark(state.pos));
  return element;
}

/** Shape, dtype, range, sources and code line of a step. */
export function factsOf(app, step) {
  const fact = (key, value) => h("span", {}, `${app.t(key)} `, h("b", {}, value));
  return [
    fact("shape", `${step.axes.map((axis, i) => `${axis} ${step.shape[i]}`).join(" × ")}`),
    fact("dtype", step.dtype),
    step.min === null ? "" : fact("range", `${number(step.min)} … ${number(step.max)}`),
    fact("norm", number(step.norm)),
    step.inputs.length ? fact("from", step.inputs.join(", ")) : "",
    step.weights.length
      ? fact(
          "weights",
          step.weights
            .slice(0, 6)
            .map((weight) => weight.name)
            .join(", ") + (step.weights.length > 6 ? `, … (${step.weights.length})` : ""),
        )
      : "",
    step.code ? h("span", {}, `${app.t("code")} `, h("b", {}, `${step.code} `), h("code", {}, step.code_text)) : "",
  ];
}

/**
 * The sentence as it is by now: each token with its row of ``name`` as a strip of colour; ``under(i)`` may say
 * something else.
 */
export function thread(app, label, { name = null, under = null } = {}) {
  const element = h("div", { class: "thread" });
  const draw = async (state) => {
    const tokens = app.run.tokens,
      first = Math.max(0, Math.min(state.pos - 7, tokens.length - 10)),
      shown = tokens.slice(first, first + 10);
    const tap = typeof name === "function" ? name(state) : name,
      tile = tap && app.has(tap) ? await app.source.tile(tap, { at: [0], run: app.run.run }).catch(() => null) : null;
    const chips = shown.map((token, i) => {
      const at = first + i,
        strip = tile ? rowStrip(tile, at) : null;
      return h(
        "span",
        { class: `chip${at === state.pos ? " here" : ""}${token.special ? " special" : ""}` },
        visible(token.text),
        strip,
        under ? h("small", {}, under(token, at)) : null,
      );
    });
    const some =
      shown.length < tokens.length ? ` ${app.t("thread_some", first, first + shown.length - 1, tokens.length)}` : "";
    return () => element.replaceChildren(h("span", { class: "thread-label" }, label, some), ...chips);
  };
  app.watch(element, ["pos", "layer"], draw);
  return element;
}

/** A row as a strip; each to its own scale, since a first token's row may be a hundred times as long as the others. */
function rowStrip(tile, row) {
  const limit = limitOf(tile.data.subarray(row * tile.cols, (row + 1) * tile.cols), "signed"),
    wide = Math.min(27, tile.cols),
    canvas = h("canvas", { width: wide, height: 1 }),
    context = canvas.getContext("2d");
  for (let j = 0; j < wide; j++) {
    context.fillStyle = css(tile.data[row * tile.cols + Math.floor((j * tile.cols) / wide)], limit, "signed");
    context.fillRect(j, 0, 1, 1);
  }
  return canvas;
}

/** Horizontal bars: [{name, value, text?, on?, title?, faint?}]; signed ones grow from a zero line. */
export function bars(rows, { signed = false, most = null } = {}) {
  const end = most ?? Math.max(...rows.map((row) => Math.abs(row.value)), 1e-30),
    low = signed && rows.some((row) => row.value < 0),
    high = !signed || rows.some((row) => row.value >= 0);
  const zero = low ? (high ? 50 : 100) : 0,
    room = low && high ? 50 : 100;
  return h(
    "div",
    { class: "bars" },
    rows.map((row) => {
      const size = Math.min(room, (Math.abs(row.value) / end) * room),
        minus = row.value < 0;
      const fill = h("i", {
        class: `${signed ? (minus ? "minus" : "plus") : ""}${row.faint ? " faint" : ""}`,
        style: { left: `${minus ? zero - size : zero}%`, width: `${size}%` },
      });
      const name = h(
        row.on ? "button" : "span",
        { class: "bar-name", title: row.title ?? row.name, on: row.on ? { click: row.on } : {} },
        row.name,
      );
      return [
        name,
        h("span", { class: "bar", style: { "--zero": `${zero}%` } }, fill),
        h("span", { class: "n" }, row.text ?? number(row.value, 3)),
      ];
    }),
  );
}

/** Token probabilities as bars, likeliest first. */
export function tokenBars(app, tokens, on = null) {
  return bars(
    tokens.map((token) => ({
      name: visible(token.text),
      title: `id ${token.id}`,
      value: token.p,
      text: percent(token.p),
      on: on ? () => on(token) : null,
      faint: token.out,
    })),
    { most: 1 },
  );
}

/** − value + for a whole number in the state. */
export function stepper(app, key, label, count) {
  const output = h("output", { "aria-live": "polite" });
  const move = (by) => app.set({ [key]: (app.state[key] + by + count()) % count() });
  const element = h(
    "span",
    { class: "stepper" },
    h("button", { "aria-label": `${app.t(label)} −1`, on: { click: () => move(-1) } }, "‹"),
    output,
    h("button", { "aria-label": `${app.t(label)} +1`, on: { click: () => move(1) } }, "›"),
  );
  app.watch(element, [key, "layer"], (state) => output.replaceChildren(app.t("of", app.t(label), state[key], count())));
  return element;
}

export const layerStepper = (app) => stepper(app, "layer", "layer", () => app.model.layers.length);
export const headStepper = (app) => stepper(app, "head", "head", () => app.layerConfig().num_heads);
export const posStepper = (app) => stepper(app, "pos", "position", () => app.run.tokens.length);

/** Buttons of which one is pressed. ``choices``: [[value, label], …]. */
export function choice(choices, value, on) {
  const buttons = choices.map(([its, label]) =>
    h("button", { "aria-pressed": String(its === value), on: { click: () => press(its) } }, label),
  );
  const press = (chosen) => {
    choices.forEach(([its], i) => buttons[i].setAttribute("aria-pressed", String(its === chosen)));
    on(chosen);
  };
  return h("span", { class: "switch" }, buttons);
}

export function select(options, value, on, label) {
  return h(
    "select",
    { "aria-label": label, on: { change: (event) => on(event.target.value) } },
    options.map(([its, text]) => h("option", { value: its, selected: its === value }, text)),
  );
}

/** A slider with its value said beside it. */
export function slider(label, { min, max, step, value, say = (v) => number(v, 3) }, on) {
  const output = h("output", {}, say(value));
  const input = h("input", {
    type: "range",
    min,
    max,
    step,
    value,
    "aria-label": label,
    on: { input: () => (output.replaceChildren(say(+input.value)), on(+input.value)) },
  });
  return h("label", { class: "slider" }, h("span", {}, label, " ", output), input);
}

/** A small table of numbers coloured like the matrices; for a row of cells that one reads. */
export function swatch(value, limit, scale = "signed") {
  return h(
    "span",
    {
      style: {
        background: css(value, limit, scale),
        color: ink(value, limit, scale),
        padding: "1px 6px",
        "border-radius": "3px",
      },
    },
    number(value, 3),
  );
}
