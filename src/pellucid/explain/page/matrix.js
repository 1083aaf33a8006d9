// A matrix as a picture: a canvas heat map with rulers on both sides, a lens for cells too small to read, and a cursor
// that keys move.

import { css, ink, legend, limitOf, paintInto } from "./colour.js";
import { eachFrame, h, number } from "./dom.js";
import { Gone, LeftOut } from "./source.js";

// values that are fetched at once; a larger matrix comes as a thumbnail, its lens from exact tiles
const WHOLE = 400_000;

export class Matrix {
  /**
   * ``tensor``: {name, at, rows, cols}, two axes of a step or a weight. Options: scale ("signed" or "probability"),
   * rowLabel(i),
   * colLabel(j), square (cells as wide as high), limit (the end of the scale, else from the values), small (a map
   * without rulers),
   * rowHeight, note; for ``values`` of other meanings say(value, i, j), title(i, j), colName(j) and a legend of their
   * own.
   */
  constructor(app, tensor, options = {}) {
    Object.assign(this, { app, options: { scale: "signed", ...options }, cursor: null, marked: null });
    this.canvas = h("canvas", { class: "matrix-canvas", "aria-hidden": "true" });
    this.foot = h("div", { class: "matrix-foot" });
    this.element = h(
      "div",
      {
        class: options.small ? "matrix small" : "matrix",
        tabindex: options.small ? null : 0,
        role: options.small ? null : "application",
      },
      h("div", { class: "matrix-scroll" }, this.canvas),
      this.foot,
    );
    this.draw = eachFrame(() => this.paint());
    if (!options.small) {
      this.canvas.addEventListener(
        "pointermove",
        (event) => event.pointerType === "mouse" && this.hover(this.cellAt(event), event),
      );
      this.canvas.addEventListener("pointerleave", () => app.tip.hide());
      this.canvas.addEventListener("click", (event) => this.pick(this.cellAt(event)));
      this.element.addEventListener("keydown", (event) => this.key(event));
      this.element.addEventListener("blur", () => app.tip.hide());
    }
    new ResizeObserver(() => this.tile && this.width() !== this.drawnWidth && this.draw()).observe(this.element);
    this.show(tensor);
  }

  /** Another matrix in the same frame; ``tensor`` is what is drawn, until the numbers of the next one are there. */
  async show(tensor) {
    const wanted = (this.wanted = { at: [], run: this.app.run?.run, ...tensor }),
      { name, at, rows, cols, run } = wanted;
    this.element.setAttribute("aria-busy", "true");
    const most = rows * cols > WHOLE ? 384 : 0;
    try {
      const tile = tensor.values
        ? { data: tensor.values, rows, cols, rowStep: 1, colStep: 1 }
        : await this.app.source.tile(name, { at, most, run });
      if (wanted !== this.wanted) return;
      this.now(wanted, tile);
      this.limit = this.options.limit ?? limitOf(tile.data, this.options.scale);
      this.element.classList.remove("left-out");
      this.paint();
    } catch (error) {
      if (wanted === this.wanted) this.fail(wanted, error);
    }
  }

  now(tensor, tile) {
    Object.assign(this, { tensor, tile });
    const { name, at, rows, cols } = tensor;
    this.element.removeAttribute("aria-busy");
    this.element.setAttribute("aria-label", `${name}, ${rows} × ${cols}`);
    Object.assign(this.element.dataset, { name, at: at.join(",") });
  }

  fail(tensor, error) {
    this.now(tensor, null);
    this.element.classList.add("left-out");
    const said = error instanceof LeftOut ? "left_out_here" : error instanceof Gone ? "server_gone" : null;
    this.foot.replaceChildren(said ? this.app.t(said) : String(error.message));
  }

  /** Outlines a row, e.g. that of the chosen token. */
  mark(row) {
    this.marked = row;
    if (this.tile) this.draw();
  }

  width() {
    return Math.max(40, this.element.clientWidth);
  }

