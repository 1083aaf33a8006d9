// Where one writes: a text, files as text, send and stop. Enter sends, except while an input method composes.

import { h } from "./explain/dom.js";
import { button, sign } from "./buttons.js";
import { readText } from "./files.js";

const TALLEST = 0.4; // of the window

export class Composer {
  constructor(app, element) {
    this.app = app;
    this.files = [];
    this.composing = false;
    this.area = h("textarea", { id: "ask", rows: 1, autocomplete: "off", enterkeyhint: "send" });
    this.chips = h("div", { class: "files" });
    this.choose = h("input", { type: "file", multiple: true, class: "unseen", tabindex: -1 });
    this.buttons = h("div", { class: "row" });
    this.form = h("form", { class: "composer" }, this.chips, this.area, this.choose, this.buttons);
    element.append(this.form);
    this.listen();
    this.draw();
  }

  listen() {
    const { area } = this;
    area.addEventListener("input", () => (this.fit(), this.drawButtons()));
    area.addEventListener("compositionstart", () => (this.composing = true));
    // Safari tells of the end of a composition before the Enter that ended it
    area.addEventListener("compositionend", () => setTimeout(() => (this.composing = false)));
    area.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.altKey) return;
      if (this.composing || event.isComposing || event.keyCode === 229) return;
      if (matchMedia("(pointer: coarse)").matches && !event.ctrlKey && !event.metaKey) return; // a phone has a button
      event.preventDefault();
      this.submit();
    });
    area.addEventListener("paste", (event) => {
      if (event.clipboardData.files.length) (event.preventDefault(), this.attach(event.clipboardData.files));
    });
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.submit()));
    this.choose.addEventListener("change", () => (this.attach(this.choose.files), (this.choose.value = "")));
    addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      this.form.classList.add("dropping");
    });
    addEventListener("dragleave", (event) => !event.relatedTarget && this.form.classList.remove("dropping"));
    addEventListener("drop", (event) => {
      if (!event.dataTransfer.files.length) return;
      event.preventDefault();
      this.form.classList.remove("dropping");
      this.attach(event.dataTransfer.files);
    });
  }

  draw() {
    const { app, area } = this;
    area.placeholder = app.t(app.chats ? "ask" : "begin");
    area.setAttribute("aria-label", area.placeholder);
    this.form.dataset.drop = app.t("drop");
    this.chips.replaceChildren(
      ...this.files.map((file, i) =>
        h(
          "span",
          { class: "file-chip" },
          sign("clip"),
          h("span", {}, file.name),
          button("close", app.t("detach", file.name), () => (this.files.splice(i, 1), this.draw())),
        ),
      ),
    );
    this.drawButtons();
    this.fit();
  }

  drawButtons() {
    const { app } = this,
      growing = app.growing,
      ready = Boolean(this.area.value.trim() || this.files.length);
    const key = `${growing?.id} ${ready} ${app.settings.lang}`;
    if (this.shown === key) return;
    this.shown = key;
    this.buttons.replaceChildren(
      button("clip", app.t("attach"), () => this.choose.click()),
      h("span", { class: "hint" }, app.t("send_hint")),
      growing
        ? button("stop", app.t("stop"), () => app.stop(growing.id), { class: "primary round", id: "stop" })
        : h(
            "button",
            {
              type: "submit",
              class: "icon primary round",
              id: "send",
              title: app.t("send"),
              "aria-label": app.t("send"),
              disabled: !ready,
            },
            sign("send"),
          ),
    );
  }

  submit() {
    const { app, area, files } = this,
      text = area.value.trim();
    if (app.growing || !(text || files.length)) return;
    area.value = "";
    this.files = [];
    this.draw();
    app.send(text, files);
  }

  async attach(list) {
    for (const file of [...list])
      // the list is the field's own, which is emptied meanwhile
      try {
        this.files.push(await readText(file));
      } catch (error) {
        this.app.say(this.app.t(error.message, file.name));
      }
    this.draw();
    this.area.focus();
  }

  fit() {
    this.area.style.height = "auto";
    this.area.style.height = `${Math.min(this.area.scrollHeight, innerHeight * TALLEST)}px`;
  }
}
