// The opening: a fact of the sentence travels to the answer. Two sentences that differ in a word, and for each layer and
// token how much of the answer comes back with that one vector.

import { h, percent, visible } from "../dom.js";
import { frame, story, trouble } from "../figures.js";
import { Matrix } from "../matrix.js";
import { card } from "./card.js";
import { contrastForm, inGroups, partLink, signed } from "./contrast.js";

const GROUPS = 5;

export function render(app) {
  const section = frame(app, "fact", ""),
    body = h("div", { class: "fact-body" }),
    other = h("input", {
      type: "text",
      maxlength: 2000,
      value: app.state.other,
      placeholder: app.t("fact_placeholder"),
      "aria-label": app.t("fact_placeholder"),
      spellcheck: "false",
      data: { fact: "other" },
    });
  section.append(story(app, "fact_story"));
  if (app.run.tokens.length < 2) {
    section.append(h("p", { class: "placeholder" }, app.t("fact_short")));
    return section;
  }
  const submit = (event) => (event.preventDefault(), app.set({ other: other.value }));
  section.append(
    h(
      "form",
      { class: "fact-form", on: { submit } },
      h("label", {}, app.t("fact_other"), other),
      h("button", {}, app.t("compare")),
    ),
    contrastForm(app),
    body,
  );
  app.watch(body, ["other", "a", "b"], async (state, current) => {
    other.value = state.other;
    const { run } = app.run,
      ask = { run, text: state.other, a: state.a, b: state.b },
      pair = app.source.live ? await app.source.remember(JSON.stringify(["pair", ask]), () => app.source.post("pair", ask)) : await app.source.get("pair", {});
    return () => (pair ? place(app, body, pair, current) : body.replaceChildren(h("p", { class: "placeholder" }, app.t("fact_none"))));
  });
  return section;
}

function place(app, body, pair, current) {
  const { source_answers: ours, target_answers: theirs, first } = pair,
    layers = app.model.layers.length,
    last = ours.position,
    rows = layers + 1,
    cols = last + 1 - first,
    values = new Float32Array(rows * cols).fill(NaN),
    asked = { run: app.run.run, target: pair.target, pos: last, a: ours.a.id, b: ours.b.id, first };
  const token = (j) => app.token(first + j),
    name = (i) => (i ? `${app.t("layer_short")}${layers - i}` : app.t("at_the_end"));
  const matrix = new Matrix(app, { name: "fact", values, rows, cols }, {
    limit: 1,
    rowHeight: layers > 40 ? 11 : 15,
    rowLabel: name,
    colLabel: token,
    say: (value) => (Number.isNaN(value) ? "·" : `${Math.round(100 * value) || 0} %`.replace("-", "−")),
    title: (i, j) => app.t("fact_cell", i ? layers - i : null, token(j)),
    onPick: ([i, j]) => moved(layers - i, first + j),
  });
  const progress = h("p", { class: "soft", role: "status" }),
    said = h("p", { class: "fact-said" }),
    mover = h("div", { class: "fact-mover" });
  const line = (tokens, answers, mine) =>
    h(
      "div",
      { class: "pair-line" },
      tokens.map((text, i) => h("span", { class: `chip${pair.differ.includes(i) ? " here" : ""}` }, visible(text))),
      h("span", { class: "pair-answer" }, "→ ", h("b", {}, visible(mine.text)), ` ${percent(mine.p)}`),
    );
  body.replaceChildren(
    line(app.run.tokens.map((its) => its.text), ours, ours.a),
    line(pair.tokens.map((its) => its.text), theirs, theirs.b),
    h(
      "p",
      {},
      app.t("fact_gaps", {
        a: visible(ours.a.text),
        b: visible(ours.b.text),
        ours: signed(ours.gap, 4),
        theirs: signed(theirs.gap, 4),
        proposed: pair.proposed,
      }),
    ),
    h(
      "figure",
      { data: { fact: "map" } },
      h("figcaption", {}, h("b", {}, app.t("fact_map")), h("span", {}, app.t("fact_map_says", visible(ours.a.text), first ? app.token(first - 1) : null))),
      matrix.element,
    ),
    progress,
    said,
    mover,
  );
  const share = (row, position) => values[(layers - row) * cols + position - first];
  const fill = async () => {
    const done = await inGroups(rows, GROUPS, {
      current: () => current() && body.isConnected,
      ask: (start, stop) => {
        progress.replaceChildren(app.t("fact_running", Math.min(stop, layers) - 1));
        return app.source.get("patch", { ...asked, rows: `${start}:${stop}` });
      },
      take: (its) => {
        for (const [row, shares] of Object.entries(its.rows))
          shares.slice(first).forEach((value, j) => (values[(layers - row) * cols + j] = value));
        matrix.show({ name: "fact", values, rows, cols });
      },
      wait: (left, go) =>
        progress.replaceChildren(
          h("button", { class: "primary", data: { run: "fact" }, on: { click: go } }, app.t("run_for", Math.round(left))),
        ),
    });
    if (!done) return;
    progress.replaceChildren(app.t("fact_done", layers * cols));
    said.replaceChildren(...journey(app, share, layers, first, last));
    const [layer, at] = jump(share, layers, first, last);
    if (layer !== null) moved(layer + 1, at);
  };
  /** What brought a share to a token: the layer below the cell, its heads and its MLP each taken by itself. */
  const moved = async (row, at) => {
    const layer = Math.max(0, row - 1);
    mover.dataset.at = `${layer},${at}`;
    mover.replaceChildren(h("p", { class: "soft" }, app.t("running")));
    try {
      const its = await app.source.get("movers", { ...asked, layer, token: at });
      if (!current() || mover.dataset.at !== `${layer},${at}`) return;
      const best = its.parts.slice(0, 3);
      mover.replaceChildren(
        h("h3", {}, app.t("mover_title", layer, app.token(at))),
        h(
          "ul",
          { class: "movers" },
          best.map((part) =>
            h("li", { data: { share: part.share } }, partLink(app, part), ` ${app.t("mover_brought", percent(Math.max(0, part.share)))}`),
          ),
        ),
        its.looks.length && best.some((part) => part.head !== null)
          ? h(
              "p",
              {},
              app.t("mover_looks", {
                head: best.find((part) => part.head !== null).head,
                from: app.token(at),
                at: its.looks.map(({ token: i, p }) => `“${app.token(i)}” ${percent(p)}`).join(", "),
              }),
            )
          : "",
        best[0]?.head != null ? card(app, best[0], at) : "",
      );
    } catch (error) {
      mover.replaceChildren(trouble(app, error));
    }
  };
  fill().catch((error) => current() && progress.replaceChildren(trouble(app, error)));
}

/** The path in words: the tokens that hold most of it, from the bottom up. */
function journey(app, share, layers, first, last) {
  const stops = [];
  for (let row = 0; row <= layers; row++) {
    let best = first;
    for (let at = first; at <= last; at++) if (share(row, at) > share(row, best)) best = at;
    if (stops.at(-1)?.at === best) stops.at(-1).to = row;
    else stops.push({ at: best, from: row, to: row });
  }
  return [app.t("journey", stops.map(({ at, from, to }) => ({ token: app.token(at), from, to: Math.min(to, layers), share: percent(Math.max(0, share(from, at))) })), layers)];
}

/** The layer in which a token other than the changed one gains the most. */
function jump(share, layers, first, last) {
  let best = [null, last, 0.02];
  for (let row = 0; row < layers; row++)
    for (let at = first + 1; at <= last; at++) {
      const gain = share(row + 1, at) - share(row, at);
      if (gain > best[2]) best = [row, at, gain];
    }
  return best;
}