  layout() {
    const { tile, options } = this,
      { rows, cols } = tile,
      context = this.canvas.getContext("2d");
    context.font = FONT;
    const labels =
      options.rowLabel && !options.small
        ? Array.from({ length: rows }, (_, i) => options.rowLabel(i * tile.rowStep))
        : null;
    const left = labels
      ? Math.min(120, 10 + Math.max(...labels.slice(0, 400).map((label) => context.measureText(label).width)))
      : options.small
        ? 0
        : 36;
    const top = options.small ? 0 : options.square && options.colLabel ? 14 : 18,
      room = this.width() - left - 1;
    let cell = room / cols;
    if (options.square) cell = Math.min(cell, options.small ? 1e9 : Math.max(3, Math.min(26, 560 / rows)));
    else cell = Math.min(cell, 64);
    const height = options.square ? cell : (options.rowHeight ?? Math.max(2, Math.min(22, 420 / rows)));
    return { left, top, cell, height, width: cell * cols, tall: height * rows, labels };
  }

  paint() {
    this.drawnWidth = this.width();
    const { tile, options, canvas } = this,
      at = (this.at = this.layout()),
      ratio = Math.min(3, devicePixelRatio || 1);
    canvas.width = Math.round((at.left + at.width + 1) * ratio);
    canvas.height = Math.round((at.top + at.tall + 1) * ratio);
    canvas.style.width = `${canvas.width / ratio}px`;
    canvas.style.height = `${canvas.height / ratio}px`;
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const shown = pooled(tile, Math.ceil(0.99 / (at.height * ratio)), Math.ceil(0.99 / (at.cell * ratio)));
    const image = new ImageData(shown.cols, shown.rows),
      pixels = new Uint32Array(image.data.buffer);
    paintInto(pixels, shown.data, this.limit, options.scale);
    const small = new OffscreenCanvas(shown.cols, shown.rows);
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, at.left, at.top, at.width, at.tall);
    if (at.cell >= 40 && at.height >= 15) this.paintNumbers(context);
    const style = getComputedStyle(this.element);
    if (!options.small) this.paintRulers(context, style.getPropertyValue("--ink-soft"));
    const box = (row, col, rows, cols, tone, width) => {
      context.strokeStyle = tone;
      context.lineWidth = width;
      context.strokeRect(
        at.left + col * at.cell,
        at.top + row * at.height,
        Math.max(2, cols * at.cell),
        Math.max(2, rows * at.height),
      );
    };
    if (this.marked !== null && this.marked < tile.rows * tile.rowStep)
      box(this.marked / tile.rowStep, 0, 1, tile.cols, style.getPropertyValue("--accent"), 1.5);
    if (this.cursor) {
      const [i, j] = this.cursor,
        row = Math.floor(i / tile.rowStep),
        col = Math.floor(j / tile.colStep);
      box(row, col, 1, 1, "#fff", 4);
      box(row, col, 1, 1, "#000", 2);
    }
    if (!options.small)
      this.foot.replaceChildren(
        options.legend ?? legend(this.limit, options.scale, options.scale === "signed" && options.limit === undefined),
        tile.bits === 8 ? h("span", { class: "sampled" }, this.app.t("eight_bits")) : "",
        tile.rowStep * tile.colStep > 1 ? h("span", { class: "sampled" }, this.app.t("thumbnail", tile)) : "",
        options.note ?? "",
      );
  }

  paintNumbers(context) {
    const { tile, at, options } = this;
    context.font = FONT;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (let i = 0; i < tile.rows; i++)
      for (let j = 0; j < tile.cols; j++) {
        const value = tile.data[i * tile.cols + j];
        context.fillStyle = ink(value, this.limit, options.scale);
        context.fillText(this.say(value, i, j), at.left + (j + 0.5) * at.cell, at.top + (i + 0.5) * at.height);
      }
  }

  paintRulers(context, tone) {
    const { tile, at, options } = this;
    context.font = FONT;
    context.fillStyle = tone;
    context.textBaseline = "middle";
    context.textAlign = "right";
    const every = Math.max(1, Math.ceil(11 / at.height)),
      skip = every === 1 ? 1 : niceStep(every);
    for (let i = 0; i < tile.rows; i += skip)
      context.fillText(
        at.labels ? at.labels[i] : String(i * tile.rowStep),
        at.left - 5,
        at.top + (i + 0.5) * at.height,
        at.left - 6,
      );
    context.textBaseline = "alphabetic";
    if (options.colLabel && at.cell >= 11) {
      context.textAlign = "left";
      for (let j = 0; j < tile.cols; j++) {
        const label = fitted(context, options.colLabel(j * tile.colStep).replace(/^␣(?=.)/, ""), at.cell - 4);
        context.fillText(label, at.left + j * at.cell + Math.max(2, (at.cell - context.measureText(label).width) / 2), at.top - 4);
      }
      return;
    }
    context.textAlign = "left";
    const step = niceStep((tile.cols * tile.colStep) / Math.max(2, at.width / 56));
    for (let j = 0; j < tile.cols * tile.colStep; j += step) {
      const x = at.left + (j / tile.colStep) * at.cell;
      context.fillRect(x, at.top - 4, 1, 4);
      if (x + 24 < at.left + at.width || j === 0)
        context.fillText(options.colName?.(j) ?? String(j), x + 3, at.top - 6);
    }
  }

  say(value, i, j) {
    return this.options.say ? this.options.say(value, i, j) : number(value, 3);
  }

  cellAt(event) {
    const box = this.canvas.getBoundingClientRect(),
      { at, tile } = this;
    if (!at || !tile) return null;
    const i = Math.floor((event.clientY - box.top - at.top) / at.height),
      j = Math.floor((event.clientX - box.left - at.left) / at.cell);
    if (i < 0 || j < 0 || i >= tile.rows || j >= tile.cols) return null;
    return this.largest(i, j);
  }

  /** In a thumbnail a pixel stands for a block; the block's first cell stands for it here. */
  largest(i, j) {
    return [
      Math.min(i * this.tile.rowStep, this.tensor.rows - 1),
      Math.min(j * this.tile.colStep, this.tensor.cols - 1),
    ];
  }

  hover(cell, event) {
    if (!cell) return this.app.tip.hide();
    this.app.tip.show(this, cell, { x: event.clientX, y: event.clientY });
  }

  /** Exact values around a cell, for the lens: {data, rows, cols, top, left}. */
  async around([i, j], tall, wide) {
    const { rows, cols, name, at, run } = this.tensor;
    const top = Math.max(0, Math.min(i - (tall >> 1), rows - tall)),
      left = Math.max(0, Math.min(j - (wide >> 1), cols - wide));
    const bottom = Math.min(rows, top + tall),
      right = Math.min(cols, left + wide);
    if (this.tile.rowStep * this.tile.colStep > 1) {
      const tile = await this.app.source.tile(name, { at, rows: [top, bottom], cols: [left, right], run });
      return { ...tile, top, left };
    }
    const data = new Float32Array((bottom - top) * (right - left));
    for (let row = top; row < bottom; row++)
      data.set(this.tile.data.subarray(row * cols + left, row * cols + right), (row - top) * (right - left));
    return { data, rows: bottom - top, cols: right - left, top, left };
  }

  pick(cell) {
    if (!cell) return;
    this.cursor = cell;
    this.draw();
    this.app.tip.hide();
    this.options.onPick?.(cell);
    if (!this.tensor.values) this.app.ask(this.tensor.name, [...this.tensor.at, ...cell], this.tensor.run);
  }

  key(event) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] },
      move = moves[event.key],
      { rows, cols } = this.tensor;
    if (!this.tile || (!move && event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    const [i, j] = this.cursor ?? [0, 0],
      by = event.shiftKey ? 10 : 1;
    if (move && this.cursor)
      this.cursor = [
        Math.max(0, Math.min(rows - 1, i + by * move[0])),
        Math.max(0, Math.min(cols - 1, j + by * move[1])),
      ];
    else if (!this.cursor) this.cursor = [this.marked ?? 0, 0];
    else return this.pick(this.cursor);
    this.draw();
    const box = this.canvas.getBoundingClientRect(),
      { at, tile } = this;
    this.app.tip.show(this, this.cursor, {
      x: box.left + at.left + ((this.cursor[1] + 1) / tile.colStep) * at.cell,
      y: box.top + at.top + ((this.cursor[0] + 1) / tile.rowStep) * at.height,
    });
    if (this.app.state.cell) this.app.ask(this.tensor.name, [...this.tensor.at, ...this.cursor], this.tensor.run);
  }
}

