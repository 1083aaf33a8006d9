// Where the numbers come from: a server on this machine, or the data that an offline file carries. The rest of the page
// cannot tell.

/** Asked for something that an offline file does not hold. */
export class LeftOut extends Error {}

/** The program that served this page answers no more. */
export class Gone extends Error {}

const KEPT = 160; // answers remembered; a tile of 200 × 576 is half a megabyte

class Source {
  constructor() {
    this.remembered = new Map();
  }

  /** JSON from ``path`` with ``params``; equal questions are asked once. */
  get(path, params = {}) {
    return this.remember(address(path, params), () => this.fetchJson(path, params));
  }

  /**
   * Two axes of a tensor: ``at`` fixes the leading ones. Answers {data: Float32Array, rows, cols, rowStep, colStep}; a
   * step above 1
   * means that each value stands for a block and is the one of largest size in it.
   */
  tile(name, { at = [], rows = null, cols = null, most = 0, run = undefined } = {}) {
    const params = { at: at.join(","), run };
    if (rows) params.rows = rows.join(":");
    if (cols) params.cols = cols.join(":");
    if (most) params.most = most;
    return this.remember(address(`tile/${name}`, params), () => this.fetchTile(name, params));
  }

  remember(key, ask) {
    let answer = this.remembered.get(key);
    this.remembered.delete(key);
    if (!answer) {
      answer = ask();
      answer.catch(() => this.remembered.delete(key));
    }
    this.remembered.set(key, answer); // the last one is the most recent
    if (this.remembered.size > KEPT) this.remembered.delete(this.remembered.keys().next().value);
    return answer;
  }
}

/** One spelling for one question: parameters in order, empty ones left out. */
export function address(path, params) {
  const query = Object.entries(params)
    .filter(([, value]) => value !== undefined && value !== null && value !== "")
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => `${key}=${encodeURIComponent(value)}`)
    .join("&");
  return query ? `${path}?${query}` : path;
}

export class Live extends Source {
  live = true;

  async ask(path, options) {
    const response = await fetch(`api/${path}`, options).catch((error) => {
      throw new Gone(error.message);
    });
    if (!response.ok) throw new Error((await response.json().catch(() => ({ error: response.statusText }))).error);
    return response;
  }

  async fetchJson(path, params) {
    return (await this.ask(address(encodeURI(path), params))).json();
  }

  async fetchTile(name, params) {
    const response = await this.ask(address(`tile/${encodeURIComponent(name)}`, params));
    const [rows, cols, rowStep, colStep] = response.headers.get("X-Tile").split(",").map(Number);
    return { data: new Float32Array(await response.arrayBuffer()), rows, cols, rowStep, colStep };
  }

  async post(path, body) {
    return (
      await this.ask(path, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      })
    ).json();
  }
}

/** A tensor's numbers: float32, or shares from 0 to 1 in 8 bits. */
function numbers({ data, bits }) {
  const raw = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  return bits === 8 ? Float32Array.from(raw, (byte) => byte / 255) : new Float32Array(raw.buffer);
}

/** The data of an offline file: the answers by address, and whole tensors, base64. */
export class Embedded extends Source {
  live = false;

  constructor(data) {
    super();
    this.answers = data.answers;
    this.tensors = data.tensors;
    this.leftOut = data.left_out;
  }

  async fetchJson(path, params) {
    const { run, ...rest } = params;
    const answer = this.answers[address(path, rest)];
    if (answer === undefined) throw new LeftOut(address(path, rest));
    return answer;
  }

  async fetchTile(name, params) {
    const tensor = this.tensors[name];
    if (!tensor) throw new LeftOut(name);
    const all = (tensor.values ??= numbers(tensor));
    const [rows, cols] = tensor.shape.slice(-2),
      at = params.at ? params.at.split(",").map(Number) : [];
    const start = at.reduce((sum, index, axis) => sum * tensor.shape[axis] + index, 0) * rows * cols;
    const [top, bottom] = params.rows ? params.rows.split(":").map(Number) : [0, rows];
    const [left, right] = params.cols ? params.cols.split(":").map(Number) : [0, cols];
    const data = new Float32Array((bottom - top) * (right - left));
    for (let i = top; i < bottom; i++)
      data.set(all.subarray(start + i * cols + left, start + i * cols + right), (i - top) * (right - left));
    return {
      data,
      rows: bottom - top,
      cols: right - left,
      bits: tensor.bits,
      rowStep: tensor.row_step ?? 1,
      colStep: tensor.col_step ?? 1,
    };
  }

  async post() {
    throw new LeftOut("live");
  }
}
