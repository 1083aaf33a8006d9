// 3. Rows of a table: each id looks up its row; then where each token stands, as this model has it: a table added, or a
// rotation.

import { css, legend, limitOf } from "../colour.js";
import { calm, h, math, number, svg, visible } from "../dom.js";
import { Absent, frame, later, slider, stepFigure, story, thread } from "../figures.js";
import { Matrix } from "../matrix.js";

export function render(app) {
  const { model } = app,
    section = frame(app, "embed", 3),
    rope = model.layers.find((layer) => layer.rope)?.rope;
  section.append(
    story(app, "embed_story", model),
    lookup(app),
    stepFigure(app, () => "embed", { keys: ["pos"] }),
    thread(app, app.t("thread_rows"), { name: "embed" }),
    later(app, async () => block(app, await app.source.get("batch", { run: app.run.run }))),
    h("h3", { id: "position" }, app.t("position_title")),
  );
  if (model.config.position === "sinusoidal")
    section.append(
      story(app, "sinusoidal_story"),
      sinusoidal(app),
      stepFigure(app, () => "pos_embed", { keys: [] }),
    );
  if (model.config.position === "learned")
    section.append(
      story(app, "learned_story", model),
      table(app, "pos_embed.weight"),
      stepFigure(app, () => "pos_embed", { keys: [] }),
    );
  if (model.config.position !== "none")
    section.append(
      story(app, "position_sum_story"),
      stepFigure(app, () => "layers.0.resid_pre", { keys: [] }),
    );
  if (rope) section.append(story(app, "rotary_story", rope), rotary(app, rope));
  const slopes = model.layers.find((layer) => layer.alibi)?.alibi;
  if (slopes) section.append(story(app, "alibi_story", slopes));
  if (!rope && !slopes && model.config.position === "none") section.append(story(app, "no_position_story"));
  if (model.config.embedding_norm)
    section.append(
      story(app, "embed_norm_story"),
      stepFigure(app, () => "embed_norm", { keys: [] }),
    );
  return section;
}

/** The batch of the section before, each id replaced by its row: a table of rows is a block with three axes. */
function block(app, its) {
  const limit = limitOf(
    its.rows.flat().flatMap((cell) => cell.row),
    "signed",
  );
  const strip = (row) => {
    const canvas = h("canvas", { width: row.length, height: 1, class: "row-strip" }),
      context = canvas.getContext("2d");
    row.forEach((value, j) => ((context.fillStyle = css(value, limit, "signed")), context.fillRect(j, 0, 1, 1)));
    return canvas;
  };
  return [
    story(app, "block_story", its.shape),
    h(
      "div",
      { class: "scroll-x block" },
      h(
        "table",
        { class: "batch" },
        its.rows.map((row) =>
          h(
            "tr",
            {},
            row.map((cell) =>
              h("td", { class: cell.mask ? "" : "pad", title: `id ${cell.id}` }, visible(cell.text), strip(cell.row)),
            ),
          ),
        ),
      ),
    ),
    legend(limit, "signed", true),
  ];
}

/** The first numbers of a row as cells of a picture. */
function cells(row) {
  const limit = Math.max(...row.map(Math.abs));
  return [...row.subarray(0, 38)].map((value, j) =>
    svg("rect", { x: 440 + j * 5, y: 94, width: 5, height: 28, fill: css(value, limit, "signed") }),
  );
}

