// 10. Decoding: the sentence grows a token at a time; what is kept of each one (keys and values), and what each step
// takes.

import { bytes, count, h, number, percent, visible } from "../dom.js";
import { bars, choice, frame, story, tokenBars, trouble } from "../figures.js";

export function render(app) {
  const section = frame(app, "decode", 11),
    text = h("p", { class: "answer" }),
    cache = h("figure", { class: "kv-cache" }),
    times = h("figure", { class: "times" }),
    next = h("figure", {});
  let made = [],
    how = 0,
    prefill = null,
    held = null;
  const show = () => {
    text.replaceChildren(
      app.run.text,
      ...made.map((token, i) =>
        h(
          "span",
          { class: i === made.length - 1 ? "new grown" : "new", title: percent(token.p), data: { id: token.id } },
          token.text,
        ),
      ),
    );
    next.replaceChildren(
      h("figcaption", {}, app.t("next_caption")),
      tokenBars(app, (made.at(-1)?.next ?? app.run.next).slice(0, 8), (token) => more(1, token.id)),
    );
    if (held)
      cache.replaceChildren(
        h(
          "figcaption",
          {},
          app.t("cache_caption", { length: held.length, bytes: bytes(held.bytes), each: bytes(held.bytes_per_token) }),
        ),
        ...cachePicture(app, held),
      );
    if (prefill)
      times.replaceChildren(
        h("figcaption", {}, app.t("times_caption")),
        bars([
          { name: app.t("prefill", prefill.tokens), value: prefill.ms, text: `${number(prefill.ms, 3)} ms` },
          ...made
            .slice(-12)
            .map((token) => ({ name: visible(token.text), value: token.ms, text: `${number(token.ms, 3)} ms` })),
        ]),
        h(
          "p",
          { class: "soft" },
          app.t(
            "times_said",
            number(prefill.tokens / (prefill.ms / 1000), 3),
            made.length ? number((1000 * made.length) / made.reduce((sum, token) => sum + token.ms, 0), 3) : "–",
          ),
        ),
      );
  };
  const more = async (steps, id = null) => {
    buttons.forEach((button) => (button.disabled = true));
    try {
      for (let i = 0; i < steps; i++) {
        const its = await app.source.post("generate", {
          run: app.run.run,
          ids: made.map((token) => token.id),
          temperature: how,
          token: id,
        });
        if (!text.isConnected) return;
        [made, held] = [[...made, its.token], its.cache];
        prefill = its.prefill ?? prefill;
        show();
        if (its.token.end) break;
      }
    } catch (error) {
      next.replaceChildren(trouble(app, error));
    }
    buttons.forEach((button) => (button.disabled = false));
  };
  const longer = async () => app.rerun(app.run.text + made.map((token) => token.text).join(""));
  const buttons = [
    h("button", { class: "primary", data: { more: 1 }, on: { click: () => more(1) } }, app.t("one_more")),
    h("button", { data: { more: 8 }, on: { click: () => more(8) } }, app.t("eight_more")),
    h(
      "button",
      {
        on: {
          click: () => ((made = []), (held = prefill = null), cache.replaceChildren(), times.replaceChildren(), show()),
        },
      },
      app.t("start_again"),
    ),
    h("button", { on: { click: longer } }, app.t("look_inside")),
  ];
  section.append(
    story(app, "decode_story", app.model),
    text,
    h(
      "div",
      { class: "controls" },
      buttons,
      choice(
        [
          [0, app.t("greedy")],
          [0.8, app.t("sampled_08")],
        ],
        how,
        (value) => (how = value),
      ),
    ),
    next,
    cache,
    times,
  );
  show();
  return section;
}

/** Layers by positions: a mark for each key and value that is kept; a windowed layer forgets. */
function cachePicture(app, held) {
  const shown = Math.min(held.length, 96),
    step = Math.max(1, Math.ceil(held.layers.length / 32));
  const rows = held.layers
    .filter((_, i) => i % step === 0)
    .map((layer) =>
      ["k", "v"].map((which) =>
        h(
          "div",
          { style: { display: "grid", "grid-template-columns": `repeat(${shown}, 1fr)`, gap: "1px" } },
          Array.from({ length: shown }, (_, i) =>
            h("i", {
              class: which,
              style: { visibility: held.length - shown + i < layer.first ? "hidden" : "visible" },
            }),
          ),
        ),
      ),
    );
  return [
    h(
      "div",
      {
        class: "cache",
        role: "img",
        "aria-label": app.t("cache_caption", {
          length: held.length,
          bytes: bytes(held.bytes),
          each: bytes(held.bytes_per_token),
        }),
      },
      rows,
    ),
    h(
      "p",
      { class: "soft" },
      app.t("cache_axes", held.layers.length, step),
      shown < held.length ? ` ${app.t("cache_some", shown)}` : "",
    ),
  ];
}
