// Two scales, the same everywhere: signed values blue – white – orange with zero always white, probabilities white –
// purple.
// Both pass the common colour-vision tests (ColorBrewer PuOr/RdBu ends, lightness falls evenly on either side).

import { h, number } from "./dom.js";

const SIGNED = [
  [5, 48, 97],
  [33, 102, 172],
  [103, 169, 207],
  [209, 229, 240],
  [255, 255, 255],
  [254, 224, 182],
  [244, 165, 88],
  [214, 104, 20],
  [127, 59, 8],
];
const PROBABILITY = [
  [255, 255, 255],
  [232, 226, 241],
  [190, 178, 219],
  [140, 117, 186],
  [98, 62, 150],
  [63, 20, 110],
  [35, 0, 70],
];

function table(stops) {
  const colours = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (stops.length - 1),
      low = Math.min(Math.floor(at), stops.length - 2),
      part = at - low;
    const [r, g, b] = stops[low].map((from, channel) => Math.round(from + (stops[low + 1][channel] - from) * part));
    colours[i] = (255 << 24) | (b << 16) | (g << 8) | r;
  }
  return colours;
}

const TABLES = { signed: table(SIGNED), probability: table(PROBABILITY) };
// masked (−∞) or not a number: grey, never a colour of the scale
const HIDDEN = (255 << 24) | (0xd6 << 16) | (0xd6 << 8) | 0xd6;

/** Colours of many values at once, into ``pixels``. */
export function paintInto(pixels, values, limit, scale) {
  const colours = TABLES[scale],
    half = 127.5 / (limit || 1),
    signed = scale === "signed";
  for (let i = 0; i < pixels.length; i++) {
    const value = values[i];
    if (value - value !== 0)
      pixels[i] = HIDDEN; // infinite or not a number
    else {
      const at = signed ? 127.5 + half * value : 255 * Math.sqrt(value > 0 ? value / limit : 0);
      pixels[i] = colours[at < 0 ? 0 : at > 255 ? 255 : (at + 0.5) | 0];
    }
  }
}

/** A colour as 0xAABBGGRR for a canvas; ``limit`` is the value at the end of the scale. */
export function colour(value, limit, scale) {
  if (!Number.isFinite(value)) return HIDDEN;
  const part = scale === "signed" ? 0.5 + (0.5 * value) / (limit || 1) : Math.sqrt(Math.max(value, 0) / (limit || 1));
  return TABLES[scale][Math.max(0, Math.min(255, Math.round(part * 255)))];
}

export function css(value, limit, scale) {
  const packed = colour(value, limit, scale);
  return `rgb(${packed & 255} ${(packed >> 8) & 255} ${(packed >> 16) & 255})`;
}

/** Black or white, whichever reads better on the colour of this value. */
export function ink(value, limit, scale) {
  const packed = colour(value, limit, scale);
  return 0.3 * (packed & 255) + 0.59 * ((packed >> 8) & 255) + 0.11 * ((packed >> 16) & 255) > 140 ? "#111" : "#fff";
}

/**
 * The end of the scale for some values: the 98th percentile of their sizes, so that a few outliers do not whiten the
 * rest.
 */
export function limitOf(values, scale) {
  if (scale === "probability") return 1;
  const step = Math.max(1, Math.floor(values.length / 5000)),
    sizes = new Float32Array(Math.ceil(values.length / step));
  let known = 0;
  for (let i = 0; i < values.length; i += step) if (Number.isFinite(values[i])) sizes[known++] = Math.abs(values[i]);
  const sorted = sizes.subarray(0, known).sort();
  return sorted[Math.min(known - 1, Math.floor(known * 0.98))] || sorted[known - 1] || 1;
}

/** The scale with its ends in numbers; ``beyond`` says that some values are larger and take the end's colour. */
export function legend(limit, scale, beyond = false) {
  const canvas = h("canvas", { width: 128, height: 1, class: "legend-bar", "aria-hidden": "true" });
  const image = new ImageData(128, 1),
    pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < 128; i++)
    pixels[i] =
      scale === "signed" ? colour((i / 63.5 - 1) * limit, limit, scale) : colour((i / 127) * limit, limit, scale);
  canvas.getContext("2d").putImageData(image, 0, 0);
  const low = scale === "signed" ? `${beyond ? "≤ " : ""}${number(-limit, 2)}` : "0",
    high = `${beyond ? "≥ " : ""}${number(limit, 2)}`;
  return h(
    "span",
    { class: "legend" },
    low,
    canvas,
    scale === "signed" ? h("span", { class: "legend-zero" }, "0") : null,
    high,
  );
}
