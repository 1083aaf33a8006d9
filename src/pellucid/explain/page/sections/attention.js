// 6. Attention: every head as a small map; for one head and one query the way from q·k to weights, and arcs over the
// sentence.

import { css, ink, limitOf } from "../colour.js";
import { h, number, percent, svg } from "../dom.js";
import {
  Absent,
  bars,
  frame,
  headStepper,
  layerStepper,
  posStepper,
  select,
  stepFigure,
  story,
  thread,
} from "../figures.js";
import { Matrix } from "../matrix.js";
import { card } from "./card.js";
import { LeftOut } from "../source.js";

const FAINT = 0.02; // weights below it fade

export function render(app) {
  const section = frame(app, "attention", 6),
    at = (what) => (state) => `layers.${state.layer}.${what}`;
  const group = (state) =>
    Math.floor((state.head * app.layerConfig(state.layer).num_kv_heads) / app.layerConfig(state.layer).num_heads);
  const turned = (what) => (state) => app.layerConfig(state.layer).compared[what];
  const figure = (name, options = {}) =>
    stepFigure(app, name, {
      at: (state) => [0, Math.min(state.head, app.layerConfig(state.layer).num_heads - 1)],
      ...options,
    });
  // Keys as projected: this layer's, or those of the layer that lends them.
  const projected = (what) => (state) => `${(turned(what)(state) ?? "").split(".").slice(0, 2).join(".")}.${what}`;
  const raw = (what, its) => {
    const element = figure(projected(what), { at: its });
    element.classList.add("only-numbers");
    return element;
  };
  section.append(
    story(app, "attention_story", app.layerConfig()),
    thread(app, app.t("thread_stream"), { name: at("resid_pre") }),
    h("div", { class: "controls" }, layerStepper(app), headStepper(app), posStepper(app)),
    h("h3", {}, app.t("heads_title")),
    story(app, "heads_story"),
    heads(app),
    h("h3", {}, app.t("arcs_title")),
    story(app, "arcs_story"),
    arcs(app),
    inWords(app),
    lookers(app),
    h("h3", {}, app.t("qkv_title")),
    story(app, "qkv_story", app.layerConfig()),
    h(
      "div",
      { class: "two" },
      raw("q", (state) => [0, state.head]),
      raw("k", (state) => [0, group(state)]),
    ),
    h("div", { class: "two" }, figure(turned("q")), figure(turned("k"), { at: (state) => [0, group(state)] })),
    h("h3", {}, app.t("stages_title")),
    story(app, "stages_story", app.layerConfig()),
    stages(app, turned, group),
    h(
      "div",
      { class: "two" },
      figure(at("scores"), { square: true }),
      figure(at("pattern"), { square: true, scale: "probability" }),
    ),
    h("h3", {}, app.t("mix_title")),
    story(app, "mix_story"),
    h("div", { class: "two" }, figure(turned("v"), { at: (state) => [0, group(state)] }), figure(at("z"))),
    ...mixerSteps(app, at),
    stepFigure(app, at("attn_proj")),
    stepFigure(app, at("attn_out")),
  );
  return section;
}

/** The token that the head looks at most from there, but for the first one, where heads wait; the one before, else. */
async function mostSeen(app, layer, head, pos) {
  const name = `layers.${layer}.pattern`;
  if (!app.has(name) || pos < 1) return Math.max(0, pos - 1);
  const tile = await app.source.tile(name, { at: [0, head], run: app.run.run }).catch(() => null);
  if (!tile) return pos - 1;
  const row = tile.data.subarray(pos * tile.cols, pos * tile.cols + pos + 1);
  return [...row.keys()].slice(1).reduce((best, j) => (row[j] > row[best] ? j : best), 1);
}

/** Why there is no pattern: the layer's mixer has none, or the trace left it out. */
const withoutAttention = (app, layer) =>
  app.layerConfig(layer).compared.q ? new LeftOut("pattern") : new Absent("no_attention");

