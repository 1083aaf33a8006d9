// What the scrubber moves: the same text through the model as it was, from random numbers to now. Attention,
// embeddings, positions, guesses.

import { css, ink } from "../colour.js";
import { calm, count, h, number, percent, svg, visible } from "../dom.js";
import { picture, trouble } from "../figures.js";
import { Matrix } from "../matrix.js";

export function snapshots(app, info) {
  const own = { at: 0, layer: 0, head: 0, steps: [], playing: null },
    about = () => info.about,
    text = () => about()?.text ?? [];
  const range = h("input", { type: "range", min: 0, max: 0, step: 1, value: 0, "aria-label": app.t("scrubber") }),
    output = h("output", {}),
    play = h("button", { class: "icon", "aria-label": app.t("play"), title: app.t("play") }, "▶");
  const ticks = h("div", { class: "scrub-ticks", "aria-hidden": "true" }),
    scrubber = h("div", { class: "scrubber" }, play, h("div", {}, range, ticks), output);
  const parts = [
      guesses(app, info, own),
      attention(app, info, own),
      distances(app, info, own),
      embedding(app, info, own),
      positions(app, info, own),
    ],
    hole = h("p", { class: "placeholder" }, app.t("not_yet_recorded"));
  let asked = 0;
  const draw = async () => {
    const step = own.steps[own.at],
      mine = ++asked;
    if (step === undefined) return;
    range.value = own.at;
    range.setAttribute("aria-valuetext", app.t("at_step", count(step)));
    try {
      const its = await app.source.get(`training/snapshot/${step}`);
      if (mine !== asked) return;
      const mean = its.nll.reduce((sum, nats) => sum + nats, 0) / Math.max(1, its.nll.length);
      output.replaceChildren(
        h("b", { data: { snapshot: step } }, app.t("at_step", count(step))),
        h("small", {}, app.t("snapshot_loss", number(mean, 3))),
      );
      for (const part of parts) await part.show(step, its, () => mine === asked);
    } catch (error) {
      if (mine === asked) hole.replaceWith(trouble(app, error));
    }
  };
  const stop = () => (clearInterval(own.playing), (own.playing = null), play.replaceChildren("▶"));
  range.addEventListener("input", () => (stop(), (own.at = +range.value), draw()));
  play.addEventListener("click", () => {
    if (own.playing) return stop();
    play.replaceChildren("❚❚");
    if (own.at === own.steps.length - 1) own.at = -1;
    own.playing = setInterval(
      () => (own.at < own.steps.length - 1 && play.isConnected ? (own.at++, draw()) : stop()),
      calm() ? 1000 : 650,
    );
  });
  own.draw = draw;
  return {
    nodes: [
      h("h3", {}, app.t("snapshots_title")),
      h("div", { class: "story" }, h("p", {}, app.t("snapshots_story"))),
      scrubber,
      hole,
      ...parts.map((part) => part.node),
    ],
    wants: (state, before) => String(state.snapshots) !== String(before.snapshots ?? ""),
    show: async (state) => {
      const following = own.at >= own.steps.length - 1;
      if (!info.about) info.about = (await app.source.fetchJson("training", {})).about;
      own.steps = info.about ? state.snapshots : [];
      hole.hidden = own.steps.length > 0;
      scrubber.hidden = !own.steps.length;
      for (const part of parts) part.node.hidden = !own.steps.length;
      if (!own.steps.length) return;
      own.layer = Math.min(own.layer, about().model.num_heads.length - 1);
      if (following) own.at = own.steps.length - 1;
      range.max = own.steps.length - 1;
      ticks.replaceChildren(
        ...own.steps.map((step, i) =>
          h(
            "span",
            {},
            i === 0 ||
              i === own.steps.length - 1 ||
              (i % Math.ceil(own.steps.length / 7) === 0 && i < own.steps.length - 2)
              ? String(step)
              : "",
          ),
        ),
      );
      for (const part of parts) await part.begin?.(text());
      await draw();
    },
  };
}

/** The text itself, each token by how likely the model held it, with what it would have said. */
function guesses(app, info, own) {
  const chips = h("div", { class: "guesses" }),
    said = h("output", { class: "said", "aria-live": "polite" });
  let its = null,
    here = 1;
  const tell = (i) => {
    here = i;
    if (!its?.next[i - 1]) return;
    said.replaceChildren(
      app.t("guess_said", {
        text: visible(info.about.text[i].text),
        p: percent(Math.exp(-its.nll[i - 1])),
        top: its.next[i - 1].map((guess) => `${visible(name(guess.id))} ${percent(guess.p)}`).join(", "),
      }),
    );
  };
  const names = new Map(),
    name = (id) => names.get(id) ?? `#${id}`;
  return {
    node: picture(app, info, "guesses", "next", chips, said),
    begin: () => [...info.about.text, ...info.about.tokens].forEach((token) => names.set(token.id, token.text)),
    show: (_, snapshot) => {
      its = snapshot;
      chips.replaceChildren(
        ...info.about.text.map((token, i) => {
          const p = i ? Math.exp(-its.nll[i - 1]) : null,
            guess = i ? its.next[i - 1][0] : null;
          return h(
            "button",
            {
              class: "guess",
              data: { p: p ?? "" },
              style: i ? { background: css(p, 1, "probability"), color: ink(p, 1, "probability") } : {},
              on: { focus: () => i && tell(i), pointerenter: () => i && tell(i) },
            },
            visible(token.text),
            h("small", {}, guess ? visible(name(guess.id)) : ""),
          );
        }),
      );
      tell(here);
    },
  };
}

