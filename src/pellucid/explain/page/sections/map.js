// 4. The model from above, drawn from its description: the stream, one layer opened, heads that share keys; each part
// leads to its section.

import { count, h, svg } from "../dom.js";
import { frame, layerStepper, story } from "../figures.js";

export function render(app) {
  const section = frame(app, "model", 4),
    drawing = h("div", { class: "map-svg" });
  section.append(
    story(app, "model_story", app.model),
    h("div", { class: "controls" }, layerStepper(app)),
    h("figure", {}, drawing, h("figcaption", {}, app.t("map_caption"))),
    layers(app),
  );
  app.watch(drawing, ["layer"], (state) => drawing.replaceChildren(draw(app, state.layer)));
  return section;
}

const STREAM = 62, // x of the residual stream
  SIDE = { left: 132, wide: 150, middle: 207 }, // where the parts of the open layer stand
  GAP = 14,
  NORM = 28, // heights
  MLP = 76,
  ATTENTION = 108;

/** Bottom is the text, top is the answer, as in the paper. The open layer is as tall as what its description has. */
function draw(app, index) {
  const { config, layers } = app.model,
    pen = pencil(app),
    inside = opened(app, pen, index, 160),
    below = inside.bottom + 12;
  const top = [
    pen.box(
      8,
      34,
      app.t("map_output"),
      app.t("map_output_is", count(config.vocab_size), config.tie_embeddings),
      "output",
      "logits",
    ),
    config.final_norm &&
      pen.box(58, 30, app.t("map_norm"), `${normName(config.final_norm)} ${config.d_model}`, "mlp", "final"),
    stack(app, 104, index + 1, layers.length - 1),
  ];
  const bottom = [
    stack(app, below, 0, index - 1),
    config.position !== "none" && [
      plus(below + 56),
      note(below + 60, app.t(`map_position_${config.position}`)),
    ],
    pen.box(below + 76, 32, app.t("map_embed"), `${count(config.vocab_size)} × ${config.d_model}`, "embed", "embed"),
    pen.box(
      below + 128,
      30,
      app.t("map_text"),
      `${app.run.text.slice(0, 30)}${app.run.text.length > 30 ? " …" : ""}`,
      "text",
      null,
    ),
  ];
  return svg(
    "svg",
    {
      viewBox: `0 0 360 ${below + 168}`,
      class: "plot",
      style: { "max-width": "440px" },
      role: "group",
      "aria-label": app.t("model_title"),
    },
    svg("path", { d: `M${STREAM} ${below + 148}V20`, class: "stream" }),
    top,
    inside.parts,
    bottom,
  );
}

/** Boxes that lead to a section, and to a step in it. */
function pencil(app) {
  const go = (target, step) => {
    const open = () => (step && app.set({ step }), app.go(target));
    return { role: "link", tabindex: 0, on: { click: open, keydown: (event) => event.key === "Enter" && open() } };
  };
  const titled = (x, y, text, soft) =>
    svg("text", { x, y, "text-anchor": "middle", ...(soft ? { class: "soft" } : {}) }, text);
  return {
    /** On the stream, with a word beside it. */
    box: (y, tall, text, soft, target, step) =>
      svg(
        "g",
        { ...go(target, step), "aria-label": text },
        svg("rect", { class: "box", x: STREAM - 56, y, width: 112, height: tall, rx: 7 }),
        titled(STREAM, y + tall / 2 + 4.5, text),
        note(y + tall / 2 + 4, soft ?? ""),
      ),
    /** On the stream, over a sum. */
    small: (y, text, target, step) =>
      svg(
        "g",
        { ...go(target, step), "aria-label": text },
        svg("rect", { class: "box", x: STREAM - 46, y, width: 92, height: 20, rx: 6 }),
        titled(STREAM, y + 15, text, true),
      ),
    /** Beside the stream: a part, or a norm about it. */
    side: (y, tall, text, soft, target, step) =>
      svg(
        "g",
        { ...go(target, step), "aria-label": text },
        svg("rect", { class: "box", x: SIDE.left, y, width: SIDE.wide, height: tall, rx: 7 }),
        titled(SIDE.middle, y + 19, text),
        soft.map((line, i) => titled(SIDE.middle, y + 36 + 15 * i, line, true)),
      ),
  };
}

