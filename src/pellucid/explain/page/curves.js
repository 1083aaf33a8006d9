// Curves over the steps of a run: drawn to the pixel, with one cursor for all of them, moved by the pointer or the
// arrow keys.

import { eachFrame, h, number, svg } from "./dom.js";

/** The step that is looked at, shared by several curves; null: the last. */
export class Cursor {
  constructor() {
    this.step = null;
    this.listeners = new Set();
  }

  move(step) {
    this.step = step;
    this.listeners.forEach((listener) => listener(step));
  }
}

const LEFT = 52,
  RIGHT = 12,
  TOP = 10,
  BOTTOM = 24;

export class Curves {
  /** ``say(i)`` tells the numbers at point i; ``logY`` for what spans decades; ``height`` in pixels. */
  constructor(app, cursor, { label, say, height = 150, logY = false, zero = false }) {
    Object.assign(this, { app, cursor, say, height, logY, zero, logX: false, data: null });
    this.svg = svg("svg", { class: "curves", role: "img", tabindex: 0, "aria-label": label, height });
    this.said = h("output", { class: "said", "aria-live": "polite" });
    this.element = h("div", { class: "curves-frame" }, this.svg, this.said);
    this.draw = eachFrame(() => this.paint());
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerdown", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => cursor.move(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    cursor.listeners.add(() => this.mark());
    new ResizeObserver(() => this.data && this.element.clientWidth !== this.drawn && this.draw()).observe(this.element);
  }

  /**
   * ``data``: {x, lines: [{values, class}], band: {low, high}, dots: [[x, y]], rule: y, reach: values that the scale
   * must hold}.
   */
  show(data, logX = this.logX) {
    Object.assign(this, { data, logX });
    this.draw();
  }

  paint() {
    const { data, height } = this,
      wide = (this.drawn = this.element.clientWidth),
      right = wide - RIGHT,
      bottom = height - BOTTOM;
    if (!data?.x.length || wide < 80) return;
    const last = Math.max(data.x.at(-1), 2),
      [low, high] = this.reach();
    this.px = this.logX
      ? (x) => LEFT + ((right - LEFT) * Math.log(Math.max(x, 1))) / Math.log(last)
      : (x) => LEFT + ((right - LEFT) * x) / last;
    const up = this.logY ? (y) => Math.log(Math.max(y, low)) : (y) => y,
      [from, to] = [up(low), up(high)];
    this.py = (y) => Math.min(bottom, Math.max(TOP - 4, bottom - ((bottom - TOP) * (up(y) - from)) / (to - from || 1)));
    const path = (values) =>
      values
        .map((y, i) =>
          y === null
            ? ""
            : `${i && values[i - 1] !== null ? "L" : "M"}${this.px(data.x[i]).toFixed(1)} ${this.py(y).toFixed(1)}`,
        )
        .join("");
    const xTicks = this.logX ? decades(1, last) : nice(0, last, Math.max(3, Math.min(8, wide / 110))),
      yTicks = this.logY ? decades(low, high) : nice(low, high, height > 200 ? 6 : 4);
    const back = (values) =>
      values
        .map((y, i) => `L${this.px(data.x[i]).toFixed(1)} ${this.py(y ?? low).toFixed(1)}`)
        .reverse()
        .join("");
    this.cross = svg("g", { class: "cross" });
    this.svg.setAttribute("width", wide);
    this.svg.replaceChildren(
      ...yTicks.map((y) =>
        svg(
          "g",
          {},
          svg("line", { x1: LEFT, x2: right, y1: this.py(y), y2: this.py(y), class: "grid" }),
          svg("text", { x: LEFT - 7, y: this.py(y) + 4, "text-anchor": "end" }, tick(y)),
        ),
      ),
      ...xTicks.map((x) =>
        svg(
          "g",
          {},
          svg("line", { x1: this.px(x), x2: this.px(x), y1: bottom, y2: bottom + 4, class: "axis" }),
          svg(
            "text",
            { x: this.px(x), y: height - 6, "text-anchor": this.px(x) > right - 22 ? "end" : "middle" },
            tick(x),
          ),
        ),
      ),
      svg("line", { x1: LEFT, x2: right, y1: bottom, y2: bottom, class: "axis" }),
      data.rule === undefined || data.rule > high
        ? ""
        : svg(
            "g",
            { class: "rule" },
            svg("line", { x1: LEFT, x2: right, y1: this.py(data.rule), y2: this.py(data.rule) }),
            svg("text", { x: right, y: this.py(data.rule) - 5, "text-anchor": "end" }, data.ruleName),
          ),
      data.band ? svg("path", { class: "band", d: `${path(data.band.high)}${back(data.band.low)}Z` }) : "",
      ...data.lines.map((line) => svg("path", { class: `line ${line.class}`, d: path(line.values) })),
      (data.dots ?? []).length > 1
        ? svg("path", {
            class: "line dotted",
            d: data.dots.map(([x, y], i) => `${i ? "L" : "M"}${this.px(x)} ${this.py(y)}`).join(""),
          })
        : "",
      ...(data.dots ?? []).map(([x, y]) =>
        svg("circle", { class: "dot", cx: this.px(x), cy: this.py(y), r: data.dots.length > 60 ? 2 : 3.6 }),
      ),
      this.cross,
    );
    this.mark();
  }

