// 11. What if: silence a head, put in what another sentence had there, read another token; before and after, side by
// side.

import { h, number, percent, visible } from "../dom.js";
import {
  bars,
  choice,
  frame,
  posStepper,
  headStepper,
  layerStepper,
  select,
  story,
  tokenBars,
  trouble,
} from "../figures.js";
import { Matrix } from "../matrix.js";

export function render(app) {
  const section = frame(app, "whatif", 12),
    form = h("div", {}),
    result = h("div", { class: "whatif-result" });
  let kind = "ablate_head",
    other = "",
    token = "",
    step = "resid_post",
    everywhere = true;
  const fields = {
    ablate_head: () => [layerStepper(app), headStepper(app)],
    ablate_part: () => [
      layerStepper(app),
      select(
        [
          ["attn_out", "attn_out"],
          ["mlp_out", "mlp_out"],
        ],
        part(),
        (value) => (step = value),
        app.t("step"),
      ),
    ],
    patch: () => [
      h(
        "div",
        { style: { flex: "1 1 100%" } },
        h("input", {
          type: "text",
          value: other,
          placeholder: app.t("patch_placeholder"),
          "aria-label": app.t("patch_placeholder"),
          on: { input: (event) => (other = event.target.value) },
        }),
      ),
      layerStepper(app),
      select(
        ["resid_pre", "attn_out", "mlp_out", "resid_post"].map((name) => [name, name]),
        step,
        (value) => (step = value),
        app.t("step"),
      ),
      posStepper(app),
    ],
    swap: () => [
      posStepper(app),
      h(
        "div",
        {},
        h("input", {
          type: "text",
          value: token,
          placeholder: app.t("swap_placeholder"),
          "aria-label": app.t("swap_placeholder"),
          on: { input: (event) => (token = event.target.value) },
        }),
      ),
    ],
  };
  const part = () => (step = step === "mlp_out" ? step : "attn_out");
  const edit = () => {
    const { layer, head, pos } = app.state,
      positions = everywhere ? null : [pos];
    return {
      ablate_head: { kind: "ablate", where: `layers.${layer}`, head, positions },
      ablate_part: { kind: "ablate", where: `layers.${layer}.${step}`, positions },
      patch: { kind: "patch", where: `layers.${layer}.${step}`, text: other, positions: [pos] },
      swap: { kind: "swap", position: pos, token },
    }[kind];
  };
  const show = () =>
    form.replaceChildren(
      h(
        "div",
        { class: "controls" },
        fields[kind](),
        kind.startsWith("ablate")
          ? choice(
              [
                [true, app.t("everywhere")],
                [false, app.t("at_position", app.state.pos)],
              ],
              everywhere,
              (value) => (everywhere = value),
            )
          : "",
        h("button", { class: "primary", data: { run: "whatif" }, on: { click: run } }, app.t("try_it")),
      ),
    );
  const run = async () => {
    const { layer, head, pos } = app.state,
      at = everywhere ? "" : app.t("only_at", pos);
    const label = {
      ablate_head: app.t("silenced_head", layer, head) + at,
      ablate_part: app.t("silenced_part", `layers.${layer}.${step}`) + at,
      patch: app.t("patched", `layers.${layer}.${step}`, pos),
      swap: app.t("swapped", pos, token),
    }[kind];
    result.replaceChildren(h("p", { class: "soft" }, app.t("running")));
    try {
      result.replaceChildren(
        ...changed(app, await app.source.post("whatif", { run: app.run.run, edits: [edit()] }), label),
      );
    } catch (error) {
      result.replaceChildren(trouble(app, error));
    }
  };
  section.append(story(app, "whatif_story"));
  if (app.model.native) section.append(h("p", { class: "placeholder" }, app.t("native_no_edits")));
  else
    section.append(
      h(
        "div",
        { class: "controls" },
        choice(
          Object.keys(fields).map((key) => [key, app.t(key)]),
          kind,
          (value) => ((kind = value), show()),
        ),
      ),
      form,
      result,
    );
  app.watch(form, ["pos"], show);
  if (app.model.others.length) section.append(compare(app));
  else section.append(h("h3", {}, app.t("compare_title")), h("p", { class: "placeholder" }, app.t("compare_absent")));
  return section;
}

function changed(app, its, label) {
  const ids = new Set([...its.before.slice(0, 6), ...its.after.slice(0, 6)].map((token) => token.id)),
    find = (list, id) => list.find((token) => token.id === id);
  const heat = new Matrix(
    app,
    {
      name: app.t("change"),
      values: Float32Array.from(its.change.flat()),
      rows: its.change.length,
      cols: its.change[0].length,
    },
    {
      scale: "probability",
      rowLabel: (i) => (i ? `${app.t("layer_short")}${i - 1}` : "embed"),
      colLabel: (j) => app.token(j),
      rowHeight: 14,
      onPick: ([i, j]) => app.set({ layer: Math.max(0, i - 1), pos: j }),
    },
  );
  return [
    h(
      "p",
      {},
      app.t("whatif_said", {
        label,
        before: visible(its.before[0].text),
        p: percent(its.before[0].p),
        after: visible(its.after[0].text),
        q: percent(its.after[0].p),
        kl: number(its.kl, 3),
      }),
    ),
    h(
      "div",
      { class: "two" },
      h(
        "figure",
        { data: { side: "before" } },
        h("figcaption", {}, h("b", {}, app.t("before"))),
        tokenBars(app, its.before.slice(0, 8)),
      ),
      h(
        "figure",
        { data: { side: "after" } },
        h("figcaption", {}, h("b", {}, app.t("after"))),
        tokenBars(app, its.after.slice(0, 8)),
      ),
    ),
    h("figure", {}, h("figcaption", {}, app.t("change_caption")), heat.element),
    h(
      "div",
      { class: "controls" },
      h("button", { data: { open: "edited" }, on: { click: () => app.openRun(its.run) } }, app.t("open_edited")),
    ),
  ];
}

/** Two models, or two checkpoints of one, on the same text. */
function compare(app) {
  const said = (its, name) => {
    const [key, values] = its.same_tokens ? ["compare_said", its.nats] : ["compare_said_bits", its.bits_a_byte];
    return app.t(key, app.model.name, number(values[0], 4), name, number(values[1], 4));
  };
  const body = h("div", { class: "compare" }),
    run = async (name) => {
      body.replaceChildren(h("p", { class: "soft" }, app.t("running")));
      try {
        const its = await app.source.get("compare", { other: name, run: app.run.run });
        body.replaceChildren(
          h("p", {}, said(its, name)),
          h(
            "div",
            { class: "two" },
            its.next.map((tokens, i) =>
              h("figure", {}, h("figcaption", {}, h("b", {}, i ? name : app.model.name)), tokenBars(app, tokens)),
            ),
          ),
          its.nats_by_position
            ? h(
                "figure",
                {},
                h("figcaption", {}, app.t("compare_positions")),
                bars(
                  its.nats_by_position.map(([text, mine, theirs]) => ({
                    name: visible(text),
                    value: theirs - mine,
                    text: `${number(mine, 3)} | ${number(theirs, 3)}`,
                  })),
                  { signed: true },
                ),
              )
            : "",
        );
      } catch (error) {
        body.replaceChildren(trouble(app, error));
      }
    };
  return h(
    "div",
    {},
    h("h3", {}, app.t("compare_title")),
    story(app, "compare_story"),
    h(
      "div",
      { class: "controls" },
      app.model.others.map((name) => h("button", { on: { click: () => run(name) } }, name)),
    ),
    body,
  );
}
