// 8. The residual stream: how large it grows, what it would say if the model stopped at each layer, and what each part
// adds to a token.

import { css, ink } from "../colour.js";
import { count, h, number, percent, svg, visible } from "../dom.js";
import { bars, choice, frame, later, posStepper, select, stepFigure, story, thread, trouble } from "../figures.js";

export function render(app) {
  const section = frame(app, "residual", 8);
  section.append(
    story(app, "residual_story", app.model),
    h("div", { class: "controls" }, posStepper(app)),
    thread(app, app.t("thread_end"), { name: `layers.${app.model.layers.length - 1}.resid_post` }),
    later(app, () => norms(app)),
    h("h3", {}, app.t("lens_title")),
    story(app, "lens_story"),
    lens(app),
    h("h3", {}, app.t("attribution_title")),
    story(app, "attribution_story"),
    attribution(app),
    stepFigure(app, (state) => `layers.${state.layer}.resid_post`),
    stepFigure(app, () => "final", { keys: [] }),
  );
  return section;
}

/** The length of the stream's vector after every layer, for each position; the chosen one stands out. */
async function norms(app) {
  const { names, norms } = await app.source.get("norms", { run: app.run.run }),
    wide = 640,
    tall = 180,
    most = Math.log(Math.max(...norms.flat())),
    least = Math.log(Math.min(...norms.flat().filter((n) => n > 0)));
  const x = (i) => (i / (names.length - 1)) * wide,
    y = (n) => tall - ((Math.log(n) - least) / (most - least || 1)) * tall,
    lines = [];
  const picture = svg(
    "svg",
    {
      viewBox: `-52 -10 ${wide + 66} ${tall + 40}`,
      class: "plot broad",
      role: "img",
      "aria-label": app.t("norms_caption"),
    },
    [0, 0.5, 1].map((part) => {
      const value = Math.exp(least + part * (most - least));
      return [
        svg("line", { x1: 0, x2: wide, y1: y(value), y2: y(value), class: "axis" }),
        svg("text", { x: -8, y: y(value) + 4, "text-anchor": "end" }, number(value, 3)),
      ];
    }),
    norms.map(
      (row, pos) =>
        (lines[pos] = svg(
          "polyline",
          {
            points: row.map((n, i) => `${x(i)},${y(n)}`).join(" "),
            fill: "none",
            stroke: "var(--ink-soft)",
            "stroke-width": 1,
            opacity: 0.25,
          },
          svg("title", {}, `${pos} ${app.token(pos)}`),
        )),
    ),
    names.map((name, i) =>
      i % Math.ceil(names.length / 8) === 0 || i === names.length - 1
        ? svg(
            "text",
            { x: x(i), y: tall + 20, "text-anchor": "middle" },
            i ? `${app.t("layer_short")}${i - 1}` : "embed",
          )
        : "",
    ),
  );
  const caption = h("figcaption", {}),
    figure = h("figure", { class: "norms" }, caption, picture);
  app.watch(figure, ["pos"], (state) => {
    lines.forEach(
      (line, pos) => (
        line.setAttribute("stroke", pos === state.pos ? "var(--accent)" : "var(--ink-soft)"),
        line.setAttribute("stroke-width", pos === state.pos ? 2.6 : 1),
        line.setAttribute("opacity", pos === state.pos ? 1 : 0.25)
      ),
    );
    caption.replaceChildren(
      app.t("norms_caption", app.token(state.pos), number(norms[state.pos][0], 3), number(norms[state.pos].at(-1), 3)),
    );
  });
  return figure;
}

/**
 * Logit lens: rows are layers, columns positions; each cell the token that would be said there. For the chosen position,
 * how far that is from the answer.
 */
