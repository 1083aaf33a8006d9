// A head in words: what it looks at, what that makes likelier, what it does on any text.

import { h, percent, visible } from "../dom.js";
import { later } from "../figures.js";
import { LeftOut } from "../source.js";

/** The answer to "card": of a head, at a position. */
export const cardOf = (app, { layer, head }, pos) => app.source.get("card", { layer, head, pos, run: app.run.run });

const names = (tokens, count = 4) =>
  tokens
    .slice(0, count)
    .map((token) => `“${visible(token.text ?? token)}”`)
    .join(", ");

/** Its sentences, as nodes. */
export async function cardSaid(app, part, pos) {
  const its = await cardOf(app, part, pos),
    [source] = its.sources;
  return [
    h(
      "p",
      { class: "card-said", data: { head: `${its.layer}:${its.head}` } },
      app.t("card_promotes", names(its.promotes), names(its.suppresses)),
      source && source.share > 0.1
        ? ` ${app.t("card_source", app.token(source.position), percent(source.share), names(source.promotes))}`
        : "",
    ),
    Object.keys(its.habits).length
      ? h("p", { class: "soft" }, app.t("card_habit", its.habit, its.habit && percent(its.habits[its.habit])))
      : "",
  ];
}

/** The same in one line, for a tip. */
export async function cardBriefly(app, part, pos) {
  const its = await cardOf(app, part, pos),
    [source] = its.sources;
  return app.t("card_brief", source ? app.token(source.position) : "", names(its.promotes, 3));
}

/** A place that holds the card, or says nothing where there is none: a mixer that does not attend. */
export function card(app, part, pos) {
  if (!app.model.layers[part.layer].compared.q) return "";
  const said = () =>
    cardSaid(app, part, pos).catch((error) => {
      if (error instanceof LeftOut) return []; // a file has the cards of the heads that matter most
      throw error;
    });
  return later(app, said, "card");
}