const FONT = '11px ui-sans-serif, system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif';

/** Where a pixel must stand for several cells, it shows the one of largest size, so that no lone peak is lost. */
function pooled(tile, down, across) {
  if (down <= 1 && across <= 1) return tile;
  const rows = Math.ceil(tile.rows / down),
    cols = Math.ceil(tile.cols / across),
    data = new Float32Array(rows * cols);
  for (let i = 0; i < tile.rows; i++)
    for (let j = 0; j < tile.cols; j++) {
      const value = tile.data[i * tile.cols + j],
        at = Math.floor(i / down) * cols + Math.floor(j / across);
      if (Number.isFinite(value) && Math.abs(value) > Math.abs(data[at])) data[at] = value;
    }
  return { data, rows, cols };
}

/** As much of a word as there is room for; its first letter at least. */
function fitted(context, word, room) {
  const letters = [...word];
  while (letters.length > 1 && context.measureText(letters.join("")).width > room) letters.pop();
  return letters.join("");
}

function niceStep(least) {
  const unit = 10 ** Math.floor(Math.log10(Math.max(1, least)));
  return [1, 2, 5, 10].map((times) => times * unit).find((step) => step >= least) ?? unit * 10;
}

/** The small window that follows the pointer: a cell's place, value, neighbours and, after a moment, its equation. */
export class Tip {
  constructor(app) {
    this.app = app;
    this.canvas = h("canvas", { class: "tip-lens" });
    this.head = h("div", { class: "tip-head" });
    this.line = h("div", { class: "tip-line" });
    this.element = h("div", { class: "tip", hidden: true, role: "status" }, this.head, this.canvas, this.line);
    document.body.append(this.element);
  }

