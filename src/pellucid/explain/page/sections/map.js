// 4. The model from above, drawn from its description: the stream, one layer opened, heads that share keys; each part leads to its section.

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

/** Bottom is the text, top is the answer, as in the paper. */
function draw(app, index) {
  const { config, layers } = app.model,
    layer = layers[index],
    post = layer.norm_order === "post",
    x = 62,
    parts = [];
  const label = (y, text) => [svg("text", { x: 134, y, class: "soft" }, text)];
  const go = (target, step) => {
    const open = () => (step && app.set({ step }), app.go(target));
    return { role: "link", tabindex: 0, on: { click: open, keydown: (event) => event.key === "Enter" && open() } };
  };
  const box = (y, tall, text, soft, target, step, wide = 112) =>
    svg(
      "g",
      { ...go(target, step), "aria-label": text },
      svg("rect", { class: "box", x: x - wide / 2, y, width: wide, height: tall, rx: 7 }),
      svg("text", { x, y: y + tall / 2 + 4.5, "text-anchor": "middle" }, text),
      label(y + tall / 2 + 4, soft ?? ""),
    );
  const plus = (y) => [
    svg("circle", { cx: x, cy: y, r: 11, class: "box" }),
    svg("path", { d: `M${x - 6} ${y}H${x + 6}M${x} ${y - 6}V${y + 6}`, class: "wire" }),
  ];
  parts.push(svg("path", { d: `M${x} 724V20`, class: "stream" }));
  parts.push(
    box(
      8,
      34,
      app.t("map_output"),
      app.t("map_output_is", count(config.vocab_size), config.tie_embeddings),
      "output",
      "logits",
    ),
  );
  if (config.final_norm)
    parts.push(
      box(
        58,
        30,
        app.t("map_norm"),
        `${config.final_norm.kind === "rms" ? "RMSNorm" : "LayerNorm"} γ ${config.final_norm.bias ? "β " : ""}${config.d_model}`,
        "mlp",
        "final",
      ),
    );
  // layers above and below the open one
  const stack = (y, from, to) => {
    if (from > to) return;
    const number = to - from + 1,
      shown = Math.min(number, 6);
    for (let i = 0; i < shown; i++)
      parts.push(svg("rect", { x: x - 40, y: y + i * 7, width: 80, height: 5, rx: 2, class: "box" }));
    parts.push(label(y + 22, app.t("map_more", number, from, to)));
  };
  stack(104, index + 1, layers.length - 1);
  parts.push(
    svg("rect", {
      x: 2,
      y: 160,
      width: 356,
      height: 404,
      rx: 12,
      fill: "none",
      stroke: "var(--line)",
      "stroke-width": 1.5,
    }),
    svg(
      "text",
      { x: 346, y: 180, "text-anchor": "end", class: "soft" },
      app.t("of", app.t("layer"), index, layers.length),
    ),
  );
  const at = (name) => `layers.${index}.${name}`,
    branch = (top, bottom) => parts.push(svg("path", { d: `M${x} ${bottom}H206V${top}H${x + 11}`, class: "wire" }));
  const side = (y, tall, text, soft, target, step) =>
    parts.push(
      svg(
        "g",
        { ...go(target, step), "aria-label": text },
        svg("rect", { class: "box", x: 132, y, width: 150, height: tall, rx: 7 }),
        svg("text", { x: 207, y: y + 19, "text-anchor": "middle" }, text),
        soft.map((line, i) =>
          svg("text", { x: 207, y: y + 36 + 15 * i, "text-anchor": "middle", class: "soft" }, line),
        ),
      ),
    );
  const norm = layer.norm.kind === "rms" ? "RMSNorm" : "LayerNorm";
  branch(post ? 200 : 192, 352);
  parts.push(plus(post ? 200 : 192));
  side(
    214,
    76,
    app.t("map_mlp"),
    [
      `${config.d_model} → ${count(layer.mlp.d_ff)} → ${config.d_model}`,
      `${layer.mlp.activation}${layer.mlp.gated ? ` ⊙ ${app.t("gated")}` : ""}`,
      layer.mlp.experts ? app.t("map_router", layer.mlp.experts) : "",
    ],
    "mlp",
    at(layer.experts ? "experts" : "mlp_act"),
  );
  if (!post) side(306, 28, norm, [], "mlp", at("mlp_in"));
  else
    parts.push(
      svg(
        "g",
        { ...go("mlp", at("resid_post")), "aria-label": norm },
        svg("rect", { class: "box", x: x - 46, y: 168, width: 92, height: 20, rx: 6 }),
        svg("text", { x, y: 183, "text-anchor": "middle", class: "soft" }, norm),
      ),
    );
  branch(380, 556);
  parts.push(plus(380));
  const heads = layer.num_heads,
    groups = layer.num_kv_heads,
    wide = Math.min(14, 136 / heads);
  const bits = [
    `${heads} ${app.t("heads")} × ${layer.head_dim}${groups < heads ? `, ${groups} K V` : ""}`,
    [
      layer.qk_norm ? "QK-norm" : "",
      layer.rope ? app.t("map_rotary") : "",
      layer.window ? app.t("map_window", layer.window) : "",
    ]
      .filter(Boolean)
      .join(" · "),
  ];
  side(396, 108, app.t("map_attention"), bits, "attention", at("pattern"));
  for (let head = 0; head < heads; head++) {
    const group = Math.floor((head * groups) / heads),
      left = 207 - (heads * wide) / 2;
    parts.push(
      svg(
        "rect",
        { x: left + head * wide + 0.5, y: 456, width: wide - 1.5, height: 12, fill: "var(--sym-q)" },
        svg("title", {}, app.t("head_of_group", head, group)),
      ),
    );
    if (head === 0 || Math.floor(((head - 1) * groups) / heads) !== group)
      parts.push(
        svg("rect", {
          x: left + head * wide + 0.5,
          y: 474,
          width: (wide * heads) / groups - 1.5,
          height: 7,
          fill: "var(--sym-k)",
        }),
        svg("rect", {
          x: left + head * wide + 0.5,
          y: 484,
          width: (wide * heads) / groups - 1.5,
          height: 7,
          fill: "var(--sym-v)",
        }),
      );
  }
  if (!post) side(518, 28, norm, [], "mlp", at("attn_in"));
  else
    parts.push(
      svg(
        "g",
        { ...go("mlp", at("resid_mid")), "aria-label": norm },
        svg("rect", { class: "box", x: x - 46, y: 346, width: 92, height: 20, rx: 6 }),
        svg("text", { x, y: 361, "text-anchor": "middle", class: "soft" }, norm),
      ),
    );
  stack(576, 0, index - 1);
  if (config.position !== "none") parts.push(plus(632), label(636, app.t(`map_position_${config.position}`)));
  parts.push(
    box(652, 32, app.t("map_embed"), `${count(config.vocab_size)} × ${config.d_model}`, "embed", "embed"),
    box(
      704,
      30,
      app.t("map_text"),
      `${app.run.text.slice(0, 30)}${app.run.text.length > 30 ? " …" : ""}`,
      "text",
      null,
    ),
  );
  return svg(
    "svg",
    {
      viewBox: "0 0 360 744",
      class: "plot",
      style: { "max-width": "440px" },
      role: "group",
      "aria-label": app.t("model_title"),
    },
    parts,
  );
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
      h("td", {}, `${layer.norm_order} ${layer.norm.kind}`),
      h("td", {}, `${count(layer.mlp.d_ff)} ${layer.mlp.activation}${layer.mlp.gated ? " ⊙" : ""}`),
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
