// 1. Files: a description and a heap of numbers. A treemap of where they go, the values of any weight.

import { bytes, count, h, number, svg } from "../dom.js";
import { choice, frame, later, select, story } from "../figures.js";
import { Matrix } from "../matrix.js";

export function render(app) {
  const { model } = app,
    section = frame(app, "files", 1);
  section.append(
    story(app, "files_story", model, lies(model)),
    toScale(app, lies(model)),
    sizes(app),
    story(app, "files_map_story", model),
    treemap(app),
  );
  return section;
}

/**
 * How the model lies on disk: {how, weights, described}. ``how``: "two" files, "many" (weights in several), "one" that
 * holds the description as well, or "memory" alone.
 */
function lies({ files, total_bytes, config_bytes }) {
  const sum = (what) => files.filter((file) => file.what === what).reduce((all, file) => all + file.bytes, 0),
    stored = sum("weights"),
    parts = files.filter((file) => file.what === "weights").length,
    own = sum("description");
  if (!stored) return { how: "memory", weights: total_bytes, described: config_bytes };
  if (own) return { how: parts === 1 ? "two" : "many", weights: stored, described: own, parts };
  return { how: "one", weights: total_bytes, described: Math.max(0, stored - total_bytes), parts };
}

/** The description and the weights as areas: two files, or two parts of one. */
function toScale(app, { how, weights, described }) {
  const side = 132,
    dot = Math.max(2, side * Math.sqrt(described / weights));
  return h(
    "figure",
    { class: "to-scale", data: { how, weights, described } },
    h("figcaption", {}, app.t(how === "one" ? "to_scale_one" : "to_scale")),
    svg(
      "svg",
      {
        viewBox: "0 0 420 150",
        class: "plot",
        style: { "max-width": "560px" },
        role: "img",
        "aria-label": app.t(how === "one" ? "to_scale_one" : "to_scale"),
      },
      svg("rect", { x: 4, y: side + 4 - dot, width: dot, height: dot, fill: "var(--accent)" }),
      svg("text", { x: 14 + dot, y: side - 12 }, app.t("the_description")),
      svg("text", { x: 14 + dot, y: side + 3 }, bytes(described)),
      svg("rect", { x: 160, y: 4, width: side, height: side, fill: "var(--line)" }),
      svg("text", { x: 168 + side, y: side - 12 }, app.t("the_weights")),
      svg("text", { x: 168 + side, y: side + 3 }, bytes(weights)),
    ),
  );
}

/** The sizes that all shapes follow from, each with what it counts. */
function sizes(app) {
  const { config, layers } = app.model,
    layer = layers[0];
  const rows = [
    ["vocab_size", "V", config.vocab_size],
    ["d_model", "D", config.d_model],
    ["num_layers", "L", layers.length],
    ["num_heads", "H", layer.num_heads],
    ["num_kv_heads", "K", layer.num_kv_heads],
    ["head_dim", "E", layer.head_dim],
    ["d_ff", "F", layer.mlp.d_ff],
    ["context_len", "", config.context_len],
  ];
  return h(
    "figure",
    {},
    h("figcaption", {}, app.t("sizes_caption")),
    h(
      "div",
      { class: "scroll-x" },
      h(
        "table",
        { class: "sizes" },
        rows.map(([name, letter, value]) =>
          h(
            "tr",
            {},
            h("th", {}, h("code", {}, name)),
            h("td", {}, h("i", { class: "sym" }, letter)),
            h("td", { class: "n", data: { size: name } }, count(value)),
            h("td", { class: "soft" }, app.t(`size_${name}`)),
          ),
        ),
      ),
    ),
    h(
      "details",
      { class: "only-numbers" },
      h("summary", {}, "config"),
      h("pre", { class: "template" }, app.model.config_text),
    ),
  );
}

function treemap(app) {
  const map = h("div", { class: "treemap" }),
    where = h("div", { class: "controls" }),
    detail = h("div", {});
  let measure = "bytes",
    path = [];
  const show = () => {
    const parts = app.model.parts.filter(
      (part) => (!path[0] || part.part === path[0]) && (!path[1] || part.kind === path[1]),
    );
    const level = ["part", "kind", "name"][path.length],
      groups = new Map();
    for (const part of parts) {
      const group = groups.get(part[level]) ?? {
        key: part[level],
        part: part.part,
        bytes: 0,
        parameters: 0,
        tensors: 0,
        tensor: part,
      };
      groups.set(part[level], {
        ...group,
        bytes: group.bytes + part.bytes,
        parameters: group.parameters + part.parameters,
        tensors: group.tensors + 1,
      });
    }
    const all = [...groups.values()].sort((a, b) => b[measure] - a[measure]),
      total = all.reduce((sum, group) => sum + group[measure], 0);
    map.replaceChildren(
      ...squarify(
        all.map((group) => group[measure]),
        100,
        100,
      ).map(([x, y, wide, tall], i) => {
        const group = all[i],
          label = level === "part" ? app.t(`part_${group.key}`) : group.key;
        const size = measure === "bytes" ? bytes(group.bytes) : count(group.parameters);
        return h(
          "button",
          {
            class: `part-${group.part}`,
            title: `${label}: ${size}`,
            data: { part: group.key },
            style: { left: `${x}%`, top: `${y}%`, width: `${wide}%`, height: `${tall}%` },
            on: {
              click: () =>
                group.tensors === 1 || level === "name"
                  ? weight(group.tensor)
                  : ((path = [...path, group.key]), show()),
            },
          },
          wide * tall > 30 && wide > 6
            ? [
                label,
                h(
                  "small",
                  {},
                  `${size} · ${((100 * group[measure]) / total).toFixed(group[measure] / total < 0.1 ? 1 : 0)} %`,
                ),
              ]
            : "",
        );
      }),
    );
    const up = (depth, label) =>
      h(
        "button",
        { on: { click: () => ((path = path.slice(0, depth)), show()) }, disabled: depth === path.length },
        label,
      );
    where.replaceChildren(
      choice(
        [
          ["bytes", app.t("bytes")],
          ["parameters", app.t("parameters")],
        ],
        measure,
        (value) => ((measure = value), show()),
      ),
      up(0, app.t("all_weights")),
      path[0] ? up(1, app.t(`part_${path[0]}`)) : "",
      path[1] ? up(2, path[1]) : "",
      h("span", { class: "soft" }, `${measure === "bytes" ? bytes(total) : count(total)}`),
    );
  };
  const weight = (part) => detail.replaceChildren(weightFigure(app, part));
  show();
  weight(app.model.parts.find((part) => part.kind.includes("q_proj.weight")) ?? app.model.parts[0]);
  const parts = [...new Set(app.model.parts.map((part) => part.part))];
  return h(
    "figure",
    {},
    h("figcaption", {}, app.t("treemap_caption")),
    where,
    map,
    h(
      "div",
      { class: "swatches" },
      parts.map((part) =>
        h("span", {}, h("i", { class: `part-${part}` }), app.t(`part_${part}`), " – ", app.t(`part_${part}_is`)),
      ),
    ),
    detail,
  );
}