/** All heads of a layer as small maps, the chosen one large. */
function attention(app, info, own) {
  const grid = h("div", { class: "heads" }),
    large = h("div", { class: "large-map" }),
    output = h("output", { "aria-live": "polite" });
  const layers = () => info.about.model.num_heads.length,
    move = (by) => (
      (own.layer = (own.layer + by + layers()) % layers()),
      (maps = []),
      grid.replaceChildren(),
      own.draw()
    );
  const stepper = h(
    "span",
    { class: "stepper" },
    h("button", { "aria-label": `${app.t("layer")} −1`, on: { click: () => move(-1) } }, "‹"),
    output,
    h("button", { "aria-label": `${app.t("layer")} +1`, on: { click: () => move(1) } }, "›"),
  );
  let maps = [],
    big = null;
  const label = (i) => visible(info.about.text[i]?.text ?? "");
  return {
    node: picture(
      app,
      info,
      "heads_then",
      "attention",
      h("div", { class: "controls" }, stepper),
      h("div", { class: "attention-then" }, grid, large),
    ),
    show: async (step, its, current) => {
      const found = its.attention.find((layer) => layer.layer === own.layer);
      output.replaceChildren(app.t("of", app.t("layer"), own.layer, layers()));
      if (!found) return grid.replaceChildren(h("p", { class: "soft" }, app.t("left_out_here")));
      own.head = Math.min(own.head, found.heads - 1);
      const { data } = await app.source.tile(`training.attention.${step}.${own.layer}`),
        size = found.size,
        values = (head) => data.slice(head * size * size, (head + 1) * size * size);
      if (!current()) return;
      const tensor = (head) => ({
        name: app.t("part_name", { what: "attention", layer: own.layer, head }),
        values: values(head),
        rows: size,
        cols: size,
      });
      if (maps.length !== found.heads) {
        maps = Array.from({ length: found.heads }, (_, head) => ({
          map: new Matrix(app, tensor(head), { small: true, square: true, scale: "probability", limit: 1 }),
          head,
        }));
        for (const its of maps)
          its.button = h(
            "button",
            {
              "aria-pressed": "false",
              data: { head: its.head },
              on: { click: () => ((own.head = its.head), own.draw()) },
            },
            its.map.element,
            `${app.t("head")} ${its.head}`,
          );
        grid.style.setProperty("--columns", Math.min(5, Math.ceil(Math.sqrt(found.heads))));
        grid.replaceChildren(...maps.map((its) => its.button));
      } else maps.forEach((its) => its.map.show(tensor(its.head)));
      maps.forEach((its) => its.button.setAttribute("aria-pressed", String(its.head === own.head)));
      if (big) big.show(tensor(own.head));
      else
        large.replaceChildren(
          (big = new Matrix(app, tensor(own.head), {
            square: true,
            scale: "probability",
            limit: 1,
            rowLabel: (i) => label(i),
            colLabel: (j) => label(j),
          })).element,
        );
    },
  };
}

/** Every head of every layer in a row: how much it gives, on average, to the token so far back. */
function distances(app, info, own) {
  const place = h("div", {});
  let map = null;
  return {
    node: picture(app, info, "distance", "distance", place),
    show: (_, its) => {
      const rows = its.distance.flatMap((heads, i) =>
          heads.map((values, head) => ({ values, layer: its.attention[i].layer, head })),
        ),
        cols = Math.max(0, ...rows.map((row) => row.values.length));
      if (!cols) return place.replaceChildren(h("p", { class: "soft" }, app.t("left_out_here")));
      const tensor = {
        name: app.t("distance_name"),
        values: Float32Array.from(rows.flatMap((row) => row.values)),
        rows: rows.length,
        cols,
      };
      if (map) return map.show(tensor);
      place.replaceChildren(
        (map = new Matrix(app, tensor, {
          scale: "probability",
          limit: 1,
          rowLabel: (i) => `${rows[i].layer}·${rows[i].head}`,
          title: (i, j) => app.t("distance_said", { ...rows[i], back: j }),
          say: (value) => percent(value),
          rowHeight: Math.max(4, Math.min(16, 320 / rows.length)),
          onPick: ([i]) => ((own.layer = rows[i].layer), (own.head = rows[i].head), own.draw()),
        })).element,
      );
    },
  };
}

