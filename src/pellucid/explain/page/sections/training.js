// 12. Training: where the numbers come from. Curves, the weights that move, the batch being read, texts over time; live
// while it goes on.

import { css, ink } from "../colour.js";
import { Cursor, Curves } from "../curves.js";
import { count, h, math, number, percent, prose, visible } from "../dom.js";
import { choice, picture, story, trouble } from "../figures.js";
import { Matrix } from "../matrix.js";
import { snapshots } from "./snapshots.js";

const EVERY = 2000; // milliseconds between looks at a run that goes on

export function render(app) {
  const section = h(
      "section",
      { id: "training", "aria-labelledby": "training-title" },
      h(
        "h2",
        { id: "training-title" },
        app.model.layers.length ? h("span", { class: "no" }, "13") : "",
        app.t("training_title"),
      ),
      story(app, "training_story"),
    ),
    slot = h("div", { id: "training-slot" });
  section.append(slot);
  app.source
    .get("training")
    .then((info) =>
      info
        ? open(app, slot, info)
        : slot.replaceChildren(h("p", { class: "placeholder" }, prose(app.t("training_absent")))),
    )
    .catch((error) => slot.replaceChildren(trouble(app, error)));
  return section;
}

async function open(app, slot, info) {
  const parts = [
    status(app, info),
    curves(app, info),
    weights(app, info),
    stream(app, info),
    batch(app, info),
    snapshots(app, info),
    samples(app, info),
  ];
  slot.replaceChildren(...parts.flatMap((part) => part.nodes));
  let known = {};
  const look = async () => {
    const state = await app.source.fetchJson("training/state", {}),
      before = known;
    known = state;
    for (const part of parts) if (part.wants(state, before)) await part.show(state);
    return state;
  };
  const again = async () => {
    if (!slot.isConnected) return;
    try {
      if (!document.hidden) await look();
    } catch (error) {
      parts[0].lost(error);
    }
    setTimeout(again, EVERY);
  };
  try {
    const state = await look();
    if (app.source.live && !state.finished) setTimeout(again, EVERY);
  } catch (error) {
    slot.replaceChildren(trouble(app, error));
  }
}

/** One line on where the run stands. */
function status(app, info) {
  const line = h("div", { class: "run-status", role: "status" }),
    facts = h(
      "div",
      { class: "facts" },
      Object.entries(info.settings).map(([name, value]) =>
        h(
          "span",
          {},
          `${app.t("setting")[name] ?? name} `,
          h("b", {}, typeof value === "number" ? String(Number(value.toPrecision(3))) : String(value)),
        ),
      ),
    );
  const say = (label, value, name) =>
    h("span", { class: "figure-of" }, h("b", { data: { state: name } }, value), h("small", {}, label));
  return {
    nodes: [h("div", { class: "run-head" }, line, facts)],
    wants: () => true,
    show: (state) => {
      const kind = state.finished ? "finished" : state.running ? "running" : "stopped";
      line.className = `run-status ${kind}`;
      line.replaceChildren(
        h("span", { class: "lamp" }, app.t(`run_${kind}`)),
        say(
          app.t("run_step"),
          state.num_steps ? `${count(state.step)} / ${count(state.num_steps)}` : count(state.step),
          "step",
        ),
        say(app.t("run_loss"), number(state.smooth, 3), "smooth"),
        say(app.t("run_val"), number(state.val_loss, 3), "val_loss"),
        say(app.t("run_speed"), count(Math.round(state.tokens_per_second ?? 0)), "speed"),
        say(app.t("run_tokens"), large(state.tokens), "tokens"),
        say(
          state.finished || !state.running ? app.t("run_time") : app.t("run_left"),
          duration(state.finished || !state.running ? state.seconds : state.left),
          "time",
        ),
        say(app.t("run_recording"), percent(state.recording), "recording"),
      );
    },
    lost: () => {
      line.className = "run-status stopped";
      line.querySelector(".lamp")?.replaceChildren(app.t("run_lost"));
    },
  };
}