/** The table as a tall strip; a line from the chosen token's id to its row, and the row itself. */
function lookup(app) {
  const rows = app.model.config.vocab_size,
    element = h("figure", { class: "lookup" }),
    tall = 220;
  app.watch(element, ["pos"], async (state) => {
    const token = app.run.tokens[state.pos],
      y = (token.id / rows) * (tall - 4);
    const tile = await app.source.tile("embed", { at: [0], run: app.run.run }).catch(() => null);
    const row = tile ? cells(tile.data.subarray(state.pos * tile.cols, (state.pos + 1) * tile.cols)) : "";
    return () =>
      element.replaceChildren(
        h("figcaption", {}, app.t("lookup_caption", token.id, visible(token.text), rows)),
        svg(
          "svg",
          {
            viewBox: `0 0 640 ${tall}`,
            class: "plot broad",
            style: { "max-width": "760px" },
            role: "img",
            "aria-label": app.t("lookup_caption", token.id, token.text, rows),
          },
          svg("rect", { x: 236, y: 0, width: 118, height: tall, fill: "var(--wash)", stroke: "var(--ink-soft)" }),
          svg("text", { x: 362, y: 16 }, "0"),
          svg("text", { x: 362, y: tall - 2 }, String(rows - 1)),
          svg("text", { x: 295, y: tall / 2, "text-anchor": "middle" }, "embed.weight"),
          svg("rect", {
            x: 20,
            y: 80,
            width: 130,
            height: 56,
            rx: 7,
            fill: "var(--raised)",
            stroke: "var(--accent)",
            "stroke-width": 2,
          }),
          svg(
            "text",
            { x: 85, y: 102, "text-anchor": "middle", style: { fill: "var(--ink)" } },
            visible(token.text).slice(0, 14),
          ),
          svg("text", { x: 85, y: 126, "text-anchor": "middle" }, `id ${token.id}`),
          svg("path", {
            d: `M150 108 C200 108 190 ${y + 2} 234 ${y + 2}`,
            fill: "none",
            stroke: "var(--accent)",
            "stroke-width": 1.5,
          }),
          svg("rect", { x: 236, y: y, width: 118, height: 4, fill: "var(--accent)" }),
          svg("path", {
            d: `M356 ${y + 2} C400 ${y + 2} 400 108 440 108`,
            fill: "none",
            stroke: "var(--accent)",
            "stroke-width": 1.5,
          }),
          svg("g", { class: calm() ? "" : "grown", id: "looked-up" }, row),
          svg(
            "text",
            { x: 634, y: 146, "text-anchor": "end" },
            app.t("a_row_of", app.model.config.d_model, Math.min(38, app.model.config.d_model)),
          ),
        ),
      );
  });
  return element;
}

function table(app, name) {
  const part = app.model.parts.find((its) => its.name === name);
  return h(
    "figure",
    {},
    new Matrix(
      app,
      { name, at: [], rows: part.shape[0], cols: part.shape[1] },
      { rowHeight: Math.max(0.3, Math.min(10, 260 / part.shape[0])) },
    ).element,
  );
}

