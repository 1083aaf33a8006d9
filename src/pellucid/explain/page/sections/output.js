// 9. The output: logits become probabilities under temperature and cuts, live; a draw; and how surprised the model is
// by a text of yours.

import { css, ink } from "../colour.js";
import { h, math, number, percent, visible } from "../dom.js";
import { bars, frame, posStepper, slider, stepFigure, story, tokenBars, thread, trouble } from "../figures.js";

const SHOWN = 14;

export function render(app) {
  const section = frame(app, "output", 10);
  section.append(
    story(app, "output_story", app.model),
    thread(app, app.t("thread_final"), { name: "final" }),
    h("div", { class: "controls" }, posStepper(app)),
    sampler(app),
    h("h3", {}, app.t("entropy_title")),
    story(app, "entropy_story"),
    surprise(app),
    target(app),
  );
  const logits = stepFigure(app, () => "logits", { keys: [] });
  logits.classList.add("only-numbers");
  section.append(logits);
  return section;
}

/**
 * The distribution after each rule, in the order in which generation applies them: temperature, top-k, top-p, min-p.
 */
export function distribution(logits, { temperature, top_k, top_p, min_p }) {
  const order = [...logits.keys()].sort((a, b) => logits[b] - logits[a]),
    greedy = temperature === 0,
    best = logits[order[0]];
  const weights = order.map((i) => (greedy ? +(i === order[0]) : Math.exp((logits[i] - best) / temperature)));
  const total = weights.reduce((a, b) => a + b, 0),
    p = weights.map((weight) => weight / total);
  let kept = top_k > 0 ? Math.min(top_k, order.length) : order.length;
  if (top_p < 1) {
    const within = p.slice(0, kept).reduce((a, b) => a + b, 0);
    let sum = 0,
      needed = 0;
    while (needed < kept && sum < top_p * within) sum += p[needed++];
    kept = Math.max(1, needed);
  }
  while (kept > 1 && p[kept - 1] < min_p * p[0]) kept--;
  const left = p.slice(0, kept).reduce((a, b) => a + b, 0);
  return { order, before: p, after: p.map((its, i) => (i < kept ? its / left : 0)), kept, left };
}