function curves(app, info) {
  const cursor = new Cursor(),
    place = {},
    at = (key, i) => number(place.data[key][i], 4);
  const val = (step) => place.data.validation.findLast(([x]) => x <= step) ?? null;
  const loss = new Curves(app, cursor, {
    label: app.t("loss_name"),
    height: 300,
    say: (i) => {
      const step = place.data.step[i],
        its = val(step);
      return app.t("loss_said", {
        step: count(step),
        loss: at("loss", i),
        smooth: at("smooth", i),
        val: its && number(its[1], 4),
        at: its && count(its[0]),
      });
    },
  });
  const small = (key, options = {}) =>
    new Curves(app, cursor, {
      label: app.t(`${key}_name`),
      zero: true,
      say: (i) =>
        app.t(
          `${key}_said`,
          count(place.data.step[i]),
          key === "tokens_per_second" ? count(Math.round(place.data[key][i])) : at(key, i),
        ),
      ...options,
    });
  const held = (key, place_) =>
    new Curves(app, cursor, {
      label: app.t(`${key}_name`),
      height: 190,
      say: (i) => {
        const its = place.data.preferences[i];
        return app.t(`${key}_said`, count(its[0]), key === "accuracy" ? percent(its[place_]) : number(its[place_], 3));
      },
    });
  const preferences = { margin: held("margin", 1), accuracy: held("accuracy", 2) },
    preferred = h(
      "div",
      { class: "two", hidden: true },
      Object.entries(preferences).map(([key, chart]) => picture(app, info, key, key, chart.element)),
    );
  const others = { lr: small("lr"), grad_norm: small("grad_norm"), tokens_per_second: small("tokens_per_second") };
  let logX = false;
  const draw = () => {
    const { data } = place;
    loss.show(
      {
        x: data.step,
        lines: [
          { values: data.loss, class: "raw" },
          { values: data.smooth, class: "smooth", whole: true },
        ],
        band: data.step.length > 600 ? data : null,
        dots: data.validation,
        rule: data.uniform ?? undefined,
        ruleName: app.t("uniform", number(data.uniform, 3)),
      },
      logX,
    );
    preferred.hidden = !data.preferences?.length;
    if (!preferred.hidden)
      Object.entries(preferences).forEach(([key, chart], i) =>
        chart.show(
          {
            x: data.preferences.map(([step]) => step),
            lines: [{ values: data.preferences.map((its) => its[i + 1]), class: "smooth", whole: true }],
            dots: data.preferences.map((its) => [its[0], its[i + 1]]),
            rule: i ? 0.5 : 0,
            reach: i ? [0, 1] : [0],
            ruleName: app.t(i ? "as_a_coin" : "as_the_reference"),
          },
          logX,
        ),
      );
    for (const [key, chart] of Object.entries(others))
      chart.show({ x: data.step, lines: [{ values: data[key], class: `of-${key}` }] }, logX);
  };
  const axis = h(
    "div",
    { class: "controls" },
    choice(
      [
        [false, app.t("steps_even")],
        [true, app.t("steps_log")],
      ],
      logX,
      (value) => ((logX = value), draw()),
    ),
    h(
      "span",
      { class: "swatches" },
      ["raw", "smooth", "val"].map((its) => h("span", {}, h("i", { class: `key-${its}` }), app.t(`curve_${its}`))),
    ),
  );
  const skipped = h("p", { class: "bad" });
  return {
    nodes: [
      h("h3", {}, app.t("curves_title")),
      axis,
      picture(app, info, "loss", "loss", loss.element, h("div", { class: "formula" }, math(info.formulas.smooth))),
      skipped,
      preferred,
      h(
        "div",
        { class: "three" },
        picture(app, info, "lr", "lr", others.lr.element),
        picture(app, info, "grad_norm", "grad_norm", others.grad_norm.element),
        picture(app, info, "tokens_per_second", "speed", others.tokens_per_second.element),
      ),
    ],
    wants: (state, before) => state.step !== before.step,
    show: async () => {
      place.data = await app.source.fetchJson("training/curves", {});
      skipped.replaceChildren(
        ...place.data.skipped
          .slice(-3)
          .map(([step, why]) => h("span", {}, app.t("skipped_step", count(step), why), " ")),
      );
      draw();
    },
  };
}