/** The whole table of sines and cosines, recomputed here; a cell shows its own term, its column its wave. */
function sinusoidal(app) {
  const width = app.model.config.d_model,
    length = Math.min(app.model.config.context_len, 128);
  const term = h("p", { class: "term-shown", role: "status" }),
    wave = h("div", {}),
    formula = h("div", { class: "formula" });
  const angle = (pos, j) => pos / 10000 ** ((j - (j % 2)) / width),
    value = (pos, j) => (j % 2 ? Math.cos(angle(pos, j)) : Math.sin(angle(pos, j)));
  const draw = (pos, j) => {
    formula.replaceChildren(
      math(
`<mrow><msub><mi>PE</mi><mrow><mi>pos</mi><mo>,</mo><mn>${j}</mn></mrow></msub><mo>=</mo>` +
        `<mi>${j % 2 ? "cos" : "sin"}</mi><mo>(</mo><mfrac><mi>pos</mi><msup><mn>10000</mn><mrow>` +
        `<mn>${j - (j % 2)}</mn><mo>/</mo><mn>${width}</mn></mrow></msup></mfrac><mo>)</mo></mrow>`,
      ),
    );
    term.replaceChildren(
      `${app.t("position")} ${pos}, ${app.t("dimension")} ${j}: ${j % 2 ? "cos" : "sin"}(${pos} / ` +
      `${number(10000 ** ((j - (j % 2)) / width), 5)}) = ${number(value(pos, j), 5)}`,
    );
    const points = Array.from(
      { length: 257 },
      (_, i) => `${(i / 256) * 620},${40 - 34 * value((i / 256) * length, j)}`,
    ).join(" ");
    wave.replaceChildren(
      svg(
        "svg",
        { viewBox: "0 0 624 100", class: "plot broad", role: "img", "aria-label": app.t("wave", j) },
        svg("line", { x1: 0, x2: 620, y1: 40, y2: 40, class: "axis" }),
        svg("polyline", { points, fill: "none", stroke: "var(--sym-q)", "stroke-width": 1.6 }),
        svg("circle", { cx: (pos / length) * 620, cy: 40 - 34 * value(pos, j), r: 4.5, fill: "var(--accent)" }),
        svg("text", { x: 0, y: 96 }, app.t("wave", j)),
      ),
    );
  };
  const canvas = h("canvas", {
    width,
    height: length,
    class: "sinusoidal",
    style: { width: "100%", height: "260px", "image-rendering": "pixelated", cursor: "crosshair" },
    tabindex: 0,
    role: "img",
    "aria-label": app.t("sinusoidal_title"),
  });
  const image = canvas.getContext("2d");
  for (let pos = 0; pos < length; pos++)
    for (let j = 0; j < width; j++) ((image.fillStyle = css(value(pos, j), 1, "signed")), image.fillRect(j, pos, 1, 1));
  let here = [3, 0];
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    here = [
      Math.min(length - 1, Math.floor(((event.clientY - box.top) / box.height) * length)),
      Math.min(width - 1, Math.floor(((event.clientX - box.left) / box.width) * width)),
    ];
    draw(...here);
  };
  canvas.addEventListener("pointermove", at);
  canvas.addEventListener("pointerdown", at);
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    here = [Math.max(0, Math.min(length - 1, here[0] + move[0])), Math.max(0, Math.min(width - 1, here[1] + move[1]))];
    draw(...here);
  });
  draw(...here);
  return h(
    "figure",
    { class: "sinusoidal-figure" },
    h("figcaption", {}, app.t("sinusoidal_caption", length, width)),
    canvas,
    formula,
    term,
    wave,
  );
}

/**
 * A pair of a query's dimensions as an arrow: it turns with its position, and the angle between two is their distance.
 */
