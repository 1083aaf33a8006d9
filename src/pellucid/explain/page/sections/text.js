// 2. Text → ids: the letters, cut into tokens; how the pieces were joined; special tokens, the chat template, a batch
// as a table.

import { calm, h, visible } from "../dom.js";
import { frame, later, slider, story, thread } from "../figures.js";

export function render(app) {
  const section = frame(app, "text", 2);
  section.append(
    story(app, "text_story", app.model),
    letters(app),
    thread(app, app.t("thread_ids"), { under: (token) => String(token.id) }),
    app.run.tokens.some((token) => token.text.includes("‹")) ? story(app, "bytes_story") : "",
    later(app, async () => details(app, await app.source.get("text", { run: app.run.run }))),
  );
  return section;
}

/** The sentence letter by letter, a line under each token. */
function letters(app) {
  return h(
    "figure",
    {},
    h("figcaption", {}, app.t("letters_caption", [...app.run.text].length, app.run.tokens.length)),
    h(
      "p",
      { class: "spell" },
      app.run.tokens.map((token) => h("span", { title: `id ${token.id}` }, token.text.replaceAll("\n", "↵\n") || "∅")),
    ),
  );
}

function details(app, its) {
  return [
    its.merges ? merges(app, its.merges) : "",
    h("h3", {}, app.t("special_title")),
    story(app, "special_story"),
    specials(its.special.filter((token) => token.role)),
    its.special.some((token) => !token.role)
      ? h(
          "details",
          {},
          h("summary", { class: "soft" }, app.t("special_more", its.special.filter((token) => !token.role).length)),
          specials(its.special.filter((token) => !token.role)),
        )
      : "",
    h("h3", {}, app.t("template_title")),
    its.template
      ? [story(app, "template_story"), template(its.template, its.special)]
      : h("p", { class: "soft" }, app.t("no_template")),
    h("h3", {}, app.t("batch_title")),
    story(app, "batch_story", its.batch.rows.length, its.batch.rows[0]?.length ?? 0),
    batch(its.batch),
  ];
}

function specials(tokens) {
  return h(
    "table",
    {},
    tokens.map((token) =>
      h(
        "tr",
        {},
        h("td", {}, h("span", { class: "piece" }, visible(token.token))),
        h("td", { class: "n" }, String(token.id)),
        h("td", { class: "soft" }, token.role),
      ),
    ),
  );
}

/**
 * One word from letters to tokens, a merge at a time, by a slider. ``words``: [{word, stages: [[piece, …], …], rule:
 * [text, …]}].
 */
function merges(app, words) {
  const stage = h("p", { class: "merge-stage" }),
    rule = h("p", { class: "soft" }),
    knob = h("div", {});
  let word = words.reduce((best, its) => (its.stages.length > best.stages.length ? its : best), words[0]);
  const show = (step) => {
    const before = step ? word.stages[step - 1] : [],
      now = word.stages[step];
    let used = 0;
    stage.replaceChildren(
      ...now.map((piece) => {
        const joined = step && before[used] !== piece;
        used += joined ? 2 : 1;
        return h(
          "span",
          { class: `piece${joined ? " joined" : ""}${joined && !calm() ? " grown" : ""}` },
          visible(piece),
        );
      }),
    );
    rule.replaceChildren(
      step ? app.t("merge_rule", step, word.stages.length - 1, word.rules?.[step - 1]) : app.t("merge_start"),
    );
  };
  const choose = (its) => {
    word = its;
    knob.replaceChildren(
      slider(
        app.t("merge"),
        { min: 0, max: word.stages.length - 1, step: 1, value: 0, say: (v) => `${v} / ${word.stages.length - 1}` },
        show,
      ),
    );
    show(0);
  };
  const element = h(
    "figure",
    { class: "merges" },
    h("h3", {}, app.t("merges_title")),
    story(app, "merges_story"),
    h(
      "div",
      { class: "controls" },
      words.slice(0, 24).map((its) => h("button", { class: "word", on: { click: () => choose(its) } }, visible(its.word))),
    ),
    stage,
    knob,
    rule,
  );
  choose(word);
  return element;
}

function template(its, special) {
  const names = special
      .map((token) => token.token)
      .filter(Boolean)
      .sort((a, b) => b.length - a.length),
    parts = [];
  let rest = its.rendered;
  while (rest) {
    const found = names
      .map((name) => [rest.indexOf(name), name])
      .filter(([at]) => at >= 0)
      .sort((a, b) => a[0] - b[0] || b[1].length - a[1].length)[0];
    if (!found) break;
    parts.push(rest.slice(0, found[0]), h("mark", {}, found[1]));
    rest = rest.slice(found[0] + found[1].length);
  }
  return h("pre", { class: "template" }, parts, rest);
}

function batch(its) {
  return h(
    "div",
    { class: "scroll-x" },
    h(
      "table",
      { class: "batch" },
      its.rows.map((row) =>
        h(
          "tr",
          {},
          row.map((cell) =>
            h(
              "td",
              { class: cell.mask ? "" : "pad", title: cell.mask ? "mask 1" : "mask 0" },
              visible(cell.text),
              h("br"),
              h("small", {}, String(cell.id)),
            ),
          ),
        ),
      ),
    ),
  );
}
