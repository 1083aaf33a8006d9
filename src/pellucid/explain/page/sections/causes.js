// 9. Who decided it: every head and every MLP silenced in turn, the model really run each time; for any of them a slider
// from all of it to none.

import { h, number, percent, svg, visible } from "../dom.js";
import { bars, frame, posStepper, select, slider, story, trouble } from "../figures.js";
import { Matrix } from "../matrix.js";
import { card } from "./card.js";
import { answerSaid, contrastForm, inGroups, partKey, partLink, partName, signed } from "./contrast.js";

const GROUPS = 6; // answers that a map comes in, the last layers first
const LISTED = 10;

export function render(app) {
  const section = frame(app, "causes", 9);
  section.append(
    story(app, "causes_story", app.model),
    h("div", { class: "controls" }, posStepper(app)),
    contrastForm(app),
    map(app),
  );
  if (app.model.native) section.append(h("p", { class: "soft" }, app.t("causes_native")));
  return section;
}

/** The columns of the map: heads, and what else its layers have. */
function columns(app) {
  const heads = Math.max(0, ...app.model.layers.map((layer) => layer.num_heads)),
    others = ["mixer", "mlp", "side"].filter((what) => app.model.parts_of.includes(what));
  return { heads, others, count: heads + others.length };
}

function map(app) {
  const body = h("div", { class: "causes-body" });
  app.watch(body, ["pos", "a", "b"], async (state, current) => {
    const asked = { pos: state.pos, a: state.a, b: state.b, run: app.run.run },
      chosen = await app.source.get("contrast", asked);
    return () => place(app, body, { ...chosen, pos: state.pos }, current);
  });
  return body;
}

function place(app, body, chosen, current) {
  const { heads, others, count } = columns(app),
    layers = app.model.layers.length,
    values = new Float32Array(layers * count).fill(NaN),
    parts = new Map(),
    asked = { pos: chosen.pos, a: chosen.a.id, b: chosen.b.id, run: app.run.run };
  const at = ({ layer, what, head }) => [layers - 1 - layer, head ?? heads + others.indexOf(what)],
    part = (i, j) => parts.get(`${i},${j}`),
    name = (j) => (j < heads ? String(j) : app.t(`column_${others[j - heads]}`));
  const options = {
    rowHeight: layers > 40 ? 11 : 15,
    rowLabel: (i) => `${app.t("layer_short")}${layers - 1 - i}`,
    colLabel: name,
  };
  const effect = new Matrix(app, { name: "causes", values, rows: layers, cols: count }, {
    ...options,
    say: (value, i, j) => (part(i, j) ? brief(value) : "·"),
    title: (i, j) => (part(i, j) ? partName(app, part(i, j)) : app.t("no_such_part")),
    onPick: ([i, j]) => part(i, j) && app.set({ part: partKey(part(i, j)) }),
  });
  const looks = looking(app, chosen, options, heads),
    list = h("div", {}),
    progress = h("p", { class: "soft", role: "status" }),
    detail = h("div", { class: "causes-detail" });
  body.replaceChildren(
    h(
      "p",
      { class: "contrast-said", data: { gap: chosen.gap } },
      app.t("contrast_said", {
        token: app.token(chosen.pos),
        a: answerSaid(app, chosen.a),
        b: answerSaid(app, chosen.b),
        gap: signed(chosen.gap, 4),
      }),
    ),
    h(
      "div",
      { class: "two" },
      h(
        "figure",
        { data: { causes: "effect" } },
        h("figcaption", {}, h("b", {}, app.t("effect_title")), h("span", {}, app.t("effect_says", visible(chosen.a.text), visible(chosen.b.text)))),
        effect.element,
      ),
      looks.figure,
    ),
    progress,
    list,
    detail,
  );
  const show = () => {
    const all = [...parts.values()].sort((x, y) => Math.abs(y.change) - Math.abs(x.change));
    effect.show({ name: "causes", values, rows: layers, cols: count });
    list.replaceChildren(
      h("h3", {}, app.t("causes_list")),
      bars(
        all.slice(0, LISTED).map((its) => ({
          name: partName(app, its),
          value: its.change,
          text: its.then === chosen.likeliest ? signed(its.change) : effectThen(app, its),
          title: app.t("effect_then", signed(its.change), visible(its.then)),
          on: () => app.set({ part: partKey(its) }),
        })),
        { signed: true },
      ),
    );
  };
  const fill = async () => {
    const done = await inGroups(layers, GROUPS, {
      current: () => current() && body.isConnected,
      ask: (start, stop) => {
        progress.replaceChildren(app.t("causes_running", stop - 1, layers));
        return app.source.get("causes", { ...asked, layers: `${start}:${stop}` });
      },
      take: (its) => {
        for (const one of its.parts) {
          const [i, j] = at(one);
          if (parts.has(`${i},${j}`)) continue; // of two mixers side by side, the first one's heads
          values[i * count + j] = one.change;
          parts.set(`${i},${j}`, one);
        }
        show();
      },
      wait: (left, go) =>
        progress.replaceChildren(
          h("button", { class: "primary", data: { run: "causes" }, on: { click: go } }, app.t("run_for", Math.round(left))),
        ),
    });
    if (!done) return;
    progress.replaceChildren(app.t("causes_done", parts.size));
    const heads = [...parts.values()].filter((one) => one.head !== null),
      strongest = heads.sort((x, y) => Math.abs(y.change) - Math.abs(x.change))[0];
    if (strongest && ![...parts.values()].some((one) => partKey(one) === app.state.part))
      app.set({ part: partKey(strongest) });
    drawn();
    if (strongest && app.model.layers[strongest.layer].compared.q) looks.at(await glance(app, strongest, chosen.pos));
  };
  let drawn = () => {};
  drawn = app.watch(detail, ["part"], async (state) => {
    const its = [...parts.values()].find((one) => partKey(one) === state.part);
    if (!its) return () => detail.replaceChildren();
    const curve = await app.source.get("dose", { ...asked, path: its.path, head: its.head });
    const where = its.head === null || !app.has(`layers.${its.layer}.pattern`) ? null : await glance(app, its, chosen.pos);
    return () => detail.replaceChildren(...one(app, its, chosen, curve, where));
  });
  fill().catch((error) => current() && progress.replaceChildren(trouble(app, error)));
}

