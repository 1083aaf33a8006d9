// One token of an answer: how sure the model was, what else could have stood there, how it would have gone on from
// there, and why.

import { count, h } from "./explain/dom.js";
import { tokenize } from "./api.js";
import { button, sign } from "./buttons.js";
import { face, share } from "./sure.js";
import { Why } from "./why.js";

export class Panel {
  constructor(app, element) {
    this.app = app;
    this.element = element;
    this.why = new Why(app);
  }

  draw() {
    const { app, element } = this,
      { opened } = app;
    document.body.classList.toggle("panel-open", Boolean(opened));
    element.hidden = !opened;
    if (!opened) return element.replaceChildren();
    const { node, index } = opened,
      token = node.tokens[index];
    element.setAttribute("aria-label", app.t("token"));
    element.replaceChildren(
      h(
        "div",
        { class: "panel-head row" },
        button("left", app.t("before_token"), () => this.step(-1), { disabled: index === 0 }),
        h("span", { class: "soft" }, app.t("token_of", index + 1, node.tokens.length)),
        button("right", app.t("after_token"), () => this.step(1), { disabled: index === node.tokens.length - 1 }),
        h("span", { class: "gap" }),
        button("close", app.t("close"), () => app.look(null)),
      ),
      h("p", { class: "token-name" }, h("span", { class: "chip" }, face(token)), h("small", {}, `id ${token.id}`)),
      h("p", { class: "verdict" }, this.verdict(token)),
      token.top.length ? this.alternatives(node, index, token) : "",
      token.top.length || token.yours ? "" : h("p", { class: "soft" }, app.t("no_alternatives")),
      node.promptIds.length ? this.ownWords(node, index) : "",
      this.why.draw(node, index),
    );
    element.scrollTop = 0;
  }

  step(by) {
    const { node, index } = this.app.opened,
      next = index + by;
    if (next >= 0 && next < node.tokens.length) this.app.look(node, next);
  }

  /** How the token came to stand here, in a sentence. */
  verdict(token) {
    const { app } = this;
    if (token.logprob == null) return token.yours ? app.t("chosen_hand") : "";
    const p = share(Math.exp(token.logprob)),
      rank = token.top.findIndex((one) => one.id === token.id) + 1;
    if (token.yours) return app.t("chosen_you", p);
    if (rank === 1) return app.t("chosen_first", p);
    return rank ? app.t("chosen_rank", p, rank) : token.top.length ? app.t("chosen_far", p, token.top.length) : p;
  }

  alternatives(node, index, token) {
    const { app } = this;
    const all = token.top.some((one) => one.id === token.id) ? token.top : [...token.top, token];
    const most = Math.exp(all[0].logprob);
    const rest = 1 - all.reduce((sum, one) => sum + Math.exp(one.logprob ?? -Infinity), 0);
    const vocabulary = app.model?.meta?.n_vocab;
    return h(
      "section",
      {},
      h("h2", {}, app.t("could")),
      h(
        "ul",
        { class: "could" },
        all.map((one) => this.row(node, index, one, one.id === token.id, most)),
        h(
          "li",
          { class: "rest" },
          h("span", {}, vocabulary ? app.t("others", count(vocabulary - all.length)) : app.t("all_others")),
          h("span", { class: "p" }, share(Math.max(0, rest))),
        ),
      ),
      h("p", { class: "soft" }, app.t("could_hint")),
    );
  }

  row(node, index, one, here, most) {
    const { app } = this,
      p = Math.exp(one.logprob ?? -Infinity),
      ends = (app.model?.meta?.stop_token_ids ?? []).includes(one.id);
    const label = here ? app.t("is_here") : app.t("go_on_with", face(one));
    const bar = h("span", { class: "bar", style: { width: `${(100 * p) / most}%` } });
    return h(
      "li",
      {},
      h(
        "button",
        {
          type: "button",
          class: here ? "here" : null,
          disabled: here || Boolean(app.growing),
          title: label,
          data: { id: one.id, logprob: one.logprob },
          on: { click: () => app.branch(node, index, one) },
        },
        bar,
        h("span", { class: "word" }, face(one)),
        ends ? h("small", {}, app.t("ends_here")) : null,
        h("span", { class: "p" }, share(p)),
        here ? sign("done") : sign("branch"),
      ),
    );
  }

  /** Words that the model did not think of: they become tokens, of which the first stands here. */
  ownWords(node, index) {
    const { app } = this;
    const space = /^ /.test(node.tokens[index].text) ? " " : ""; // a word begins with its space
    const field = h("input", { type: "text", "aria-label": app.t("own_words"), value: space });
    const go = async (event) => {
      event.preventDefault();
      if (!field.value.trim() || app.growing) return;
      try {
        const tokens = await tokenize(app.model.id, field.value, app.settings.key);
        app.branch(node, index, ...tokens.map((token) => ({ ...token, logprob: null })));
      } catch (error) {
        app.say(app.told(error));
      }
    };
    return h(
      "form",
      { class: "own", on: { submit: go } },
      h("p", {}, app.t("own_words")),
      h("div", { class: "row" }, field, h("button", { type: "submit" }, app.t("go_on"))),
    );
  }
}
