// 0. Of a native run: how far each step is from torch's float32 on the same weights, by itself and with all that came
// before it.

import { count, h, number, percent } from "../dom.js";
import { frame, later, story } from "../figures.js";
import { Matrix } from "../matrix.js";

export function render(app) {
  const section = frame(app, "precision", 0);
  section.append(
    story(app, "precision_story", app.model.native),
    later(app, () => figures(app)),
  );
  return section;
}

async function figures(app) {
  const its = await app.source.get("precision", { run: app.run.run }),
    found = new Map(its.steps.map((step) => [step.name, step])),
    layers = app.model.layers.length;
  const names = its.steps.filter((step) => step.name.startsWith("layers.0.")).map((step) => step.name.slice(9)),
    at = (i, j) => found.get(`layers.${j}.${names[i]}`);
  const limit = Math.max(...its.steps.map((step) => step.so_far)),
    mean = its.kl.reduce((sum, kl) => sum + kl, 0) / its.kl.length;
  const map = (key) => {
    const values = Float32Array.from(
      names.flatMap((_, i) => Array.from({ length: layers }, (_, j) => at(i, j)?.[key] ?? NaN)),
    );
    const say = (value) => (value < 1e-5 ? number(value, 1) : percent(value)),
      title = (i, j) => `layers.${j}.${names[i]}`;
    const matrix = new Matrix(
      app,
      { name: app.t(`precision_${key}`), values, rows: names.length, cols: layers },
      {
        scale: "probability",
        limit,
        rowHeight: 17,
        rowLabel: (i) => names[i],
        colName: (j) => String(j),
        say,
        title,
        onPick: ([i, j]) => (app.set({ layer: j, step: title(i, j), cell: "" }), app.go("cell")),
      },
    );
    return h(
      "figure",
      { data: { precision: key } },
      h("figcaption", {}, h("b", {}, app.t(`precision_${key}`)), h("span", {}, app.t(`precision_${key}_says`))),
      matrix.element,
    );
  };
  const row = (name, of) =>
    h(
      "tr",
      {},
      h("td", { class: "mono" }, name),
      of.map((step) => ["own", "so_far"].map((key) => h("td", { class: "n" }, percent(step[key])))),
    );
  const shown = [...new Set([0, (layers - 1) >> 1, layers - 1])],
    head = shown.map((layer) =>
      ["own", "so_far"].map((key) => h("th", {}, `${app.t(`precision_${key}`)}, ${app.t("layer_short")}${layer}`)),
    );
  const table = h(
    "details",
    { class: "only-numbers" },
    h("summary", {}, app.t("precision_table")),
    h(
      "div",
      { class: "scroll-x" },
      h(
        "table",
        {},
        h("tr", {}, h("th", {}), head),
        names.map((name) =>
          row(
            name,
            shown.map((layer) => found.get(`layers.${layer}.${name}`)),
          ),
        ),
      ),
    ),
  );
  return [
    h(
      "p",
      { class: "precision-said" },
      app.t("precision_said", {
        same: its.same,
        of: app.run.tokens.length,
        kl: number(mean, 2),
        off: percent(found.get("logits").so_far),
      }),
    ),
    map("own"),
    map("so_far"),
    table,
    h(
      "p",
      { class: "soft" },
      app.t(
        "precision_shown",
        [...new Set(its.recomputed.map((name) => name.split(".").at(-1)))].join(", "),
        count(its.steps.length),
      ),
    ),
  ];
}
