// Why a token: the run up to it once more, every number recorded, and two pictures of it; the rest are on the explain
// page, which opens on the same run.

import { h, number, visible } from "./explain/dom.js";
import { explain, look } from "./api.js";
import { sign } from "./buttons.js";
import { face, share } from "./sure.js";

const SHOWN = 8; // parts that are named

export class Why {
  constructor(app) {
    this.app = app;
    this.kept = new Map(); // "node index" → what was seen
  }

  draw(node, index) {
    const { app } = this,
      place = h("section", { class: "why" }),
      key = `${node.id} ${index}`;
    if (!node.promptIds.length) return "";
    if (this.kept.has(key)) this.fill(place, node.tokens[index], this.kept.get(key));
    else
      place.append(
        h(
          "button",
          { type: "button", class: "primary", id: "why", on: { click: () => this.ask(place, node, index) } },
          app.t("why"),
        ),
        h("p", { class: "soft" }, app.t("why_hint")),
      );
    return place;
  }

  async ask(place, node, index) {
    const { app } = this,
      token = node.tokens[index];
    place.replaceChildren(h("p", { class: "waiting" }, app.t("why_busy")));
    try {
      const ids = [...node.promptIds, ...node.tokens.slice(0, index).map((one) => one.id)];
      const opened = await explain({ model: node.model, token_ids: ids }, app.settings.key);
      const pos = opened.position;
      const against = token.top.find((one) => one.id !== token.id);
      const [output, lens, parts] = await Promise.all([
        look(opened.url, `output?pos=${pos}`),
        look(opened.url, `lens?positions=${pos}&token=${token.id}`),
        look(opened.url, `attribution?pos=${pos}&token=${token.id}${against ? `&against=${against.id}` : ""}`),
      ]);
      const seen = { ...opened, output, lens, parts };
      this.kept.set(`${node.id} ${index}`, seen);
      this.fill(place, token, seen);
    } catch (error) {
      place.replaceChildren(h("p", { class: "bad" }, app.told(error)));
    }
  }

  fill(place, token, seen) {
    const { app } = this;
    const same = seen.output.top.find((one) => one.id === token.id);
    place.replaceChildren(
      h(
        "p",
        { class: "soft", data: { p: same?.p } },
        same ? `${app.t("why_same", share(same.p))} ` : "",
        app.t("why_numbers")[seen.executor] ?? "",
      ),
      this.layers(token, seen),
      this.pushes(token, seen.parts),
      this.hungOn(token, seen),
      h(
        "a",
        {
          class: "button",
          id: "all-pictures",
          href: `${seen.url}#at=output&pos=${seen.position}`,
          target: "_blank",
          rel: "noopener",
        },
        app.t("why_all"),
        sign("out"),
      ),
      h("p", { class: "soft" }, `${app.t("why_all_hint")}. ${app.t("why_kept", seen.kept)}`),
    );
  }

  /** The lens: after each layer, the likeliest token, and how likely ours is. */
  layers(token, { lens }) {
    const { app } = this;
    const rows = lens.layers.map(([cell], i) => {
      const best = cell.top[0],
        ours = cell.followed;
      return h(
        "li",
        { class: best.id === token.id ? "ours" : null },
        h("span", { class: "n" }, i === 0 ? "" : String(i - 1)),
        h("span", { class: "word" }, visible(best.text)),
        h("span", { class: "track" }, h("span", { class: "bar", style: { width: `${100 * ours}%` } })),
        h("span", { class: "p" }, ours < 0.001 ? "< 0.1 %" : share(ours)),
      );
    });
    return h(
      "figure",
      { class: "layers" },
      h(
        "figcaption",
        {},
        h("h2", {}, app.t("why_layers")),
        h("p", { class: "soft" }, app.t("why_layers_hint", face(token))),
      ),
      h("ol", {}, rows.reverse()),
    );
  }

