// Blocks of markdown as elements. ``place(text, from)`` draws a stretch of the source: tokens, where they are known.

import { h } from "./explain/dom.js";
import { copyButton } from "./buttons.js";
import { inline } from "./markdown.js";

/** The elements of one block. ``app``: for words. */
export function draw(app, block, place) {
  const line = (lines) => inline(lines).map((item) => span(app, item, place));
  const inner = (all, tight) =>
    all.map((one) => (tight && one.kind === "paragraph" ? line(one.lines) : draw(app, one, place)));
  switch (block.kind) {
    case "heading":
      return h(`h${Math.min(6, block.level + 2)}`, { class: `md-h${block.level}` }, line(block.lines));
    case "rule":
      return h("hr");
    case "quote":
      return h("blockquote", {}, inner(block.blocks));
    case "code":
      return code(app, block, place);
    case "list":
      return h(
        block.ordered ? "ol" : "ul",
        { start: block.ordered && block.start !== 1 ? block.start : null },
        block.items.map((item) =>
          h(
            "li",
            { class: item.task === null ? null : "task" },
            item.task === null ? null : h("span", { class: "box", "aria-hidden": "true" }, item.task ? "☑" : "☐"),
            inner(item.blocks, !block.loose),
          ),
        ),
      );
    case "table": {
      const row = (cells, tag) =>
        h(
          "tr",
          {},
          block.columns.map((align, i) => h(tag, { class: `to-${align}` }, cells[i] ? line([cells[i]]) : null)),
        );
      const rows = block.rows.map((cells) => row(cells, "td"));
      return h(
        "div",
        { class: "wide", tabindex: "0" },
        h("table", {}, h("thead", {}, row(block.head, "th")), h("tbody", {}, rows)),
      );
    }
    default:
      return h("p", {}, line(block.lines));
  }
}

function code(app, block, place) {
  const text = block.lines.map((line) => line.text).join("\n");
  const lines = block.lines.map((line, i) => place(line.text + (i < block.lines.length - 1 ? "\n" : ""), line.from));
  return h(
    "figure",
    { class: "code" },
    h(
      "figcaption",
      {},
      h("span", {}, block.language || app.t("code")),
      copyButton(app, () => text),
    ),
    h("pre", { tabindex: "0" }, h("code", {}, lines)),
  );
}

function span(app, item, place) {
  const inner = () => item.inner.map((one) => span(app, one, place));
  switch (item.kind) {
    case "text":
      return place(item.text, item.from);
    case "link":
      return h("a", { href: item.href, target: "_blank", rel: "noopener noreferrer", title: item.href }, inner());
    case "picture": // never fetched: an answer must not be able to tell anybody that it was read
      return h("span", { class: "picture", title: item.href }, `${app.t("picture")} `, inner());
    default:
      return h(item.kind, {}, inner());
  }
}