/** −3.54 → “ is” */
const effectThen = (app, { change, then }) => app.t("effect_then", signed(change), visible(then).slice(0, 8));

/** +0.05, −3.54, +12.3: as much as a cell has room for. */
const brief = (value) => `${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(Math.abs(value) < 10 ? 2 : 1)}`;

/** Where a head looks from the token, the most first. */
async function glance(app, { layer, head }, pos) {
  const { data, cols } = await app.source.tile(`layers.${layer}.pattern`, { at: [0, head], run: app.run.run }),
    row = data.subarray(pos * cols, pos * cols + pos + 1);
  return [...row.keys()].sort((x, y) => row[y] - row[x]).slice(0, 3).map((j) => [j, row[j]]);
}

/** One part in words, and its slider: silenced a little at a time. */
function one(app, its, chosen, curve, where) {
  const readout = h("p", { class: "dose-said", role: "status" }),
    picture = doseCurve(app, curve, chosen);
  const show = (factor) => {
    const gap = curve.gaps[Math.round(factor * (curve.factors.length - 1))];
    picture.mark(factor);
    readout.dataset.gap = gap;
    readout.replaceChildren(
      app.t("dose_said", {
        part: partName(app, its),
        factor: percent(factor),
        gap: signed(gap, 4),
        winner: visible(gap >= 0 ? chosen.a.text : chosen.b.text),
      }),
    );
  };
  const nodes = [
    h("h3", {}, partLink(app, its)),
    where &&
      h(
        "p",
        {},
        app.t("head_looks", app.token(chosen.pos), where.map(([j, p]) => `“${app.token(j)}” ${percent(p)}`).join(", ")),
      ),
    its.head === null ? "" : card(app, its, chosen.pos),
    h(
      "p",
      {},
      app.t("without_it", {
        part: partName(app, its),
        before: signed(chosen.gap, 4),
        after: signed(chosen.gap + its.change, 4),
        then: visible(its.then),
        kl: number(its.kl, 3),
      }),
    ),
    slider(
      app.t("dose"),
      { min: 0, max: 1, step: 1 / (curve.factors.length - 1), value: 1, say: percent },
      show,
    ),
    picture.element,
    readout,
  ].filter(Boolean);
  show(1);
  return nodes;
}

