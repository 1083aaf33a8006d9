// Small buttons with drawn signs, and copying.

import { h, svg } from "./explain/dom.js";

// Each in a square of 20, drawn with a stroke.
const SIGNS = {
  new: "M10 4v12M4 10h12",
  send: "M10 16V4M5 9l5-5 5 5",
  stop: "M6 6h8v8H6z",
  copy: "M7 7h9v9H7zM4 13V4h9",
  done: "M4 10.5l4 4 8-9",
  edit: "M4 16l1-4 8-8 3 3-8 8zM11.5 5.5l3 3",
  again: "M16 10a6 6 0 1 1-2-4.5M16 3v3.5h-3.5",
  left: "M12 5l-5 5 5 5",
  right: "M8 5l5 5-5 5",
  close: "M5 5l10 10M15 5L5 15",
  menu: "M3 6h14M3 10h14M3 14h14",
  more: "M5 10h.01M10 10h.01M15 10h.01",
  settings: "M3.5 6.5h8M15.5 6.5h1M3.5 13.5h1M8.5 13.5h8M13.5 4.5v4M6.5 11.5v4",
  clip: "M14.5 9.5l-5 5a3 3 0 0 1-4.2-4.2l6-6a2 2 0 0 1 2.8 2.8l-5.6 5.6a1 1 0 0 1-1.4-1.4l4.8-4.8",
  branch: "M5 4v5a4 4 0 0 0 4 4h6.5M12.5 9.5L16 13l-3.5 3.5",
  open: "M8.5 3.5a5 5 0 1 1 0 10 5 5 0 0 1 0-10zM12.2 12.2l4.3 4.3",
  tokens: "M3 6h5v8H3zM10 6h7v8h-7z",
  sure: "M4 16V11M10 16V4M16 16v-8",
  bin: "M4 6h12M8 6V4h4v2M6 6l.7 10h6.6L14 6",
  save: "M10 3v9M6 9l4 4 4-4M4 16h12",
  out: "M8 4H4v12h12v-4M11 4h5v5M16 4l-7 7",
  down: "M5 8l5 5 5-5",
};

export function sign(name) {
  return svg("svg", { viewBox: "0 0 20 20", class: "sign", "aria-hidden": "true" }, svg("path", { d: SIGNS[name] }));
}

/** A button with a sign; ``label`` is what it is called, and its tip. */
export function button(name, label, click, props = {}) {
  const { class: more = "", ...rest } = props;
  return h(
    "button",
    { type: "button", class: `icon ${more}`, title: label, "aria-label": label, on: { click }, ...rest },
    sign(name),
  );
}

/** Copies what ``text()`` gives, and says so. */
export function copyButton(app, text, props = {}) {
  const made = button(
    "copy",
    app.t("copy"),
    async () => {
      await copy(text());
      made.replaceChildren(sign("done"));
      app.say(app.t("copied"));
      setTimeout(() => made.replaceChildren(sign("copy")), 1500);
    },
    props,
  );
  return made;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // a page from another address than localhost has no clipboard but this
    const area = h("textarea", { class: "unseen", value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