const note = (y, text) => svg("text", { x: 134, y, class: "soft" }, text);

const plus = (y) => [
  svg("circle", { cx: STREAM, cy: y, r: 11, class: "box" }),
  svg("path", { d: `M${STREAM - 6} ${y}H${STREAM + 6}M${STREAM} ${y - 6}V${y + 6}`, class: "wire" }),
];

const normName = ({ kind, bias, offset }) =>
  `${kind === "rms" ? "RMSNorm" : "LayerNorm"} ${offset ? `${offset} + ` : ""}γ${bias ? " β" : ""}`;

/** Layers above or below the open one. */
function stack(app, y, from, to) {
  if (from > to) return [];
  const number = to - from + 1,
    rows = Array.from({ length: Math.min(number, 6) }, (_, i) =>
      svg("rect", { x: STREAM - 40, y: y + i * 7, width: 80, height: 5, rx: 2, class: "box" }),
    );
  return [...rows, note(y + 22, app.t("map_more", number, from, to))];
}

/** One layer from above: each part with the norms that its description has about it, and what it reads. */
function opened(app, pen, index, start) {
  const layer = app.model.layers[index],
    parts = [];
  const norm = (part, place) => layer.norms.find((its) => its.part === part && its.place === place);
  let y = start + 32;
  /** From the sum on top to where the part reads the stream. */
  const part = (name, tall, box) => {
    const over = norm(name, "sum"),
      places = {};
    if (over) {
      parts.push(pen.small(y - 20, normName(over), "mlp", over.step));
      y += 14;
    }
    places.plus = y;
    parts.push(plus(y));
    y += 22;
    for (const place of ["after", "box", "before"]) {
      const its = norm(name, place);
      if (place !== "box" && !its) continue;
      if (place === "box") parts.push(box(y));
      else parts.push(pen.side(y, NORM, normName(its), [], "mlp", its.step));
      places[place] = y;
      y += (place === "box" ? tall : NORM) + GAP;
    }
    places.bottom = y + 2;
    y += 30;
    return places;
  };
  const mlp = part("mlp", MLP, (at) => mlpBox(app, pen, index, at)),
    attention = part("attention", ATTENTION, (at) => attentionBox(app, pen, index, at)),
    bottom = attention.bottom + 8;
  const wire = (d) => parts.unshift(svg("path", { d, class: "wire" }));
  const { middle } = SIDE;
  wire(`M${STREAM} ${attention.bottom}H${middle}V${attention.plus}H${STREAM + 11}`);
  if (!layer.parallel) wire(`M${STREAM} ${mlp.bottom}H${middle}V${mlp.plus}H${STREAM + 11}`);
  else {
    // beside attention: it reads what attention reads, or the stream as it came in
    const shared = !mlp.before && attention.before,
      from = shared ? attention.before - GAP / 2 : attention.bottom;
    wire(`M${middle} ${from}H316V${mlp.bottom}H${middle}V${mlp.plus}H${STREAM + 11}`);
  }
  const frameTop = [
    svg("rect", {
      x: 2,
      y: start,
      width: 356,
      height: bottom - start,
      rx: 12,
      fill: "none",
      stroke: "var(--line)",
      "stroke-width": 1.5,
    }),
    svg(
      "text",
      { x: 346, y: start + 20, "text-anchor": "end", class: "soft" },
      app.t("of", app.t("layer"), index, app.model.layers.length),
    ),
  ];
  return { parts: [...frameTop, ...parts], bottom };
}