/** A weight: its histogram and the numbers themselves. */
function weightFigure(app, part) {
  const [rows, cols] = part.shape.length === 1 ? [1, part.shape[0]] : part.shape,
    body = h("div", { class: "two" });
  const choose = select(
    app.model.parts.map((its) => [its.name, its.name]),
    part.name,
    (name) =>
      element.replaceWith(
        weightFigure(
          app,
          app.model.parts.find((its) => its.name === name),
        ),
      ),
    app.t("weight"),
  );
  const matrix = new Matrix(
    app,
    { name: part.name, at: [], rows, cols },
    { rowHeight: rows === 1 ? 26 : Math.max(0.4, Math.min(12, 260 / rows)) },
  );
  body.append(
    later(app, async () => histogram(app, await app.source.get(`histogram/${part.name}`))),
    matrix.element,
  );
  const element = h(
    "figure",
    { class: "weight", data: { weight: part.name } },
    h("h3", {}, app.t("weight_title")),
    h(
      "div",
      { class: "controls" },
      choose,
      h(
        "span",
        { class: "soft" },
        `${part.shape.join(" × ")} · ${count(part.parameters)} · ${part.dtype} · ${bytes(part.bytes)}`,
      ),
    ),
    body,
  );
  return element;
}

function histogram(app, its) {
  const wide = 460,
    tall = 190,
    most = Math.max(...its.counts),
    [low, high] = its.edges,
    step = wide / its.counts.length;
  const x = (value) => ((value - low) / (high - low || 1)) * wide;
  const ticks = [low, 0, high].filter((value, i) => i !== 1 || (low < 0 && high > 0));
  return h(
    "div",
    {},
    svg(
      "svg",
      { viewBox: `-4 -14 ${wide + 8} ${tall + 40}`, class: "plot", role: "img", "aria-label": app.t("histogram") },
      its.counts.map((n, i) =>
        svg(
          "rect",
          {
            x: i * step,
            width: Math.max(0.5, step - 0.6),
            y: tall - (tall * n) / most,
            height: (tall * n) / most,
            fill: "var(--ink-soft)",
          },
          svg("title", {}, `${number(low + ((high - low) * i) / its.counts.length)} …: ${count(n)}`),
        ),
      ),
      svg("line", { x1: 0, x2: wide, y1: tall, y2: tall, class: "axis" }),
      ticks.map((value) =>
        svg(
          "text",
          { x: x(value), y: tall + 16, "text-anchor": value === low ? "start" : value === high ? "end" : "middle" },
          number(value, 3),
        ),
      ),
    ),
    h(
      "div",
      { class: "facts" },
      ["min", "max", "mean", "std"].map((key) =>
        h("span", {}, `${app.t(key)} `, h("b", { data: { stat: key } }, number(its[key]))),
      ),
      h("span", {}, app.t("histogram_is", count(its.counts.reduce((a, b) => a + b, 0)))),
    ),
  );
}

/**
 * Rectangles of the given areas in wide × tall, as square as may be: [[x, y, width, height], …]. Source: Bruls, Huizing
 * & van Wijk 2000.
 */
export function squarify(sizes, wide, tall) {
  const total = sizes.reduce((a, b) => a + b, 0) || 1,
    areas = sizes.map((size) => Math.max((size / total) * wide * tall, 1e-9)),
    placed = [];
  let [x, y, w, d, start] = [0, 0, wide, tall, 0];
  const worst = (row, side) => {
    const sum = row.reduce((a, b) => a + b, 0);
    return Math.max((side * side * row[0]) / (sum * sum), (sum * sum) / (side * side * row.at(-1)));
  };
  while (start < areas.length) {
    const side = Math.min(w, d);
    let end = start + 1;
    while (end < areas.length && worst(areas.slice(start, end + 1), side) <= worst(areas.slice(start, end), side))
      end++;
    const row = areas.slice(start, end),
      thick = row.reduce((a, b) => a + b, 0) / side;
    let along = 0;
    for (const area of row) {
      const long = area / thick;
      placed.push(w >= d ? [x, y + along, thick, long] : [x + along, y, long, thick]);
      along += long;
    }
    if (w >= d) [x, w] = [x + thick, w - thick];
    else [y, d] = [y + thick, d - thick];
    start = end;
  }
  return placed;
}