/** What layers compute that do not attend, step by step; a figure is there in the layers that have its step. */
function mixerSteps(app, at) {
  const shown = ["q", "k", "v", "z", "q_norm", "k_norm"],
    steps = new Map(app.model.layers.flatMap((layer) => layer.steps ?? []).map((step) => [step.name, step.heads]));
  const head = (state, name) => Math.min(state.head, (app.step(at(name)(state))?.shape[1] ?? 1) - 1);
  return [...steps]
    .filter(([name]) => !shown.includes(name))
    .map(([name, heads]) =>
      stepFigure(app, at(name), { at: (state) => (heads ? [0, head(state, name)] : [0]) }),
    );
}

function heads(app) {
  const grid = h("div", { class: "heads" }),
    maps = [];
  app.watch(grid, ["layer"], (state) => {
    const name = `layers.${state.layer}.pattern`,
      step = app.step(name),
      length = app.run.tokens.length;
    maps.length = 0;
    if (!step) throw withoutAttention(app, state.layer);
    grid.replaceChildren(
      ...Array.from({ length: step.shape[1] }, (_, head) => {
        const matrix = new Matrix(
            app,
            { name, at: [0, head], rows: step.shape[2], cols: step.shape[3] },
            { small: true, square: true, scale: "probability" },
          ),
          note = h("small", {});
        app.source
          .tile(name, { at: [0, head], run: app.run.run })
          .then(({ data, cols, rows }) => {
            let sink = 0,
              before = 0;
            for (let i = 1; i < rows; i++) ((sink += data[i * cols]), (before += data[i * cols + i - 1]));
            note.replaceChildren(
              app.t("sink", percent(sink / Math.max(1, rows - 1)), percent(before / Math.max(1, length - 1))),
            );
          })
          .catch(() => {});
        const button = h(
          "button",
          { "aria-pressed": "false", data: { head }, on: { click: () => app.set({ head }) } },
          matrix.element,
          app.t("head"),
          ` ${head}`,
          h("br"),
          note,
        );
        maps.push(button);
        return button;
      }),
    );
  });
  app.watch(grid, ["layer", "head"], (state) =>
    maps.forEach((button, head) => button.setAttribute("aria-pressed", String(head === state.head))),
  );
  return grid;
}