  /** The ends of the vertical scale: what is drawn, less the wildest hundredth of the raw values. */
  reach() {
    const { data } = this,
      reach = data.reach ?? [],
      values = [...data.lines.flatMap((line) => line.values), ...(data.dots ?? []).map(([, y]) => y)]
        .filter((y) => y !== null)
        .sort((a, b) => a - b);
    let low = values[0] ?? 0,
      high = Math.max(
        values[Math.floor(0.995 * (values.length - 1))] ?? 1,
        ...data.lines.filter((line) => line.whole).flatMap((line) => line.values.filter((y) => y !== null)),
      );
    [low, high] = [Math.min(low, ...reach), Math.max(high, ...reach)];
    if (this.zero && !this.logY) low = 0;
    if (this.logY) low = Math.max(low, high * 1e-6) || 1e-9;
    const room = this.logY ? 0 : (high - low || Math.abs(high) || 1) * 0.06;
    return this.logY ? [low * 0.9, high * 1.1] : [this.zero ? 0 : low - room, high + room];
  }

  /** The point at the cursor (the last without one), its numbers and its line. */
  mark() {
    if (!this.data?.x.length || !this.px) return;
    const { x, lines } = this.data,
      at = this.at(),
      here = this.px(x[at]);
    this.said.replaceChildren(...[this.say(at)].flat());
    this.cross.replaceChildren(
      ...(this.cursor.step === null ? [] : [svg("line", { x1: here, x2: here, y1: TOP, y2: this.height - BOTTOM })]),
      ...lines
        .filter((line) => line.values[at] !== null && line.values[at] !== undefined)
        .map((line) => svg("circle", { class: line.class, cx: here, cy: this.py(line.values[at]), r: 3.4 })),
    );
  }

  at() {
    const { x } = this.data,
      { step } = this.cursor;
    if (step === null) return x.length - 1;
    let low = 0,
      high = x.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (x[middle] < step) low = middle + 1;
      else high = middle;
    }
    return low > 0 && step - x[low - 1] < x[low] - step ? low - 1 : low;
  }

  point(event) {
    if (!this.px) return;
    const wide = this.drawn - RIGHT - LEFT,
      part = Math.max(0, Math.min(1, (event.clientX - this.svg.getBoundingClientRect().left - LEFT) / wide)),
      last = Math.max(this.data.x.at(-1), 2);
    this.cursor.move(this.logX ? Math.exp(part * Math.log(last)) : part * last);
  }

  key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key] * (event.shiftKey ? 10 : 1),
      end = { Home: 0, End: this.data?.x.length - 1 }[event.key];
    if (!this.data?.x.length || (Number.isNaN(by) && end === undefined && event.key !== "Escape")) return;
    if (event.key === "Escape") return this.cursor.move(null);
    event.preventDefault();
    this.cursor.move(this.data.x[end ?? Math.max(0, Math.min(this.data.x.length - 1, this.at() + by))]);
  }
}

function nice(low, high, count) {
  const rough = (high - low) / count,
    unit = 10 ** Math.floor(Math.log10(rough)),
    step = [1, 2, 2.5, 5, 10].map((times) => times * unit).find((its) => its >= rough) ?? rough,
    ticks = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step)
    ticks.push(Math.abs(at) < step * 1e-6 ? 0 : at);
  return ticks;
}

/** 1, 10, 100, …; where there are few of them, 2 and 5 as well. */
function decades(low, high) {
  const ticks = [],
    many = Math.log10(high / low) > 2.2;
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const times of many ? [1] : [1, 2, 5])
      if (times * 10 ** power >= low * 0.999 && times * 10 ** power <= high * 1.001) ticks.push(times * 10 ** power);
  return ticks;
}

function tick(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return `${Number((value / 1e9).toPrecision(3))} G`;
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))} M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))} k`;
  return size === 0 ? "0" : size < 1e-3 ? number(value, 1) : String(Number(value.toPrecision(3))).replace("-", "−");
}