  /** Which tokens before it the prediction hung on: asked for by a press, since it runs the model once for each. */
  hungOn(token, seen) {
    const { app } = this,
      figure = h("figure", { class: "hung" });
    const fill = (told) =>
      figure.replaceChildren(
        h(
          "figcaption",
          {},
          h("h2", {}, app.t("why_hung")),
          h("p", { class: "soft" }, app.t("why_hung_hint", face(token))),
        ),
        h(
          "p",
          { class: "flow" },
          told.tokens.map((one) => this.hidden(one, told)),
        ),
        told.first ? h("p", { class: "soft" }, app.t("why_hung_first", told.tokens.length)) : "",
        seen.executor === "native"
          ? h("p", { class: "soft" }, app.t("why_hung_torch", share(Math.exp(told.logprob))))
          : "",
        hangings(app, told),
      );
    const run = async () => {
      figure.replaceChildren(h("p", { class: "waiting" }, app.t("why_hung_busy")));
      try {
        fill((seen.hung ??= await look(seen.url, `hung_on?pos=${seen.position}&token=${token.id}`)));
      } catch (error) {
        figure.replaceChildren(h("p", { class: "bad" }, app.told(error)));
      }
    };
    if (seen.hung) fill(seen.hung);
    else figure.append(h("button", { type: "button", id: "hung-on", on: { click: run } }, app.t("why_hung_ask")));
    return figure;
  }

  /** One token before, as strongly coloured as the prediction hung on it. */
  hidden(one, told) {
    const without = share(Math.exp(one.logprob)),
      step = Math.min(4, Math.round(1.6 * Math.abs(told.logprob - one.logprob)));
    const side = told.logprob >= one.logprob ? "plus" : "minus";
    const shown = one.text.includes("\n") ? [visible(one.text), h("br")] : one.text;
    return h(
      "span",
      { class: `${side}${step}`, title: this.app.t("why_without", without), data: { pos: one.pos } },
      shown,
    );
  }

  /** The parts of the score, largest first. */
  pushes(token, told) {
    const { app } = this;
    const parts = [...told.parts].sort((a, b) => Math.abs(b.value) - Math.abs(a.value)),
      shown = parts.slice(0, SHOWN),
      rest = parts.slice(SHOWN),
      sum = rest.reduce((total, part) => total + part.value, 0),
      most = Math.max(Math.abs(shown[0]?.value ?? 0), Math.abs(sum)) || 1;
    const name = (part) => {
      const entry = app.t(`why_${part.what}`, part.layer ?? "");
      return entry.startsWith("why_") ? `${part.what} ${part.layer ?? ""}` : entry;
    };
    const row = (label, value) =>
      h(
        "li",
        {},
        h("span", { class: "word" }, label),
        h(
          "span",
          { class: "track" },
          h("span", {
            class: `bar ${value < 0 ? "minus" : "plus"}`,
            style: { width: `${(50 * Math.abs(value)) / most}%` },
          }),
        ),
        h("span", { class: "p" }, `${value > 0 ? "+" : ""}${number(value, 3)}`),
      );
    const title =
      told.against === null
        ? app.t("why_part", visible(told.text))
        : app.t("why_parts", visible(told.text), visible(told.against));
    return h(
      "figure",
      { class: "pushes" },
      h("figcaption", {}, h("h2", {}, title), h("p", { class: "soft" }, app.t("why_parts_hint"))),
      h(
        "ol",
        {},
        shown.map((part) => row(name(part), part.value)),
        rest.length ? row(app.t("why_rest", rest.length), sum) : null,
        h(
          "li",
          { class: "total" },
          h("span", {}, app.t("why_total")),
          h("span"),
          h("span", { class: "p" }, number(told.total, 3)),
        ),
      ),
      ratio(app, token, told),
    );
  }
}

/** What a difference of scores means: so many times as likely; nothing, where a cap behind the scores makes it untrue. */
function ratio(app, token, told) {
  const other = token.top.find((one) => told.against !== null && one.id !== token.id);
  if (!other || Math.abs(token.logprob - other.logprob - told.total) > 0.02) return null;
  const [first, second] = told.total >= 0 ? [told.text, told.against] : [told.against, told.text];
  const times = number(Math.exp(Math.abs(told.total)), 2);
  return h("p", { class: "soft" }, app.t("why_ratio", visible(first), visible(second), times));
}

/** The tokens that mattered most, in words. */
function hangings(app, told) {
  const most = [...told.tokens].sort((a, b) => Math.abs(b.logprob - told.logprob) - Math.abs(a.logprob - told.logprob));
  return h(
    "ul",
    { class: "hangings" },
    most
      .slice(0, 4)
      .map((one) =>
        h(
          "li",
          {},
          h("span", { class: "word" }, visible(one.text)),
          h("span", {}, `${share(Math.exp(told.logprob))} → ${share(Math.exp(one.logprob))}`),
        ),
      ),
  );
}
