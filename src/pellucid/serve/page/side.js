// The list of conversations: by day, found by their titles, renamed, saved and deleted.

import { h } from "./explain/dom.js";
import { button } from "./buttons.js";
import { readConversation, save } from "./files.js";
import { menu } from "./menu.js";
import { asMarkdown, fresh } from "./tree.js";

const DAY = 86_400_000;

export class Side {
  constructor(app, element) {
    this.app = app;
    this.element = element;
    this.sought = "";
    this.list = h("nav", { class: "talks" });
    this.choose = h("input", { type: "file", accept: ".json,application/json", class: "unseen", tabindex: -1 });
    this.choose.addEventListener("change", () => this.import(this.choose.files[0]));
    app.store.changes?.addEventListener("message", ({ data }) => this.changed(data));
  }

  async draw() {
    const { app } = this;
    if (this.language !== app.settings.lang) this.frame();
    const heads = await app.store.heads();
    const seen = heads.filter(({ title }) => title.toLowerCase().includes(this.sought));
    this.search.hidden = heads.length < 8;
    const groups = Map.groupBy?.(seen, ({ updated }) => age(updated)) ?? grouped(seen);
    this.list.setAttribute("aria-label", app.t("conversations"));
    this.list.replaceChildren(
      ...[...groups].map(([name, talks]) =>
        h(
          "section",
          {},
          h("h2", {}, app.t(name)),
          h(
            "ul",
            {},
            talks.map((talk) => this.item(talk)),
          ),
        ),
      ),
      ...(heads.length ? [] : [h("p", { class: "soft" }, app.t(app.store.lasting ? "none_yet" : "not_lasting"))]),
    );
  }

  frame() {
    const { app } = this;
    this.language = app.settings.lang;
    this.search = h("input", {
      type: "search",
      placeholder: app.t("search"),
      "aria-label": app.t("search"),
      value: this.sought,
      on: { input: (event) => ((this.sought = event.target.value.trim().toLowerCase()), this.draw()) },
    });
    const other = app.settings.lang === "zh" ? "en" : "zh";
    this.element.replaceChildren(
      h(
        "div",
        { class: "side-head" },
        h("span", { class: "wordmark" }, "Pellucid"),
        button("close", app.t("close"), () => this.toggle(false), { class: "only-narrow" }),
      ),
      h(
        "button",
        {
          type: "button",
          class: "new",
          id: "new",
          on: { click: () => (this.toggle(false), app.begin(), app.parts.composer.area.focus()) },
        },
        app.t("new"),
      ),
      this.search,
      this.list,
      h(
        "div",
        { class: "side-foot" },
        h(
          "button",
          { type: "button", id: "lang", lang: other === "zh" ? "zh-CN" : "en", on: { click: () => app.speak(other) } },
          app.t("language"),
        ),
        h(
          "button",
          {
            type: "button",
            class: "icon",
            id: "theme",
            title: app.t("theme"),
            "aria-label": app.t("theme"),
            on: { click: () => app.shade() },
          },
          "◐",
        ),
        button("save", app.t("import"), () => this.choose.click()),
        this.choose,
      ),
    );
  }

  item({ id, title }) {
    const { app } = this,
      here = id === app.talk.id;
    const open = h(
      "a",
      {
        href: `#c=${id}`,
        "aria-current": here ? "true" : null,
        on: { click: (event) => (event.preventDefault(), this.toggle(false), app.open(id)) },
      },
      title || app.t("untitled"),
    );
    const more = button("more", app.t("more"), () => this.more(more, open, { id, title }), { "aria-haspopup": "menu" });
    return h("li", { class: here ? "here" : null }, open, more);
  }

  more(anchor, link, { id, title }) {
    const { app } = this;
    const kept = (write) => async () => write(id === app.talk.id ? app.talk : await app.store.get(id));
    menu(anchor, [
      [app.t("rename"), () => this.rename(link, id, title)],
      [
        app.t("export_markdown"),
        kept((talk) =>
          save(
            `${talk.title}.md`,
            asMarkdown(talk, { user: app.t("you"), assistant: app.model?.id ?? "", system: app.t("system") }),
            "text/markdown",
          ),
        ),
      ],
      [
        app.t("export_json"),
        kept((talk) =>
          save(
            `${talk.title}.json`,
            JSON.stringify({ format: "pellucid-chat", conversation: talk }),
            "application/json",
          ),
        ),
      ],
      [app.t("remove"), () => confirm(app.t("remove_sure", title)) && app.remove(id), "bad"],
    ]);
  }

  rename(link, id, title) {
    const { app } = this;
    const field = h("input", { type: "text", value: title, "aria-label": app.t("rename") });
    let done = false;
    const finish = (keep) => {
      if (done) return;
      done = true;
      if (keep && field.value.trim()) app.rename(id, field.value);
      else this.draw();
    };
    field.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter") finish(true);
      if (event.key === "Escape") finish(false);
    });
    field.addEventListener("blur", () => finish(true));
    link.replaceWith(field);
    field.select();
  }

  async import(file) {
    const { app } = this;
    this.choose.value = "";
    try {
      const talk = readConversation(await file.text(), fresh);
      await app.store.put(talk);
      app.say(app.t("imported"));
      await app.open(talk.id);
    } catch {
      app.say(app.t("not_ours"));
    }
  }

  /** Another window of this page has kept or removed a conversation. */
  async changed({ id, removed }) {
    const { app } = this;
    if (id === app.talk.id && !app.growing) {
      if (removed) app.begin();
      else await app.open(id);
    } else this.draw();
  }

  toggle(open = !document.body.classList.contains("side-open")) {
    document.body.classList.toggle("side-open", open);
  }
}

function age(updated) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (updated >= today) return "today";
  if (updated >= today - DAY) return "yesterday";
  return updated >= today - 7 * DAY ? "week" : "earlier";
}

function grouped(talks) {
  const groups = new Map();
  for (const talk of talks) groups.set(age(talk.updated), [...(groups.get(age(talk.updated)) ?? []), talk]);
  return groups;
}