function mlpBox(app, pen, index, y) {
  const layer = app.model.layers[index],
    { d_model } = app.model.config;
  const soft = [
    layer.mlp.d_ff ? `${d_model} → ${count(layer.mlp.d_ff)} → ${d_model}` : "–",
    `${layer.mlp.activation}${layer.mlp.gated ? ` ⊙ ${app.t("gated")}` : ""}`,
    layer.mlp.experts ? app.t("map_router", layer.mlp.experts) : "",
  ];
  return pen.side(y, MLP, app.t("map_mlp"), soft, "mlp", `layers.${index}.${layer.experts ? "experts" : "mlp_act"}`);
}

/** With its query heads, and the keys and values that groups of them share. */
function attentionBox(app, pen, index, y) {
  const layer = app.model.layers[index],
    heads = layer.num_heads,
    groups = layer.num_kv_heads,
    wide = Math.min(14, 136 / heads),
    left = SIDE.middle - (heads * wide) / 2;
  const what = [
    layer.qk_norm ? "QK-norm" : "",
    layer.rope ? app.t("map_rotary") : "",
    layer.window ? app.t("map_window", layer.window) : "",
  ];
  const soft = [
    `${heads} ${app.t("heads")} × ${layer.head_dim}${groups < heads ? `, ${groups} K V` : ""}`,
    what.filter(Boolean).join(" · "),
  ];
  const bar = (x, down, width, height, fill, title) =>
    svg("rect", { x: x + 0.5, y: y + down, width: width - 1.5, height, fill }, title && svg("title", {}, title));
  const bits = Array.from({ length: heads }, (_, head) => {
    const group = Math.floor((head * groups) / heads),
      first = head === 0 || Math.floor(((head - 1) * groups) / heads) !== group,
      x = left + head * wide;
    return [
      bar(x, 60, wide, 12, "var(--sym-q)", app.t("head_of_group", head, group)),
      first && bar(x, 78, (wide * heads) / groups, 7, "var(--sym-k)"),
      first && bar(x, 88, (wide * heads) / groups, 7, "var(--sym-v)"),
    ];
  });
  return [pen.side(y, ATTENTION, app.t("map_attention"), soft, "attention", `layers.${index}.pattern`), bits];
}

/** Every layer as a row: what it has, so that differences show. */
function layers(app) {
  const row = (layer, i) =>
    h(
      "tr",
      { on: { click: () => app.set({ layer: i }) } },
      h("td", {}, String(i)),
      h("td", {}, `${layer.num_heads} / ${layer.num_kv_heads} × ${layer.head_dim}`),
      h("td", {}, layer.window ?? "–"),
      h("td", {}, layer.qk_norm ? layer.qk_norm.kind : "–"),
      h("td", {}, layer.rope ? `θ ${count(layer.rope.theta)}, ${layer.rope.dim}, ${layer.rope.layout}` : "–"),
      h("td", {}, norms(layer)),
      h("td", {}, !layer.mlp.d_ff ? "–" : `${count(layer.mlp.d_ff)} ${layer.mlp.activation}${layer.mlp.gated ? " ⊙" : ""}`),
    );
  return h(
    "details",
    { class: "only-numbers" },
    h("summary", {}, app.t("layers_table")),
    h(
      "div",
      { class: "scroll-x" },
      h(
        "table",
        {},
        h(
          "tr",
          {},
          ["#", "heads / KV × dim", "window", "QK-norm", "rope", "norm", "MLP"].map((name) => h("th", {}, name)),
        ),
        app.model.layers.map(row),
      ),
    ),
  );
}

/** Where a layer's norms stand, and of what kind: ``before rms, after rms``; ∥ where its parts are side by side. */
function norms(layer) {
  const places = new Set(layer.norms.map((norm) => `${norm.place} ${norm.kind}`));
  return `${[...places].join(", ") || "–"}${layer.parallel ? " ∥" : ""}`;
}