/** Steps × layers, three readings of the same record; white is where each of them should be. */
function weights(app, info) {
  const element = h("div", {}),
    own = { what: "ratio", each: false };
  let data = null,
    matrix = null;
  const name = (row) =>
    row
      .replace(/^layers\.(\d+)\.(\w+)/, (_, layer, part) => `${layer} ${app.t("short_part")[part] ?? part}`)
      .replace(/\.weight$/, "")
      .replaceAll("_proj", "");
  const draw = () => {
    if (!data?.steps.length)
      return element.replaceChildren(h("p", { class: "placeholder" }, app.t("not_yet_recorded")));
    const rows = data.rows.length,
      cols = data.steps.length,
      its = data[own.what],
      positive = its
        .flat()
        .filter((value) => value > 0)
        .map(Math.log10)
        .sort((a, b) => a - b);
    const middle =
        own.what === "ratio"
          ? () => -3
          : own.what === "grad"
            ? () => positive[positive.length >> 1]
            : (i) => Math.log10(its[i][0] || 1),
      limit = own.what === "weight" ? 0.5 : 2;
    const values = Float32Array.from({ length: rows * cols }, (_, at) => {
      const i = Math.floor(at / cols),
        value = its[i][at % cols];
      return value > 0 ? Math.max(-limit, Math.min(limit, Math.log10(value) - middle(i))) : NaN;
    });
    const ends =
      own.what === "ratio"
        ? ["10⁻⁵", "10⁻³", "10⁻¹"]
        : own.what === "grad"
          ? ["÷ 100", number(10 ** middle(0), 2), "× 100"]
          : ["÷ 3.2", app.t("as_at_first"), "× 3.2"];
    const options = {
      rowLabel: (i) => name(data.rows[i]),
      colName: (j) => tickOf(data.steps[j]),
      limit,
      rowHeight: Math.max(own.each ? 11 : 15, Math.min(26, 340 / rows)),
      say: (value, i, j) => number(its[i]?.[j], 2),
      title: (i, j) => app.t("weights_said", { row: name(data.rows[i]), step: count(data.steps[j]) }),
      legend: ramp(ends, limit),
    };
    const tensor = { name: app.t(`${own.what}_name`), values, rows, cols };
    if (!matrix) element.replaceChildren((matrix = new Matrix(app, tensor, options)).element);
    else (Object.assign(matrix.options, options), matrix.show(tensor));
  };
  const load = async () => {
    data = await app.source.fetchJson("training/weights", own.each ? { each: 1 } : {});
    draw();
  };
  const caption = h("div", {}),
    says = () =>
      caption.replaceChildren(
        picture(app, info, own.what, { ratio: "ratio", grad: "grad_norm", weight: "size" }[own.what], element),
      );
  says();
  const controls = h(
    "div",
    { class: "controls" },
    choice(
      [
        ["ratio", app.t("ratio_short")],
        ["grad", app.t("grad_short")],
        ["weight", app.t("weight_short")],
      ],
      own.what,
      (value) => ((own.what = value), says(), draw()),
    ),
    choice(
      [
        [false, app.t("by_layer")],
        [true, app.t("by_weight")],
      ],
      own.each,
      (value) => (
        (own.each = value),
        (matrix = null),
        load().catch((error) => element.replaceChildren(trouble(app, error)))
      ),
    ),
  );
  return {
    nodes: [h("h3", {}, app.t("weights_title")), controls, caption],
    wants: (state, before) => state.records !== before.records,
    show: load,
  };
}

/** Snapshots × layers: how large the residual stream is; white is 1. */
function stream(app, info) {
  const element = h("div", {}),
    limit = 3;
  let matrix = null;
  return {
    nodes: [picture(app, info, "stream", "stream", element)],
    wants: (state, before) => String(state.snapshots) !== String(before.snapshots ?? ""),
    show: async () => {
      const its = await app.source.fetchJson("training/stream", {}),
        rows = its.rms.length,
        cols = its.steps.length;
      if (!cols)
        return ((matrix = null), element.replaceChildren(h("p", { class: "placeholder" }, app.t("not_yet_recorded"))));
      const name = (i) => (i ? `${i - 1}` : app.t("stream_first")),
        values = Float32Array.from({ length: rows * cols }, (_, at) =>
          Math.max(-limit, Math.min(limit, Math.log10(its.rms[Math.floor(at / cols)][at % cols]))),
        );
      const options = {
        rowLabel: name,
        colName: (j) => tickOf(its.steps[j]),
        limit,
        rowHeight: Math.max(11, Math.min(26, 340 / rows)),
        say: (value, i, j) => number(its.rms[i]?.[j], 3),
        title: (i, j) => app.t("stream_said", { layer: i ? i - 1 : null, step: count(its.steps[j]) }),
        legend: ramp(["10⁻³", "1", "10³"], limit),
      };
      const tensor = { name: app.t("stream_name"), values, rows, cols };
      if (!matrix) element.replaceChildren((matrix = new Matrix(app, tensor, options)).element);
      else (Object.assign(matrix.options, options), matrix.show(tensor));
    },
  };
}

