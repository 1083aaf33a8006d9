// The two answers that causes are asked about: typed by the reader, any token of the vocabulary; and the words and links
// that every picture of causes shares.

import { h, number, percent, visible } from "../dom.js";
import { cardBriefly } from "./card.js";

/** Two fields, "why this and not that?"; empty ones stand for the likeliest answers. */
export function contrastForm(app) {
  const field = (key) =>
    h("input", {
      type: "text",
      class: "answer-field",
      maxlength: 60,
      value: app.state[key],
      placeholder: app.t("answer_likeliest"),
      "aria-label": app.t(`answer_${key}`),
      spellcheck: "false",
      autocapitalize: "off",
      data: { answer: key },
      on: { change: () => app.set({ [key]: fields[key].value }) },
    });
  const fields = { a: field("a"), b: field("b") };
  const submit = (event) => (event.preventDefault(), app.set({ a: fields.a.value, b: fields.b.value }));
  const form = h(
    "form",
    { class: "contrast", on: { submit } },
    h("label", {}, app.t("contrast_why"), fields.a),
    h("label", {}, app.t("contrast_not"), fields.b),
    h("button", {}, app.t("ask")),
  );
  app.watch(form, ["a", "b"], ({ a, b }) => {
    fields.a.value = a;
    fields.b.value = b;
  });
  return form;
}

/** “ are” (34 %, rank 1) */
export const answerSaid = (app, { text, p, rank }) => app.t("answer_said", visible(text), percent(p), rank);

/** A number with its sign. */
export const signed = (value, figures = 3) => `${value > 0 ? "+" : ""}${number(value, figures)}`;

/** What a part is called: layer 26, head 0. */
export const partName = (app, { layer, what, head, path }) =>
  app.t("part_name", head === null ? { layer, what, path } : { layer, what, head });

/** Its name as a link to its own pictures, and to what it did to this answer. */
export function partLink(app, part) {
  const go = () => {
    app.set({ layer: part.layer, ...(part.head === null ? {} : { head: part.head }) });
    app.go(part.what === "mlp" ? "mlp" : "attention");
  };
  const link = h("button", { class: "part-link", data: { part: partKey(part) } }, partName(app, part));
  const tell = () =>
    part.head === null || link.title
      ? null
      : cardBriefly(app, part, app.state.pos).then((said) => (link.title = said), () => {}); // none: a mixer's head
  for (const [event, listener] of [["click", go], ["pointerenter", tell], ["focus", tell]])
    link.addEventListener(event, listener);
  return link;
}

export const partKey = ({ path, head }) => (head === null ? path : `${path}:${head}`);

const PATIENCE = 90; // seconds that are spent unasked

/**
 * Asks for rows 0 to ``count`` of a map in a few groups, the last rows first (theirs is the shortest way through the
 * model), and hands on each answer. When the second one shows that the rest takes long, ``wait`` gets the seconds and a
 * function that goes on. Ends early once ``current`` says that nobody is waiting any more; answers whether it got there.
 */
export async function inGroups(count, groups, { ask, take, wait, current }) {
  const step = Math.max(1, Math.ceil(count / groups));
  for (let stop = count; stop > 0; stop -= step) {
    const start = Math.max(0, stop - step),
      began = performance.now(),
      answer = await ask(start, stop);
    if (!current()) return false;
    take(answer);
    // The second group has three times the work of the first, the third five times, …
    const left = (((performance.now() - began) / 1000) * ((count / step) ** 2 - 4)) / 3;
    if (stop === count - step && start > 0 && left > PATIENCE) await new Promise((go) => wait(left, go));
  }
  return current();
}
