// "Why this value?": a cell's equation with its own operands, terms by size, and from each term on to its own cell,
// back to the letters.

import { bars } from "./figures.js";
import { h, math, number } from "./dom.js";
import { LeftOut } from "./source.js";

const SHOWN = 12;

export class Why {
  constructor(app, element) {
    Object.assign(this, { app, element, trail: [], pinned: [] });
    app.why = this;
    element.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
  }

  close() {
    this.element.hidden = true;
    document.body.classList.remove("asking");
    this.trail = [];
    this.app.set({ step: "", cell: "" });
  }

  /** Opens on a cell; ``walk`` keeps the way here, so that one can go back. */
  async open(name, index, run = this.app.run.run, walk = false) {
    const here = { name, index, run },
      key = `${name}[${index.join(", ")}]`;
    if (!walk) this.trail = [];
    const before = this.trail.findIndex((step) => step.key === key);
    this.trail = before >= 0 ? this.trail.slice(0, before + 1) : [...this.trail, { ...here, key }];
    this.current = key;
    this.element.hidden = false;
    document.body.classList.add("asking");
    try {
      const why = await this.app.source.get(`cell/${name}`, { index: index.join(","), run });
      if (this.current !== key) return;
      this.now = { ...here, key, value: why.value };
      this.element.replaceChildren(...this.head(key, why), ...this.body(why), this.pins());
    } catch (error) {
      if (this.current === key)
        this.element.replaceChildren(
          ...this.head(key, null),
          h("p", { class: "placeholder" }, error instanceof LeftOut ? this.app.t("left_out_cell") : error.message),
          this.pins(),
        );
    }
  }

  walkTo({ name, index }) {
    this.app.set({ step: name, cell: index.join(",") });
    this.open(name, index, this.now?.run, true);
  }

  head(key, why) {
    const { app } = this;
    return [
      h(
        "div",
        { class: "why-head" },
        h("h2", {}, app.t("why_title")),
        why &&
          h(
            "button",
            { title: app.t("pin"), "aria-label": app.t("pin"), on: { click: () => this.pin() } },
            app.t("pin_short"),
          ),
        h(
          "button",
          { class: "icon", title: app.t("close"), "aria-label": app.t("close"), on: { click: () => this.close() } },
          "×",
        ),
      ),
      this.trail.length > 1 &&
        h(
          "div",
          { class: "trail" },
          this.trail
            .slice(0, -1)
            .flatMap((step) => [h("button", { on: { click: () => this.walkTo(step) } }, step.name), " → "]),
          h("b", {}, this.trail.at(-1).name),
        ),
      h("div", { class: "why-name" }, key),
    ].filter(Boolean);
  }

  body(why) {
    const { app } = this,
      unseen = why.terms.slice(SHOWN),
      terms = why.terms.slice(0, SHOWN),
      rest = (why.rest_count ?? 0) + unseen.length;
    const restSum = unseen.reduce((sum, term) => sum + term.value, why.rest_sum ?? 0),
      most = Math.max(...why.terms.map((term) => Math.abs(term.value)), Math.abs(restSum), 1e-30);
    const bar = (value) => bars([{ name: "", value }], { signed: true, most }).querySelector(".bar"),
      parts = Object.entries(why.parts);
    return [
      h("div", { class: "why-value", data: { value: String(why.value) } }, `= ${number(why.value, 6)}`),
      why.title && h("p", { class: "soft" }, h("b", {}, why.title[app.state.lang]), " ", why.meaning[app.state.lang]),
      why.kind === "weight" && h("p", {}, app.t("weight_cell")),
      why.masked && h("p", {}, app.t(`masked_${why.masked}`)),
      why.mathml && h("div", { class: "formula" }, math(why.mathml)),
      why.numbers && h("div", { class: "formula with-numbers" }, math(why.numbers)),
      parts.length > 0 &&
        h(
          "div",
          { class: "facts" },
          parts.map(([name, value]) =>
            h("span", {}, `${app.t("part_of")[name] ?? name} `, h("b", {}, number(value, 5))),
          ),
        ),
      why.leads.length > 0 &&
        h(
          "div",
          { class: "terms leads" },
          why.leads.map((cell) => h("div", { class: "term-from" }, this.link(cell))),
        ),
      why.terms.length > 0 &&
        h("p", { class: "soft" }, app.t("terms_by_size", why.terms.length + (why.rest_count ?? 0))),
      h(
        "div",
        { class: "terms" },
        terms.map((term) => [
          h(
            "div",
            { class: "term", data: { term: term.value } },
            h("span", { class: "n" }, number(term.value, 4)),
            bar(term.value),
          ),
          h(
            "div",
            { class: "term-from" },
            term.cells.map((cell, i) => this.link(cell, i ? "× " : "")),
          ),
        ]),
        rest > 0 &&
          h(
            "div",
            { class: "term rest", data: { rest: restSum } },
            h("span", { class: "n" }, number(restSum, 4)),
            h("span", {}, app.t("and_smaller", rest)),
          ),
      ),
      why.error !== undefined &&
        h("p", { class: "soft" }, app.t("recomputed", number(why.recomputed, 6), number(why.error, 2))),
    ].filter(Boolean);
  }

  /** A cell as a way to go on; a token of the sentence is where the walk ends. */
  link(cell, before = "") {
    const label = `${number(cell.value, 4)}  ${cellName(cell)}`;
    if (cell.source === "token")
      return h(
        "span",
        { title: this.app.t("token_cell") },
        `${this.app.t(cell.name)} ${cell.value}: “${this.app.token(cell.index[1])}”`,
      );
    return h(
      "button",
      { class: `cell-link ${cell.source}`, on: { click: () => this.walkTo(cell) } },
      before,
      h("span", {}, label),
    );
  }

  pin() {
    if (!this.pinned.some((pin) => pin.key === this.now.key)) this.pinned.push(this.now);
    this.element.querySelector(".pinned")?.replaceWith(this.pins());
  }

  pins() {
    if (!this.pinned.length) return h("div", { class: "pinned", hidden: true });
    const drop = (pin) => (
      (this.pinned = this.pinned.filter((its) => its !== pin)),
      this.element.querySelector(".pinned").replaceWith(this.pins())
    );
    return h(
      "div",
      { class: "pinned" },
      h("b", {}, this.app.t("pinned")),
      h(
        "table",
        {},
        this.pinned.map((pin) =>
          h(
            "tr",
            {},
            h("td", {}, h("button", { class: "trail-pin mono", on: { click: () => this.walkTo(pin) } }, pin.key)),
            h("td", { class: "n" }, number(pin.value, 5)),
            h(
              "td",
              {},
              h("button", { class: "icon", "aria-label": this.app.t("unpin"), on: { click: () => drop(pin) } }, "×"),
            ),
          ),
        ),
      ),
    );
  }
}

function cellName({ name, index }) {
  return `${name}[${index.join(", ")}]`;
}