/** One query at a time: arcs to what it looks at, as thick as the weight. */
function arcs(app) {
  const element = h("figure", { class: "arcs" });
  app.watch(element, ["layer", "head", "pos"], async (state) => {
    const name = `layers.${state.layer}.pattern`;
    if (!app.has(name)) throw withoutAttention(app, state.layer);
    const tile = await app.source.tile(name, { at: [0, state.head], run: app.run.run });
    const row = tile.data.subarray(state.pos * tile.cols, (state.pos + 1) * tile.cols),
      first = Math.max(0, state.pos - 39);
    const widths = app.run.tokens
        .slice(first, state.pos + 2)
        .map((_, i) => Math.max(30, 13 + 9 * [...app.token(first + i)].length)),
      lefts = [];
    widths.reduce((x, width, i) => ((lefts[i] = x), x + width + 6), 4);
    const wide = lefts.at(-1) + widths.at(-1) + 4,
      middle = (i) => lefts[i - first] + widths[i - first] / 2,
      tall = 150,
      base = tall + 4,
      from = middle(state.pos);
    const curves = [],
      best = [...row.keys()].sort((a, b) => row[b] - row[a]);
    let hidden = 0;
    for (let j = first; j <= state.pos; j++) {
      const to = middle(j),
        rise = Math.min(tall - 14, 22 + Math.abs(from - to) * 0.42),
        strong = row[j] >= FAINT;
      const path =
        j === state.pos
          ? `M${from - 7} ${base} C${from - 20} ${base - 34} ${from + 20} ${base - 34} ${from + 7} ${base}`
          : `M${from} ${base} C${from} ${base - rise * 1.3} ${to} ${base - rise * 1.3} ${to} ${base}`;
      curves.push(
        svg("path", {
          d: path,
          fill: "none",
          stroke: "var(--sym-pattern)",
          "stroke-width": Math.max(0.8, 13 * row[j]),
          opacity: strong ? 0.35 + 0.65 * row[j] : 0.12,
        }),
      );
    }
    for (let j = 0; j < first; j++) hidden += row[j];
    const chips = widths.map((width, i) => {
      const j = first + i,
        masked = j > state.pos,
        pick = () => app.set({ pos: j });
      return svg(
        "g",
        {
          role: "button",
          tabindex: 0,
          "aria-label": app.token(j),
          style: { cursor: "pointer" },
          on: { click: pick, keydown: (event) => event.key === "Enter" && pick() },
        },
        svg("rect", {
          x: lefts[i],
          y: base,
          width,
          height: 30,
          rx: 6,
          fill: masked ? "none" : css(row[j], 1, "probability"),
          stroke: j === state.pos ? "var(--accent)" : "var(--line)",
          "stroke-width": j === state.pos ? 2 : 1,
          "stroke-dasharray": masked ? "3 3" : null,
        }),
        svg(
          "text",
          {
            x: middle(j),
            y: base + 20,
            "text-anchor": "middle",
            style: { fill: masked ? "var(--ink-soft)" : ink(row[j], 1, "probability"), "font-size": "14px" },
          },
          app.token(j),
        ),
        svg(
          "text",
          { x: middle(j), y: base + 46, "text-anchor": "middle", data: { weight: j } },
          masked ? app.t("not_yet") : row[j] >= 0.005 ? percent(row[j]) : "",
        ),
      );
    });
    const scroll = h(
      "div",
      { class: "scroll-x" },
      svg(
        "svg",
        {
          viewBox: `0 0 ${wide} ${base + 52}`,
          width: wide,
          height: base + 52,
          class: "plot",
          style: { width: `${wide}px` },
          role: "img",
          "aria-label": app.t("arcs_title"),
        },
        curves,
        chips,
      ),
    );
    const looks = best
      .slice(0, 3)
      .map((j) => `${app.token(j)} ${percent(row[j])}`)
      .join(", ");
    const unseen = hidden > 0.001 ? ` ${app.t("arcs_hidden", first, percent(hidden))}` : "";
    return () => {
      element.replaceChildren(
        h("figcaption", {}, app.t("arcs_caption", app.token(state.pos), looks), unseen),
        scroll,
      );
      scroll.scrollLeft = wide;
    };
  });
  return element;
}

/** The chosen head in words: what it makes likelier from the chosen token on. */
function inWords(app) {
  const element = h("div", { class: "in-words" });
  app.watch(element, ["layer", "head", "pos"], (state) => {
    const part = { layer: state.layer, head: Math.min(state.head, app.layerConfig(state.layer).num_heads - 1) };
    return app.source.live || state.pos === app.run.tokens.length - 1
      ? element.replaceChildren(card(app, part, state.pos))
      : element.replaceChildren();
  });
  return element;
}

/** Of all heads of all layers, those that look most from the chosen token to another. */
function lookers(app) {
  const element = h("figure", { class: "lookers" }),
    choose = h("span", {}),
    list = h("div", {});
  let key = null;
  const draw = async ({ layer, head, pos }) => {
    key = Math.min(key ?? (await mostSeen(app, layer, head, pos)), pos);
    choose.replaceChildren(
      select(
        app.run.tokens.slice(0, pos + 1).map((_, i) => [String(i), `${i} ${app.token(i)}`]),
        String(key),
        (value) => ((key = +value), again()),
        app.t("key"),
      ),
    );
    const its = await app.source.get("lookers", { pos, key, run: app.run.run });
    const rows = its.heads.map((head) => ({
      name: app.t("part_name", head),
      value: head.p,
      text: percent(head.p),
      on: () => app.set({ layer: head.layer, head: head.head }),
    }));
    return () => list.replaceChildren(bars(rows, { most: 1 }), h("p", { class: "soft" }, app.t("lookers_of", its.of)));
  };
  element.append(
    h("h3", {}, app.t("lookers_title")),
    h("div", { class: "controls" }, posStepper(app), h("label", {}, app.t("lookers_to"), choose)),
    list,
  );
  const again = app.watch(list, ["pos"], draw);
  return element;
}