  hide() {
    this.element.hidden = true;
    clearTimeout(this.timer);
    this.asked = null;
  }

  async show(matrix, cell, { x, y }) {
    const [i, j] = cell,
      { name, at, run } = matrix.tensor,
      key = `${name} ${at} ${cell}`;
    const { left, top } = {
      left: Math.min(x + 16, innerWidth - 330),
      top: y + 18 + 190 > innerHeight ? y - 190 : y + 18,
    };
    this.element.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, top)}px)`;
    if (this.asked === key) return;
    this.asked = key;
    const near = await matrix.around(cell, 5, 6).catch(() => null);
    if (this.asked !== key || !near) return;
    this.element.hidden = false;
    const value = near.data[(i - near.top) * near.cols + (j - near.left)],
      row = matrix.options.rowLabel?.(i),
      col = matrix.options.colLabel?.(j);
    this.head.replaceChildren(
      h("span", {}, matrix.options.title?.(i, j) ?? `${name}[${[...at, i, j].join(", ")}]`),
      h("b", { class: "tip-value" }, matrix.options.say?.(value, i, j) ?? number(value)),
      h("small", {}, matrix.options.title ? "" : [row, col].filter(Boolean).join(" → ")),
    );
    this.line.replaceChildren();
    this.canvas.hidden = matrix.at.cell >= 40;
    this.lens(matrix, near, cell);
    clearTimeout(this.timer);
    if (matrix.tensor.values) return; // not a step of the run: there is no more to say
    this.timer = setTimeout(async () => {
      const why = await this.app.source.get(`cell/${name}`, { index: [...at, i, j].join(","), run }).catch(() => null);
      if (why && this.asked === key) this.line.replaceChildren(...this.app.shortly(why));
    }, 140);
  }

  lens(matrix, near, [i, j]) {
    const wide = 50,
      tall = 18,
      ratio = Math.min(3, devicePixelRatio || 1),
      context = this.canvas.getContext("2d");
    Object.assign(this.canvas, { width: near.cols * wide * ratio, height: near.rows * tall * ratio });
    Object.assign(this.canvas.style, { width: `${near.cols * wide}px`, height: `${near.rows * tall}px` });
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    Object.assign(context, { font: FONT, textAlign: "center", textBaseline: "middle" });
    near.data.forEach((value, at) => {
      const x = (at % near.cols) * wide,
        y = Math.floor(at / near.cols) * tall;
      context.fillStyle = css(value, matrix.limit, matrix.options.scale);
      context.fillRect(x, y, wide, tall);
      context.fillStyle = ink(value, matrix.limit, matrix.options.scale);
      context.fillText(
        matrix.say(value, near.top + Math.floor(at / near.cols), near.left + (at % near.cols)),
        x + wide / 2,
        y + tall / 2,
      );
    });
    context.strokeStyle = "#000";
    context.lineWidth = 2;
    context.strokeRect((j - near.left) * wide + 1, (i - near.top) * tall + 1, wide - 2, tall - 2);
  }
}
