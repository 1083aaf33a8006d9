// 7. Layer norm and MLP: a row before and after, with its mean and spread; the neurons that answer to it.

import { css, limitOf } from "../colour.js";
import { bytes, h, math, number } from "../dom.js";
import { Absent, bars, choice, factsOf, frame, layerStepper, posStepper, stepFigure, story } from "../figures.js";

export function render(app) {
  const section = frame(app, "mlp", 7),
    at = (what) => (state) => `layers.${state.layer}.${what}`,
    layer = app.layerConfig();
  section.append(
    story(app, "norm_story", layer),
    h("div", { class: "controls" }, layerStepper(app), posStepper(app)),
    norm(app),
    h("h3", {}, app.t("mlp_h3")),
    story(app, "mlp_story", app.model.config, layer),
    neurons(app),
  );
  if (layer.mlp.gated)
    section.append(h("div", { class: "two" }, stepFigure(app, at("mlp_pre")), stepFigure(app, at("mlp_up"))));
  else section.append(stepFigure(app, at("mlp_pre")));
  section.append(stepFigure(app, at("mlp_act")));
  if (app.model.layers.some((its) => its.experts))
    section.append(stepFigure(app, at("router_logits")), stepFigure(app, at("experts"), { scale: "probability" }));
  section.append(stepFigure(app, at("mlp_proj")), stepFigure(app, at("mlp_out")));
  return section;
}

/** One of the layer's norms on one row, wherever it stands: the row as it comes, normed, stretched, shifted. */
function norm(app) {
  const element = h("figure", { class: "norm" }),
    body = h("div", {}),
    choices = h("div", { class: "controls" });
  let chosen = null; // "mlp before": kept from layer to layer
  const key = ({ part, place }) => `${part} ${place}`;
  const draw = async ({ layer, pos }) => {
    const { norms } = app.layerConfig(layer),
      its = norms.find((one) => key(one) === chosen) ?? norms.at(-1),
      run = app.run.run;
    if (!its) throw new Absent("no_norms");
    const [tiles, out, weight, shift, described] = await Promise.all([
      Promise.all(its.inputs.map((name) => app.source.tile(name, { at: [0], run }))),
      app.source.tile(its.step, { at: [0], run }),
      its.gamma ? app.source.tile(its.gamma) : null,
      its.beta ? app.source.tile(its.beta) : null,
      app.source.get(`step/${its.step}`, { run }),
    ]);
    const { kind, eps, offset } = its,
      width = out.cols,
      row = (tile) => tile.data.subarray(pos * width, (pos + 1) * width),
      x = Float32Array.from(row(tiles[0])),
      gain = weight ? weight.data.map((value) => offset + value) : new Float32Array(width).fill(1);
    for (const more of tiles.slice(1)) row(more).forEach((value, j) => (x[j] += value));
    const mean = kind === "layer" ? x.reduce((a, b) => a + b, 0) / width : 0,
      spread = Math.sqrt(x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / width + eps);
    const between = x.map((value) => (value - mean) / spread),
      after = row(out),
      readout = h("p", { class: "soft mono", role: "status" }, app.t("norm_hover"));
    const strips = [
      [app.t("norm_before"), x],
      [kind === "layer" ? app.t("norm_between") : app.t("norm_between_rms"), between],
      ...(weight ? [[app.t("norm_gain"), gain]] : []),
      ...(shift ? [[app.t("norm_shift"), shift.data]] : []),
      [app.t("norm_after"), after],
    ];
    const hover = (j) => {
      const less = kind === "layer" ? ` − ${number(mean)}` : "",
        plus = shift ? ` + ${number(shift.data[j])}` : "",
        divided = `÷ ${number(spread)} → ${number(between[j])}`;
      readout.replaceChildren(
        `${app.t("dimension")} ${j}: ${number(x[j])}${less} → ${divided} → × ${number(gain[j])}${plus} = ` +
        `${number(after[j])}`,
      );
    };
    const spreadName = kind === "layer" ? "√(σ² + ε) = " : "√(mean(x²) + ε) = ";
    return () =>
      body.replaceChildren(
        h("div", { class: "formula" }, math(described.mathml)),
        h(
          "div",
          { class: "facts" },
          kind === "layer"
            ? h("span", { class: "sym-mean" }, "μ = ", h("b", { data: { stat: "mean" } }, number(mean, 5)))
            : "",
          h("span", { class: "sym-spread" }, spreadName, h("b", { data: { stat: "spread" } }, number(spread, 5))),
          h("span", {}, `ε = ${eps}`),
        ),
        ...strips.map(([label, values]) => strip(label, values, hover, (j) => app.ask(its.step, [0, pos, j]))),
        readout,
        h("div", { class: "facts only-numbers" }, factsOf(app, described)),
      );
  };
  const choose = () => {
    const { norms } = app.layerConfig(),
      now = norms.find((one) => key(one) === chosen) ?? norms.at(-1);
    if (!now) return choices.replaceChildren();
    choices.replaceChildren(
      choice(
        norms.map((one) => [key(one), app.t("norm_at")[one.part][one.place]]),
        key(now),
        (value) => ((chosen = value), again()),
      ),
    );
  };
  element.append(h("figcaption", {}, app.t("norm_caption")), choices, body);
  app.watch(element, ["layer"], choose);
  const again = app.watch(body, ["layer", "pos"], draw);
  return element;
}