/** The rows being learned from; the colour of a token says how surprised the model was by it. */
function batch(app, info) {
  const element = h("div", { class: "reading", tabindex: 0, role: "application", "aria-label": app.t("batch_name") }),
    said = h("output", { class: "said", "aria-live": "polite" }),
    foot = h("div", { class: "matrix-foot" });
  let cells = [],
    here = -1;
  const tell = (i) => {
    cells[here]?.node.classList.remove("here");
    here = i;
    const cell = cells[i];
    if (!cell) return;
    cell.node.classList.add("here");
    said.replaceChildren(
      app.t(cell.counts ? "batch_said" : "batch_masked", {
        before: visible(cell.before),
        text: visible(cell.text),
        nats: number(cell.loss, 3),
        p: percent(Math.exp(-cell.loss)),
      }),
    );
  };
  element.addEventListener(
    "pointerover",
    (event) => event.target.dataset?.cell !== undefined && tell(+event.target.dataset.cell),
  );
  element.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !cells.length) return;
    event.preventDefault();
    tell(Math.max(0, Math.min(cells.length - 1, here + by)));
    cells[here].node.scrollIntoView({ block: "nearest" });
  });
  return {
    nodes: [h("h3", {}, app.t("reading_title")), picture(app, info, "batch", "token_loss", element, said, foot)],
    wants: (state, before) => state.step !== before.step,
    show: async () => {
      const its = await app.source.fetchJson("training/batch", {});
      if (!its) return element.replaceChildren(h("p", { class: "soft" }, app.t("not_yet_recorded")));
      cells = [];
      const limit = Math.max(4, ...its.rows.flat().map((token) => token.loss ?? 0)),
        start = here;
      element.replaceChildren(
        ...its.rows.map((row) =>
          h(
            "p",
            {},
            h("span", { class: "given" }, visible(row[0].text)),
            row.map((token, t) => {
              const text = row[t + 1]?.text ?? token.next,
                node = h(
                  "span",
                  {
                    class: token.counts ? "" : "masked",
                    data: { cell: cells.length, loss: token.counts ? token.loss : "" },
                    style: token.counts
                      ? {
                          background: css(token.loss ?? limit, limit, "signed"),
                          color: ink(token.loss ?? limit, limit, "signed"),
                        }
                      : {},
                  },
                  visible(text),
                );
              cells.push({ node, text, before: token.text, loss: token.loss, counts: token.counts });
              return node;
            }),
          ),
        ),
      );
      const counted = cells.filter((cell) => cell.counts),
        mean = counted.reduce((sum, cell) => sum + cell.loss, 0) / Math.max(1, counted.length);
      foot.replaceChildren(
        h(
          "span",
          {
            class: "ramp half",
            style: {
              "--ends":
                `linear-gradient(90deg, ` +
                `${[0, 0.25, 0.5, 0.75, 1].map((x) => css(x * limit, limit, "signed")).join(", ")})`,
            },
          },
          "0",
          h("i", {}),
          app.t("nats", number(limit, 2)),
        ),
        h("span", {}, h("span", { class: "masked key" }, "abc"), ` ${app.t("masked_key")}`),
        h(
          "span",
          { data: { mean } },
          app.t("batch_foot", {
            step: count(its.step),
            rows: its.rows.length,
            of: its.shape[0],
            length: its.shape[1],
            mean: number(mean, 4),
          }),
        ),
      );
      tell(start >= 0 && start < cells.length ? start : -1);
    },
  };
}

/** What it writes: the first texts and the last, and some between. */
function samples(app, info) {
  const element = h("div", { class: "texts" });
  return {
    nodes: [
      h("h3", {}, app.t("samples_title")),
      h(
        "figure",
        { class: "picture", data: { picture: "samples" } },
        h("figcaption", {}, h("b", {}, app.t("samples_name")), h("span", {}, prose(app.t("samples_says")))),
        h("div", { class: "formula" }, math(info.formulas.next)),
        element,
      ),
    ],
    wants: (state, before) => state.samples !== before.samples,
    show: async () => {
      const its = await app.source.fetchJson("training/samples", {});
      element.replaceChildren(
        ...(its.length
          ? its.map((sample) =>
              h(
                "article",
                { data: { step: sample.step } },
                h("small", {}, app.t("at_step", count(sample.step))),
                h("p", {}, sample.text),
              ),
            )
          : [h("p", { class: "placeholder" }, app.t("no_samples"))]),
      );
    },
  };
}

/** A colour scale with a name at either end and in the middle. */
function ramp([low, middle, high], limit) {
  return h(
    "span",
    {
      class: "ramp",
      style: {
        "--ends":
          `linear-gradient(90deg, ` +
          `${[-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1].map((x) => css(x * limit, limit, "signed")).join(", ")})`,
      },
    },
    low,
    h("i", {}, h("em", {}, middle)),
    high,
  );
}

const tickOf = (step) =>
  step >= 1e6
    ? `${Number((step / 1e6).toPrecision(3))} M`
    : step >= 1e4
      ? `${Number((step / 1e3).toPrecision(3))} k`
      : String(step);
const large = (n) =>
  n >= 1e9
    ? `${Number((n / 1e9).toPrecision(3))} G`
    : n >= 1e6
      ? `${Number((n / 1e6).toPrecision(3))} M`
      : n >= 1e4
        ? `${Number((n / 1e3).toPrecision(3))} k`
        : count(n);

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return hours
    ? `${hours} h ${minutes} min`
    : minutes
      ? `${minutes} min ${Math.floor(seconds % 60)} s`
      : `${number(seconds, 2)} s`;
}