function rotary(app, rope) {
  const element = h("figure", { class: "rotary" }),
    picture = h("div", {}),
    said = h("p", { role: "status" }),
    pairs = rope.dim / 2,
    half = rope.layout === "half";
  const own = { pair: 0, key: 0 };
  const draw = async ({ layer, head, pos }) => {
    const config = app.layerConfig(layer),
      group = Math.floor((head * config.num_kv_heads) / config.num_heads);
    if (!config.rope) throw new Absent("no_rotation");
    const lender = config.compared.k.split(".")[1]; // the layer whose keys they are: this one, but for some models
    const name = (what, of = layer) =>
      app.has(`layers.${of}.${what}_norm`) ? `layers.${of}.${what}_norm` : `layers.${of}.${what}`;
    const shared = app.has(`layers.${layer}.k_shared`); // of latent attention: one for all heads
    const [q, k, qr, kr] = await Promise.all([
      app.source.tile(name("q"), { at: [0, head], run: app.run.run }),
      app.source.tile(name(shared ? "k_shared" : "k", lender), { at: [0, shared ? 0 : group], run: app.run.run }),
      app.source.tile(`layers.${layer}.q_rot`, { at: [0, head], run: app.run.run }),
      app.source.tile(`layers.${lender}.k_rot`, { at: [0, shared ? 0 : group], run: app.run.run }),
    ]);
    const [a, b] = half ? [own.pair, own.pair + pairs] : [2 * own.pair, 2 * own.pair + 1],
      key = Math.min(own.key, pos);
    const pick = (tile, row) => [tile.data[row * tile.cols + a], tile.data[row * tile.cols + b]];
    const arrows = [
      [pick(q, pos), "q", true],
      [pick(qr, pos), "q", false],
      [pick(k, key), "k", true],
      [pick(kr, key), "k", false],
    ];
    const longest = Object.fromEntries(
        ["q", "k"].map((symbol) => [
          symbol,
          Math.max(...arrows.filter((arrow) => arrow[1] === symbol).map(([[x, y]]) => Math.hypot(x, y)), 1e-9),
        ]),
      ),
      angle = pos * rope.frequencies[own.pair],
      turn = key * rope.frequencies[own.pair];
    const [x, y] = pick(q, pos),
      [rx, ry] = pick(qr, pos);
    return () => {
      picture.replaceChildren(
        svg(
          "svg",
          {
            viewBox: "-130 -130 470 260",
            class: "plot",
            style: { "max-width": "640px" },
            role: "img",
            "aria-label": app.t("rotary_title"),
          },
          svg("circle", { r: 112, fill: "none", class: "axis" }),
          svg("line", { x1: -120, x2: 120, class: "axis" }),
          svg("line", { y1: -120, y2: 120, class: "axis" }),
          arrows.map(([[x, y], symbol, before]) => {
            const [dx, dy] = [(x / longest[symbol]) * 112, (-y / longest[symbol]) * 112];
            return svg(
              "g",
              { class: `sym-${symbol}`, opacity: before ? 0.45 : 1 },
              svg("line", {
                x2: dx,
                y2: dy,
                stroke: "currentColor",
                "stroke-width": before ? 1.6 : 3,
                "stroke-dasharray": before ? "4 3" : null,
              }),
              svg("circle", { cx: dx, cy: dy, r: before ? 3 : 5, fill: "currentColor" }),
              svg(
                "text",
                { x: dx * 1.06 + 4, y: dy * 1.06 - 4, style: { fill: "currentColor", "font-size": "14px" } },
                `${symbol}${before ? "" : "′"}`,
              ),
            );
          }),
          [
            ["q", `q  ${app.t("position")} ${pos} ${app.token(pos)}`],
            ["k", `k  ${app.t("position")} ${key} ${app.token(key)}`],
          ].map(([symbol, text], i) =>
            svg(
              "text",
              { x: 150, y: -70 + 26 * i, class: `sym-${symbol}`, style: { fill: "currentColor", "font-size": "14px" } },
              text.slice(0, 26),
            ),
          ),
          svg("text", { x: 150, y: 0 }, app.t("dashed_before")),
          svg("text", { x: 150, y: 20 }, app.t("solid_after")),
          svg("text", { x: 150, y: 40 }, app.t("own_scale")),
        ),
      );
      said.replaceChildren(
        app.t("rotary_said", {
          pos,
          key,
          pair: own.pair,
          a,
          b,
          degrees: number((angle * 180) / Math.PI, 4),
          turn: number((turn * 180) / Math.PI, 4),
          x: number(x),
          y: number(y),
          rx: number(rx),
          ry: number(ry),
        }),
      );
    };
  };
  const formula = math(
"<mrow><mo>(</mo><msub><mi>q</mi><mn>1</mn></msub><mi>cos</mi><mi>θ</mi><mo>−</mo><msub><mi>q</mi><mn>2</mn>" +
    "</msub><mi>sin</mi><mi>θ</mi><mo>,</mo><mspace " +
"width='0.5em'></mspace><msub><mi>q</mi><mn>2</mn></msub><mi>cos</mi><mi>θ</mi><mo>+</mo><msub><mi>q</mi>" +
    "<mn>1</mn></msub><mi>sin</mi><mi>θ</mi><mo>)</mo><mo>,</mo><mspace " +
    "width='1em'></mspace><mi>θ</mi><mo>=</mo><mi>pos</mi><mo>·</mo><msub><mi>ω</mi><mi>j</mi></msub></mrow>",
  );
  element.append(
    h("figcaption", {}, app.t("rotary_caption", half)),
    h("div", { class: "formula" }, formula),
    picture,
    h(
      "div",
      { class: "two" },
      slider(
        app.t("pair"),
        { min: 0, max: pairs - 1, step: 1, value: 0, say: (v) => `${v} (ω = ${number(rope.frequencies[v], 3)})` },
        (value) => ((own.pair = value), again()),
      ),
      slider(
        app.t("key_position"),
        { min: 0, max: app.run.tokens.length - 1, step: 1, value: 0, say: (v) => `${v} ${app.token(v)}` },
        (value) => ((own.key = value), again()),
      ),
    ),
    said,
  );
  const again = app.watch(picture, ["pos", "layer", "head"], draw);
  return element;
}
