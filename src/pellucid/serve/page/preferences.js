// Settings: what a conversation's answers are made with. Empty means: as the model's own files have it.

import { count, h } from "./explain/dom.js";
import { button } from "./buttons.js";

/** A choice of the server's models, where there are several. */
export function modelSelect(app, props = {}) {
  if (app.models.length < 2) return null;
  const change = (event) => (app.set({ model: event.target.value }), app.draw());
  return h(
    "select",
    { ...props, on: { change } },
    app.models.map(({ id }) => h("option", { value: id, selected: id === app.model?.id }, id)),
  );
}

// name → [least, largest, step]
const NUMBERS = {
  temperature: [0, 2, 0.05],
  top_p: [0, 1, 0.01],
  top_k: [0, 1_000_000, 1],
  min_p: [0, 1, 0.01],
  max_tokens: [1, 10_000_000, 1],
  seed: [0, Number.MAX_SAFE_INTEGER, 1],
};

export class Preferences {
  constructor(app) {
    this.app = app;
    this.dialog = h("dialog", { class: "preferences" });
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    document.body.append(this.dialog);
  }

  draw() {
    if (this.dialog.open) this.fill();
  }

  /** ``wanted``: the field that something is missing in. */
  open(wanted = "") {
    this.fill();
    if (!wanted) this.app.findModels().then(() => this.draw()); // one that was loaded meanwhile says more of itself
    if (!this.dialog.open) this.dialog.showModal();
    if (wanted) this.dialog.querySelector(`[name="${wanted}"]`).focus();
  }

  fill() {
    const { app } = this,
      { model } = app;
    this.dialog.setAttribute("aria-label", app.t("settings"));
    this.dialog.replaceChildren(
      h(
        "div",
        { class: "inside" },
        h(
          "div",
          { class: "row" },
          h("h2", {}, app.t("settings")),
          button("close", app.t("close"), () => this.dialog.close()),
        ),
        h("p", { class: "soft" }, app.t("settings_for")),
        this.field("system", h("textarea", { rows: 4, value: app.value("system"), placeholder: app.t("system_hint") })),
        this.models(model),
        h(
          "div",
          { class: "grid" },
          Object.entries(NUMBERS).map(([name, range]) => this.number(name, range)),
        ),
        h(
          "label",
          { class: "check" },
          h("input", {
            type: "checkbox",
            checked: app.settings.alternatives,
            on: { change: (event) => app.set({ alternatives: event.target.checked }) },
          }),
          h("span", {}, app.t("alternatives"), h("small", {}, app.t("alternatives_hint"))),
        ),
        this.key(),
      ),
    );
  }

  key() {
    const { app } = this;
    const input = h("input", {
      type: "password",
      value: app.settings.key,
      autocomplete: "off",
      placeholder: app.t("key_hint"),
    });
    return this.field("key", input, () => app.findModels().then(() => app.models.length && (app.say(""), app.draw())));
  }

  models(model) {
    const { app } = this;
    if (!model) return null;
    const choose = modelSelect(app) ?? h("output", {}, model.id);
    const about = model.max_model_len ? h("small", {}, app.t("context", count(model.max_model_len))) : null;
    return h("label", { class: "field" }, h("span", {}, app.t("model")), choose, about);
  }

  number(name, [least, largest, step]) {
    const { app } = this;
    const input = h("input", {
      type: "number",
      inputmode: "decimal",
      min: least,
      max: largest,
      step,
      value: app.value(name),
      placeholder: app.t("own"),
    });
    return this.field(name, input, null, app.t(`${name}_hint`));
  }

  /** A labelled field that keeps what is written in it, once it is in range. */
  field(name, input, then, hint) {
    const { app } = this;
    input.name = name;
    input.addEventListener("change", () => {
      const value = input.value.trim(),
        well = !input.validity.badInput;
      const inside =
        value === "" ||
        input.type !== "number" ||
        (Number(value) >= Number(input.min) && Number(value) <= Number(input.max));
      const whole = value === "" || input.step !== "1" || Number.isInteger(Number(value));
      input.setCustomValidity(well && inside && whole ? "" : app.t("wrong_number"));
      if (!input.reportValidity()) return;
      app.set({ [name]: value });
      then?.();
    });
    const label = { system: "system", key: "key" }[name] ?? name;
    return h("label", { class: "field" }, h("span", {}, app.t(label)), input, hint ? h("small", {}, hint) : null);
  }
}