/** A row of numbers as one band of colour across the figure. */
function strip(label, values, hover, pick) {
  const canvas = h("canvas", {
      width: values.length,
      height: 1,
      style: { width: "100%", height: "22px", "image-rendering": "pixelated", display: "block", cursor: "crosshair" },
    }),
    context = canvas.getContext("2d"),
    limit = limitOf(values, "signed");
  for (let j = 0; j < values.length; j++)
    ((context.fillStyle = css(values[j], limit, "signed")), context.fillRect(j, 0, 1, 1));
  const at = (event) =>
    Math.max(0, Math.min(values.length - 1, Math.floor((event.offsetX / canvas.clientWidth) * values.length)));
  canvas.addEventListener("pointermove", (event) => hover(at(event)));
  canvas.addEventListener("click", (event) => (hover(at(event)), pick(at(event))));
  return h("div", { style: { margin: "6px 0" } }, h("div", { class: "soft" }, label, `  ±${number(limit, 3)}`), canvas);
}

/** What each chosen expert counts for at this position, the heaviest first. */
async function experts(app, { layer, pos }) {
  const name = `layers.${layer}.experts`,
    { data, cols } = await app.source.tile(name, { at: [0], run: app.run.run }),
    row = data.subarray(pos * cols, (pos + 1) * cols);
  const chosen = [...row.keys()].filter((e) => row[e] > 0).sort((a, b) => row[b] - row[a]);
  return [
    h("figcaption", {}, app.t("experts_caption", app.token(pos), chosen.length, cols)),
    bars(chosen.map((e) => ({ name: `${app.t("expert")} ${e}`, value: row[e], on: () => app.ask(name, [0, pos, e]) }))),
  ];
}

/** The neurons that answered most at this position; in a sparse layer, the experts. */
function neurons(app) {
  const element = h("figure", { class: "neurons" });
  app.watch(element, ["layer", "pos"], async (state) => {
    const name = `layers.${state.layer}.mlp_act`,
      its = app.layerConfig(state.layer);
    if (its.experts) {
      const drawn = await experts(app, state);
      return () => element.replaceChildren(...drawn);
    }
    if (!its.mlp.d_ff) throw new Absent("no_mlp"); // a mixer alone
    const { data, cols } = await app.source.tile(name, { at: [0], run: app.run.run }),
      row = data.subarray(state.pos * cols, (state.pos + 1) * cols);
    const best = [...row.keys()].sort((a, b) => Math.abs(row[b]) - Math.abs(row[a])),
      active = row.filter((value) => Math.abs(value) > 0.1 * Math.abs(row[best[0]])).length;
    const strongest = best.slice(0, 10).map((j) => ({
      name: `${app.t("neuron")} ${j}`,
      value: row[j],
      on: () => app.ask(name, [0, state.pos, j]),
    }));
    return () =>
      element.replaceChildren(
        h("figcaption", {}, app.t("neurons_caption", app.token(state.pos), cols, active)),
        bars(strongest, { signed: true }),
      );
  });
  return element;
}