const KINDS = [
  ["vowel", /^[␣ ▁]?[aeiouAEIOU]$/u],
  ["han", /\p{Script=Han}/u],
  ["upper", /\p{Lu}/u],
  ["lower", /\p{Ll}/u],
  ["digit", /\p{N}/u],
];
const kindOf = (text) =>
  /^[a-z]$/.test(text) && "aeiou".includes(text)
    ? "vowel"
    : (KINDS.slice(1).find(([, pattern]) => pattern.test(text))?.[0] ?? "mark");

/** Tokens where their embeddings lie, always seen from the same side, so that they move as training moves them. */
function embedding(app, info, own) {
  const TALL = 460,
    picture_ = svg("svg", {
      class: "scatter",
      height: TALL,
      role: "application",
      tabindex: 0,
      "aria-label": app.t("embedding_name"),
    }),
    said = h("output", { class: "said", "aria-live": "polite" }),
    keys = h("div", { class: "swatches" }),
    share = h("span", {});
  let data = null,
    nodes = [],
    here = 0,
    now = null,
    index = -1;
  const tokens = () => info.about.tokens;
  const tell = (i) => {
    nodes[here]?.classList.remove("here");
    here = i;
    nodes[i]?.classList.add("here");
    if (now && nodes[i])
      said.replaceChildren(
        app.t("embedding_said", {
          text: visible(tokens()[i].text),
          near: (now.near[i] ?? []).map((other) => visible(tokens()[other].text)).join("  "),
        }),
      );
  };
  const place = () => {
    const wide = frame.clientWidth,
      points = data?.points[index];
    if (!points || wide < 80) return;
    picture_.setAttribute("width", wide);
    const scale = Math.min(wide - 50, TALL - 40) / 2 / data.reach;
    nodes.forEach((node, i) =>
      node.style.setProperty(
        "transform",
        `translate(${(wide / 2 + points[i][0] * scale * Math.min(1.7, (wide - 50) / (TALL - 40))).toFixed(1)}px, ` +
        `${(TALL / 2 - points[i][1] * scale).toFixed(1)}px)`,
      ),
    );
    axes[0].setAttribute("x2", wide);
    for (const [name, value] of [
      ["x1", wide / 2],
      ["x2", wide / 2],
      ["y2", TALL],
    ])
      axes[1].setAttribute(name, value);
  };
  const axes = [
      svg("line", { x1: 0, y1: TALL / 2, y2: TALL / 2, class: "grid" }),
      svg("line", { y1: 0, class: "grid" }),
    ],
    frame = h("div", { class: "scatter-frame" }, picture_);
  new ResizeObserver(place).observe(frame);
  picture_.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!by || !nodes.length) return;
    event.preventDefault();
    tell((here + by + nodes.length) % nodes.length);
  });
  return {
    node: picture(app, info, "embedding", "embedding", frame, said, h("div", { class: "matrix-foot" }, keys, share)),
    begin: async () => {
      data = await app.source.fetchJson("training/embedding", {});
      if (nodes.length !== tokens().length) {
        nodes = tokens().map((token, i) =>
          svg(
            "text",
            {
              class: `point kind-${kindOf(token.text)}`,
              "text-anchor": "middle",
              "dominant-baseline": "central",
              on: { pointerenter: () => tell(i) },
            },
            visible(token.text),
          ),
        );
        picture_.replaceChildren(...axes, ...nodes);
        picture_.classList.toggle("many", nodes.length > 120);
        const found = new Set(tokens().map((token) => kindOf(token.text)));
        keys.replaceChildren(
          ...[...found].map((kind) => h("span", {}, h("i", { class: `back-${kind}` }), app.t("token_kind")[kind])),
        );
      }
      share.replaceChildren(data.share === undefined ? "" : app.t("embedding_share", percent(data.share)));
    },
    show: (step, its) => {
      now = its;
      index = data?.steps.indexOf(step) ?? -1;
      place();
      tell(here);
    },
  };
}

/** Cosines between the rows of a learned position table; where positions are not learned, that is said. */
function positions(app, info, own) {
  const place = h("div", {}),
    node = h("div", {});
  let map = null;
  return {
    node,
    show: async (step, its, current) => {
      if (!its.positions)
        return node.replaceChildren(
          h("p", { class: "soft position-note" }, app.t(`positions_${info.about.model.position}`)),
        );
      if (!map) node.replaceChildren(picture(app, info, "positions", "positions", place));
      const [rows, cols] = its.positions,
        { data } = await app.source.tile(`training.positions.${step}`);
      if (!current()) return;
      const tensor = { name: app.t("positions_name"), values: data, rows, cols };
      if (map) map.show(tensor);
      else
        place.replaceChildren(
          (map = new Matrix(app, tensor, { square: true, limit: 1, title: (i, j) => app.t("positions_said", i, j) }))
            .element,
        );
    },
  };
}