/** Raw → scaled → masked → softmax for one query. The first two are recomputed here from q and k, and say so. */
function stages(app, turned, group) {
  const element = h("figure", { class: "stages" });
  app.watch(element, ["layer", "head", "pos"], async (state) => {
    const layer = app.layerConfig(state.layer),
      { run } = app.run;
    if (!app.has(turned("q")(state))) throw withoutAttention(app, state.layer);
    const [q, k, scores, pattern] = await Promise.all([
      app.source.tile(turned("q")(state), { at: [0, state.head], run }),
      app.source.tile(turned("k")(state), { at: [0, group(state)], run }),
      app.source.tile(`layers.${state.layer}.scores`, { at: [0, state.head], run }),
      app.source.tile(`layers.${state.layer}.pattern`, { at: [0, state.head], run }),
    ]);
    const { pos } = state,
      keys = scores.cols,
      rows = Array.from({ length: keys }, (_, j) => {
        let dot = 0;
        for (let e = 0; e < q.cols; e++) dot += q.data[pos * q.cols + e] * k.data[j * k.cols + e];
        return {
          j,
          dot,
          scaled: dot * layer.scale,
          score: scores.data[pos * keys + j],
          p: pattern.data[pos * keys + j],
        };
      });
    const best = [...rows]
        .sort((a, b) => b.p - a.p)
        .slice(0, 12)
        .map((row) => row.j),
      shown = rows.filter((row) => best.includes(row.j) || (row.j > pos && row.j <= pos + 2)).slice(0, 14);
    const limits = ["dot", "scaled"].map((key) =>
        limitOf(
          rows.map((row) => row[key]),
          "signed",
        ),
      ),
      cell = (value, limit, scale = "signed") =>
        h(
          "td",
          { class: "n" },
          h(
            "span",
            {
              style: {
                background: css(value, limit, scale),
                color: ink(value, limit, scale),
                padding: "2px 6px",
                "border-radius": "4px",
                display: "inline-block",
                "min-width": "58px",
              },
            },
            number(value, 4),
          ),
        );
    const ask = (what, j) => ({
      style: { cursor: "pointer" },
      on: { click: () => app.ask(`layers.${state.layer}.${what}`, [0, state.head, pos, j]) },
    });
    return () =>
      element.replaceChildren(
        h(
          "div",
          { class: "scroll-x" },
          h(
            "table",
            { class: "tight" },
            h(
              "tr",
              {},
              [
                app.t("key"),
                app.t("stage_raw"),
                app.t("stage_scaled", number(layer.scale, 4)),
                app.t("stage_masked"),
                app.t("stage_softmax"),
              ].map((name) => h("th", {}, name)),
            ),
            shown.map((row) =>
              h(
                "tr",
                { data: { key: row.j } },
                h("td", { style: { "white-space": "nowrap" } }, `${row.j} ${app.token(row.j)}`),
                cell(row.dot, limits[0]),
                cell(row.scaled, limits[1]),
                h("td", { class: "n", ...ask("scores", row.j) }, cell(row.score, limits[1]).firstChild),
                h(
                  "td",
                  { class: "n", ...ask("pattern", row.j), data: { p: row.p } },
                  cell(row.p, 1, "probability").firstChild,
                ),
              ),
            ),
          ),
        ),
        h(
          "p",
          { class: "soft" },
          rows.length > shown.length ? app.t("stages_some", shown.length, rows.length) : "",
          " ",
          app.t("stages_recomputed", layer.softcap),
        ),
      );
  });
  return element;
}