function lens(app) {
  const element = h("figure", { class: "lens" });
  app.watch(element, ["pos"], async (state) => {
    const length = app.run.tokens.length,
      first = Math.max(0, Math.min(state.pos - 5, length - 8)),
      positions = Array.from({ length: Math.min(8, length) }, (_, i) => first + i);
    const its = await app.source.get("lens", { positions: positions.join(","), run: app.run.run }),
      here = positions.indexOf(state.pos),
      answer = visible(its.chosen[here]);
    const cell = (guess, i, j) =>
      h(
        "td",
        {},
        h(
          "button",
          {
            style: {
              background: css(guess.p, 1, "probability"),
              color: ink(guess.p, 1, "probability"),
              outline: j === here ? "1px solid var(--accent)" : "",
            },
            title: guess.top.map((token) => `${visible(token.text)} ${percent(token.p)}`).join("\n"),
            data: { p: guess.p },
            on: { click: () => app.set({ pos: positions[j], layer: Math.max(0, i - 1) }) },
          },
          visible(guess.top[0].text),
          h("small", { class: "only-numbers", style: { color: "inherit" } }, ` ${percent(guess.p)}`),
        ),
      );
    const beside = (i) => [
      h("td", { class: "n", data: { rank: its.rank[i][here] } }, count(its.rank[i][here])),
      h("td", { class: "n", data: { entropy: its.entropy[i][here] } }, number(its.entropy[i][here] / Math.LN2, 3)),
      h("td", { class: "n", data: { kl: its.kl[i][here] } }, number(its.kl[i][here], 3)),
    ];
    const rows = its.layers
      .map((layer, i) =>
        h(
          "tr",
          {},
          h("th", {}, i ? `${app.t("layer_short")}${i - 1}` : "embed"),
          layer.map((guess, j) => cell(guess, i, j)),
          beside(i),
        ),
      )
      .reverse();
    const head = positions.map((pos) =>
      h(
        "th",
        {},
        h(
          "button",
          { class: `chip${pos === state.pos ? " here" : ""}`, on: { click: () => app.set({ pos }) } },
          app.token(pos),
        ),
      ),
    );
    const named = [app.t("lens_rank", answer), app.t("lens_entropy"), app.t("lens_kl")].map((name) => h("th", {}, name));
    return () =>
      element.replaceChildren(
        h(
          "figcaption",
          {},
          app.t("lens_caption"),
          length > 8 ? ` ${app.t("thread_some", first, first + 7, length)}` : "",
          ` ${app.t("lens_beside", answer)}`,
        ),
        h(
          "div",
          { class: "scroll-x" },
          h("table", { class: "lens-table" }, h("tr", {}, h("th", {}), head, named), rows),
        ),
      );
  });
  return element;
}

/** Direct logit attribution: the chosen token's logit as a sum over what each part wrote. */
function attribution(app) {
  const element = h("figure", { class: "attribution" }),
    head = h("div", { class: "controls" }),
    body = h("div", {});
  let token = null,
    against = null,
    by = "part";
  element.append(head, body);
  const draw = async () => {
    const { pos } = app.state,
      asked = `${pos} ${token} ${against} ${by}`;
    draw.asked = asked;
    try {
      const output = await app.source.get("output", { pos, run: app.run.run }),
        wanted = token ?? output.top[0].id;
      const rival = against === String(wanted) ? null : against,
        its = await app.source.get("attribution", { pos, token: wanted, against: rival, run: app.run.run });
      if (draw.asked !== asked) return;
      head.replaceChildren(
        ...output.top
          .slice(0, 6)
          .map((its) =>
            h(
              "button",
              { "aria-pressed": String(its.id === wanted), on: { click: () => ((token = its.id), draw()) } },
              visible(its.text),
            ),
          ),
        app.source.live
          ? h(
              "label",
              {},
              app.t("against"),
              select(
                [
                  ["", "–"],
                  ...output.top
                    .slice(0, 12)
                    .filter((its) => its.id !== wanted)
                    .map((its) => [String(its.id), visible(its.text)]),
                ],
                rival ?? "",
                (value) => ((against = value || null), draw()),
                app.t("against"),
              ),
            )
          : "",
        choice(
          [
            ["part", app.t("by_part")],
            ["head", app.t("by_head")],
            ["neuron", app.t("by_neuron")],
          ],
          by,
          (value) => ((by = value), draw()),
        ),
      );
      const parts = { part: its.parts, head: its.heads, neuron: its.neurons }[by],
        sorted = [...parts].sort((a, b) => Math.abs(b.value) - Math.abs(a.value)),
        shown = sorted.slice(0, 14),
        rest = sorted.slice(14).reduce((sum, part) => sum + part.value, 0);
      const go = (part) =>
        part.layer === null
          ? null
          : () => (
              app.set({ layer: part.layer, ...(part.head === undefined ? {} : { head: part.head }) }),
              app.go(part.what === "mlp" ? "mlp" : "attention")
            );
      body.replaceChildren(
        h(
          "p",
          {},
          app.t(
            "attribution_said",
            visible(its.text),
            number(its.logit, 4),
            app.token(pos),
            its.against === null ? null : visible(its.against),
          ),
        ),
        bars(
          [
            ...shown.map((part) => ({ name: app.t("part_name", part), value: part.value, on: go(part) })),
            ...(sorted.length > 14 && by !== "neuron"
              ? [{ name: app.t("and_smaller", sorted.length - 14), value: rest }]
              : []),
          ],
          { signed: true },
        ),
        h(
          "p",
          { class: "soft" },
          by !== "part"
            ? app.t(`attribution_${by}s_note`)
            : app.t(
                "attribution_note",
                number(its.total, 5),
                number(its.logit, 5),
                number(Math.abs(its.total - its.logit), 2),
              ),
        ),
      );
    } catch (error) {
      body.replaceChildren(trouble(app, error));
    }
  };
  app.watch(element, ["pos"], () => ((token = against = null), draw()));
  return element;
}