function sampler(app) {
  const rules = { temperature: 1, top_k: 0, top_p: 1, min_p: 0 },
    list = h("div", {}),
    said = h("p", { role: "status" }),
    drawn = h("p", { class: "answer" }),
    body = h("div", {});
  let logits = null,
    names = new Map(),
    rest = 0;
  const show = () => {
    if (!logits) return;
    const its = distribution(logits, rules);
    const entropy = its.after.reduce((sum, p) => sum - (p > 0 ? p * Math.log2(p) : 0), 0);
    list.replaceChildren(
      tokenBars(
        app,
        its.order
          .slice(0, SHOWN)
          .map((id, i) => ({
            id: names.get(id)?.id ?? id,
            text: names.get(id)?.text ?? `[${id}]`,
            p: i < its.kept ? its.after[i] : its.before[i],
            out: i >= its.kept,
          })),
      ),
    );
    said.replaceChildren(
      app.t("sampler_said", {
        kept: its.kept,
        of: logits.length,
        left: percent(its.left),
        entropy: number(entropy, 3),
      }),
      rest ? ` ${app.t("rest_cut", rest)}` : "",
    );
    return its;
  };
  const draw = () => {
    const its = show();
    let at = Math.random(),
      i = 0;
    while (i < its.kept - 1 && (at -= its.after[i]) > 0) i++;
    drawn.replaceChildren(
      `${app.t("drawn")} `,
      h("span", { class: "new grown" }, visible(names.get(its.order[i])?.text ?? `[${its.order[i]}]`)),
      ` ${percent(its.after[i])}`,
    );
  };
  const knob = (key, options) =>
    slider(app.t(key), { ...options, value: rules[key] }, (value) => ((rules[key] = value), show()));
  const knobs = h(
    "div",
    { class: "two knobs" },
    knob("temperature", { min: 0, max: 2, step: 0.05, say: (v) => (v === 0 ? app.t("greedy") : number(v, 3)) }),
    knob("top_k", { min: 0, max: 100, step: 1, say: (v) => (v ? String(v) : app.t("off")) }),
    knob("top_p", { min: 0.05, max: 1, step: 0.01, say: (v) => (v < 1 ? number(v, 2) : app.t("off")) }),
    knob("min_p", { min: 0, max: 0.5, step: 0.01, say: (v) => (v ? number(v, 2) : app.t("off")) }),
  );
  const formula = math(
"<mrow><msub><mi>p</mi><mi>i</mi></msub><mo>=</mo><mfrac><msup><mi>e</mi><mrow><msub><mi>logits</mi><mi>i</mi>" +
    "</msub><mo>/</mo><mi>T</mi></mrow></msup><mrow><munder><mo>∑</mo><mi>j</mi></munder><msup><mi>e</mi><mrow>" +
    "<msub><mi>logits</mi><mi>j</mi></msub><mo>/</mo><mi>T</mi></mrow></msup></mrow></mfrac></mrow>",
  );
  const element = h(
    "figure",
    { class: "sampler" },
    h("div", { class: "formula" }, formula),
    knobs,
    list,
    said,
    h("div", { class: "controls" }, h("button", { class: "primary", on: { click: draw } }, app.t("draw")), drawn),
    body,
  );
  app.watch(list, ["pos"], async (state) => {
    const its = await app.source.get("output", { pos: state.pos, run: app.run.run });
    if (!app.source.live)
      return () => {
        logits = its.top.map((token) => token.logit);
        [names, rest] = [new Map(its.top.map((token, i) => [i, token])), its.vocab - its.top.length];
        show();
      };
    const tile = await app.source.tile("logits", { at: [0], rows: [state.pos, state.pos + 1], run: app.run.run });
    return () => {
      [logits, names, rest] = [tile.data, new Map(its.top.map((token) => [token.id, token])), 0];
      show();
    };
  });
  return element;
}

/** How surprised the model was by each token of the text it read: −log p, the cross-entropy of the position. */
function surprise(app) {
  const element = h("figure", { class: "surprise" });
  if (app.run.tokens.length < 2) return h("p", { class: "placeholder" }, app.t("one_token"));
  app.source
    .get("surprise", { run: app.run.run })
    .then((its) =>
      element.replaceChildren(
        ...surprised(app, its, app.t("surprise_caption", number(its.mean, 4), number(Math.exp(its.mean), 4))),
      ),
    )
    .catch((error) => element.replaceChildren(trouble(app, error)));
  return element;
}

function surprised(app, its, caption) {
  const most = Math.max(...its.tokens.map((token) => token.nats), 1e-9);
  return [
    h("figcaption", {}, caption),
    h(
      "div",
      { class: "thread" },
      its.tokens.map((token) =>
        h(
          "span",
          {
            class: "chip",
            title: percent(token.p),
            style: {
              background: css(token.nats / most, 1, "probability"),
              color: ink(token.nats / most, 1, "probability"),
            },
          },
          visible(token.text),
          h("small", { data: { nats: token.nats }, style: { color: "inherit" } }, number(token.nats, 3)),
        ),
      ),
    ),
  ];
}

function target(app) {
  const input = h("input", {
      type: "text",
      maxlength: 200,
      "aria-label": app.t("target_label"),
      placeholder: app.t("target_placeholder"),
    }),
    result = h("figure", { class: "target-result" });
  const score = async (event) => {
    event.preventDefault();
    try {
      const its = await app.source.post("surprise", { run: app.run.run, target: input.value });
      result.replaceChildren(
        ...surprised(
          app,
          its,
          app.t("target_caption", number(its.mean, 4), percent(Math.exp(-its.mean * its.tokens.length))),
        ),
      );
    } catch (error) {
      result.replaceChildren(trouble(app, error));
    }
  };
  return h(
    "form",
    { class: "target", on: { submit: score } },
    h("div", { class: "controls" }, h("div", { style: { flex: "1 1 240px" } }, input), h("button", {}, app.t("score"))),
    result,
  );
}