/** logit(A) − logit(B) over the factor; each mark is a run of the model. */
function doseCurve(app, { factors, gaps }, chosen) {
  const wide = 420,
    tall = 130,
    most = Math.max(...gaps, 0),
    least = Math.min(...gaps, 0),
    x = (factor) => factor * wide,
    y = (gap) => tall - ((gap - least) / (most - least || 1)) * tall;
  const dot = svg("circle", { r: 6, fill: "var(--accent)" });
  const element = svg(
    "svg",
    { viewBox: `-46 -12 ${wide + 70} ${tall + 40}`, class: "plot dose", role: "img", "aria-label": app.t("dose_curve") },
    svg("line", { x1: 0, x2: wide, y1: y(0), y2: y(0), class: "axis" }),
    svg("text", { x: -8, y: y(0) + 4, "text-anchor": "end" }, "0"),
    [most, least].filter((gap) => gap !== 0).map((gap) => svg("text", { x: -8, y: y(gap) + 4, "text-anchor": "end" }, number(gap, 3))),
    svg("text", { x: wide, y: y(0) - 6, "text-anchor": "end", class: "soft" }, `↑ ${visible(chosen.a.text)}   ↓ ${visible(chosen.b.text)}`),
    svg("polyline", {
      points: factors.map((factor, i) => `${x(factor)},${y(gaps[i])}`).join(" "),
      fill: "none",
      stroke: "var(--sym-pattern)",
      "stroke-width": 2,
    }),
    factors.map((factor, i) => svg("circle", { cx: x(factor), cy: y(gaps[i]), r: 2.6, fill: "var(--sym-pattern)", data: { gap: gaps[i] } })),
    dot,
    [0, 0.5, 1].map((factor) => svg("text", { x: x(factor), y: tall + 20, "text-anchor": "middle" }, percent(factor))),
  );
  const mark = (factor) => {
    dot.setAttribute("cx", x(factor));
    dot.setAttribute("cy", y(gaps[Math.round(factor * (gaps.length - 1))]));
  };
  return { element, mark };
}

/** Beside the effects: how much each head looks from here to one token. */
function looking(app, chosen, options, heads) {
  const figure = h("figure", { data: { causes: "looks" } }),
    layers = app.model.layers.length,
    caption = h("figcaption", {}),
    values = new Float32Array(layers * Math.max(1, heads)).fill(NaN);
  if (!app.model.layers.some((layer) => layer.compared.q)) return { figure, at: () => {} };
  let key = Math.max(0, Math.min(chosen.pos, Math.max(1, chosen.pos - 1)));
  const matrix = new Matrix(app, { name: "looks", values, rows: layers, cols: heads }, {
    ...options,
    scale: "probability",
    limit: 1,
    colLabel: String,
    say: (value) => (Number.isNaN(value) ? "·" : value < 0.001 ? "0" : (100 * value).toFixed(value < 0.1 ? 1 : 0)),
    title: (i, j) => partName(app, { layer: layers - 1 - i, what: "head", head: j }),
    onPick: ([i, j]) => app.set({ part: `layers.${layers - 1 - i}.z:${j}` }),
  });
  const choose = select(
    app.run.tokens.slice(0, chosen.pos + 1).map((_, i) => [String(i), `${i} ${app.token(i)}`]),
    String(key),
    (value) => ((key = +value), again()),
    app.t("key"),
  );
  let touched = false;
  figure.append(caption, matrix.element);
  choose.addEventListener("change", () => (touched = true));
  const again = app.watch(matrix.element, [], async () => {
    const its = await app.source.get("looks", { pos: chosen.pos, key, run: app.run.run });
    return () => {
      for (const { layer, p } of its.layers) p.forEach((share, j) => (values[(layers - 1 - layer) * heads + j] = share));
      matrix.show({ name: "looks", values, rows: layers, cols: heads });
      caption.replaceChildren(
        h("b", {}, app.t("looks_title")),
        h("label", {}, app.t("looks_says", app.token(chosen.pos)), " ", choose),
      );
    };
  });
  /** To the token that matters, unless the reader has chosen one: what the strongest head looks at. */
  const at = (seen) => {
    const best = seen.find(([j]) => j > 0);
    if (touched || !best) return;
    key = best[0];
    choose.value = String(key);
    again();
  };
  return { figure, at };
}
