// The bar above a conversation: its title, the model, how sure, settings.

import { h } from "./explain/dom.js";
import { button, sign } from "./buttons.js";
import { modelSelect } from "./preferences.js";
import { legend } from "./sure.js";

export class Top {
  constructor(app, element) {
    this.app = app;
    this.element = element;
  }

  draw() {
    const { app } = this,
      { talk } = app,
      sure = app.settings.sure;
    document.title = talk.title ? `${talk.title} – Pellucid` : "Pellucid";
    this.element.replaceChildren(
      h(
        "div",
        { class: "row" },
        button("menu", app.t("menu"), () => app.parts.side.toggle(), { class: "only-narrow", id: "menu" }),
        h("h1", { class: "title" }, talk.title),
        modelSelect(app, { class: "model", "aria-label": app.t("model") }) ??
          h("span", { class: "model" }, app.model?.id ?? ""),
        h(
          "button",
          {
            type: "button",
            id: "sure",
            class: "labelled",
            title: app.t("sure_title"),
            "aria-pressed": String(sure),
            on: { click: () => this.flip() },
          },
          sign("sure"),
          h("span", {}, app.t("sure")),
        ),
        button("settings", app.t("settings"), () => app.parts.preferences.open(), { id: "settings" }),
      ),
      sure ? legend(app) : "",
    );
  }

  flip() {
    const { app } = this;
    app.set({ sure: !app.settings.sure });
    document.getElementById("thread").classList.toggle("sure", app.settings.sure);
    this.draw();
  }
}
