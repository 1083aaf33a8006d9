// 5. Any cell of any matrix: choose a step, point at a number, and its panel shows the equation with its own operands.

import { h } from "../dom.js";
import { frame, headStepper, layerStepper, select, stepFigure, story } from "../figures.js";

export function render(app) {
  const section = frame(app, "cell", 5),
    chosen = h("div", {}),
    choose = h("span", {});
  const kinds = [...new Set(app.run.steps.map((step) => step.name.replace(/^layers\.\d+\./, "layers.ℓ.")))];
  let kind =
    app.state.step && app.has(app.state.step)
      ? app.state.step.replace(/^layers\.\d+\./, "layers.ℓ.")
      : kinds.includes("layers.ℓ.q")
        ? "layers.ℓ.q"
        : kinds[0];
  const name = (state) => kind.replace("ℓ", state.layer);
  const show = () => {
    const step = app.step(name(app.state)),
      probability = kind.endsWith(".pattern"),
      square = probability || kind.endsWith(".scores");
    const heads = () => (step?.shape.length === 4 ? step.shape[1] : 0);
    chosen.replaceChildren(
      stepFigure(app, name, {
        at: (state) => (heads() ? [0, Math.min(state.head, heads() - 1)] : [0]),
        scale: probability ? "probability" : "signed",
        square,
      }),
    );
  };
  choose.append(
    select(
      kinds.map((its) => [its, its]),
      kind,
      (value) => ((kind = value), show(), app.set({ step: name(app.state), cell: "" })),
      app.t("step"),
    ),
  );
  app.watch(section, ["step"], (state) => {
    const wanted = state.step.replace(/^layers\.\d+\./, "layers.ℓ.");
    if (state.cell || wanted === kind || !kinds.includes(wanted)) return;
    choose.firstChild.value = kind = wanted;
    show();
  });
  section.append(
    story(app, "cell_story"),
    h("div", { class: "controls" }, choose, layerStepper(app), headStepper(app)),
    chosen,
    h("p", { class: "soft" }, app.t("cell_hint")),
  );
  show();
  return section;
}
