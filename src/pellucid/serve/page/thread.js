// The conversation as it reads: questions, answers drawn block by block as they grow, and every token of them in a span
// of its own.

import { eachFrame, h } from "./explain/dom.js";
import { button, copyButton, sign } from "./buttons.js";
import { draw as drawBlock } from "./draw.js";
import { blocks } from "./markdown.js";
import { face, share, sureness } from "./sure.js";
import * as tree from "./tree.js";

const NEAR = 80; // pixels from the end at which the page follows a growing answer

export class Thread {
  constructor(app, element) {
    this.app = app;
    this.element = element;
    this.drawn = new Map(); // id of a message → its element and what it was drawn from
    this.update = eachFrameEach((node, done) => this.refresh(node, done));
    element.addEventListener("click", (event) => this.clicked(event));
    element.addEventListener("mouseover", ({ target }) => this.tip(target));
    element.addEventListener("scroll", () => this.follow(), { passive: true });
    this.toEnd = button("down", app.t("to_end"), () => this.scrollToEnd(true), { class: "to-end", hidden: true });
    element.parentElement.append(this.toEnd);
    this.following = true;
  }

  draw() {
    const { app } = this,
      shown = tree.path(app.talk);
    const same = this.talk === app.talk;
    this.talk = app.talk;
    this.drawn.clear();
    this.element.classList.toggle("empty", !shown.length);
    this.element.classList.toggle("sure", app.settings.sure);
    this.element.replaceChildren(
      h("div", { class: "column" }, shown.length ? shown.map((node) => this.message(node)) : this.welcome()),
    );
    for (const node of shown) if (node.role === "assistant") this.refresh(node, !app.running.has(node.id));
    this.mark();
    if (!same || app.growing) this.scrollToEnd();
  }

  welcome() {
    const { app } = this;
    return h(
      "div",
      { class: "welcome" },
      h("h1", {}, app.t(app.chats ? "hello" : "hello_text")),
      h("p", {}, app.t("hello_more")),
      app.chats ? null : h("p", { class: "plain" }, app.t("hello_plain")),
      h(
        "div",
        { class: "examples" },
        app
          .t(app.chats ? "examples" : "beginnings")
          .map((text) => h("button", { type: "button", on: { click: () => app.send(text) } }, text)),
      ),
    );
  }

  message(node) {
    const { app } = this;
    if (node.role === "user") {
      const element = h("article", { class: "question", data: { id: node.id }, "aria-label": app.t("you") });
      this.question(element, node);
      return element;
    }
    const parts = {
      thoughts: h("details", { class: "thoughts", hidden: true }),
      body: h("div", { class: "body" }),
      calls: h("div", { class: "calls" }),
      ending: h("div", { class: "ending" }),
      actions: h("div", { class: "actions" }),
    };
    const made = h(
      "article",
      { class: "answer", data: { id: node.id }, "aria-label": node.model },
      Object.values(parts),
    );
    this.drawn.set(node.id, { element: made, ...parts, blocks: [], thought: [] });
    return made;
  }

  question(element, node) {
    const { app } = this;
    element.replaceChildren(
      h(
        "div",
        { class: "said" },
        (node.files ?? []).map((file) =>
          h("details", { class: "file" }, h("summary", {}, sign("clip"), file.name), h("pre", {}, file.text)),
        ),
        node.content ? h("p", {}, node.content) : null,
      ),
      h(
        "div",
        { class: "actions" },
        this.branches(node),
        copyButton(app, () => node.content),
        button("edit", app.t("edit"), () => this.edit(element, node)),
      ),
    );
  }

  /** Editing is asking anew beside the old question, which stays as a branch. */
  edit(element, node) {
    const { app } = this;
    const area = h("textarea", { value: node.content, rows: 3, "aria-label": app.t("edit") });
    const send = () => app.send(area.value.trim(), node.files, node.parent);
    const cancel = () => this.question(element, node);
    const fit = () => ((area.style.height = "auto"), (area.style.height = `${area.scrollHeight + 2}px`));
    area.addEventListener("input", fit);
    area.addEventListener("keydown", (event) => {
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === "Escape") cancel();
      if (event.key === "Enter" && !event.shiftKey && area.value.trim()) (event.preventDefault(), send());
    });
    element.replaceChildren(
      h(
        "div",
        { class: "editing" },
        area,
        h(
          "div",
          { class: "row end" },
          h("button", { type: "button", on: { click: cancel } }, app.t("cancel")),
          h("button", { type: "button", class: "primary", on: { click: send } }, app.t("edit_send")),
        ),
      ),
    );
    fit();
    area.focus();
  }

  branches(node) {
    const { app } = this,
      all = tree.siblings(app.talk, node);
    if (all.length < 2) return null;
    const i = all.indexOf(node),
      to = (other) => () => (tree.choose(app.talk, other), (app.opened = null), app.keep(app.talk), app.draw());
    return h(
      "span",
      { class: "branches", title: app.t("branch_of", i + 1, all.length) },
      button("left", app.t("branch_before"), to(all[i - 1]), { disabled: i === 0 }),
      h("span", { "aria-live": "polite" }, `${i + 1} / ${all.length}`),
      button("right", app.t("branch_after"), to(all[i + 1]), { disabled: i === all.length - 1 }),
    );
  }

  // --- an answer -----------------------------------------------------------------------------------------------------

  refresh(node, done = false) {
    const drawn = this.drawn.get(node.id);
    if (!drawn) return;
    const { app } = this,
      growing = app.running.has(node.id);
    drawn.element.classList.toggle("growing", growing);
    drawn.element.setAttribute("aria-busy", String(growing));
    if (node.raw) this.raw(node, drawn);
    else {
      this.thoughts(node, drawn, growing, done);
      this.grow(drawn, "blocks", drawn.body, node, "content", done);
    }
    this.calls(node, drawn);
    this.ending(node, drawn, growing);
    if (done) this.mark();
    if (this.following) this.scrollToEnd();
  }

  thoughts(node, drawn, growing, done) {
    const { thoughts } = drawn,
      first = thoughts.hidden;
    thoughts.hidden = !node.reasoning;
    if (!node.reasoning) return;
    if (first) {
      drawn.thinking = h("div", { class: "body" });
      drawn.heading = h("summary");
      thoughts.replaceChildren(drawn.heading, drawn.thinking);
    }
    drawn.heading.textContent = this.app.t(growing && !node.content ? "thinking" : "thoughts");
    this.grow(drawn, "thought", drawn.thinking, node, "reasoning", done);
  }

  /** Draws what is new: blocks that stand as they stood are left alone. */
  grow(drawn, key, place, node, part, done) {
    const source = node[part],
      now = blocks(source),
      before = drawn[key];
    let same = 0;
    if (!done) {
      const settled = Math.min(before.length, now.length) - 2; // the last two may still change, and their tokens
      while (same < settled && alike(before[same], now[same])) same += 1;
    }
    const put = placing(node, part);
    const fresh = now.slice(same).map((block) => drawBlock(this.app, block, put));
    while (place.childNodes.length > same) place.lastChild.remove();
    place.append(...fresh);
    drawn[key] = now.map(({ kind, from, to }) => ({ kind, from, to }));
  }

  /** The answer as the sequence of tokens that it is. */
  raw(node, drawn) {
    drawn.thoughts.hidden = true;
    const tokens = node.tokens.map((token, i) =>
      h("span", { class: `t chip ${kind(token)}`, data: { i } }, face(token)),
    );
    drawn.body.replaceChildren(h("div", { class: "raw" }, tokens));
    drawn.blocks = [];
  }

  calls(node, drawn) {
    const { app } = this;
    drawn.calls.replaceChildren(
      ...node.calls
        .filter(Boolean)
        .map((call) =>
          h(
            "figure",
            { class: "call" },
            h("figcaption", {}, `${app.t("tool_call")} `, h("code", {}, call.name)),
            h("pre", {}, pretty(call.arguments)),
          ),
        ),
    );
  }

  ending(node, drawn, growing) {
    const { app } = this,
      empty = !node.content && !node.reasoning && !node.calls.length;
    const finish = node.finish ?? (growing ? null : "stopped"); // the page was left while it grew
    const plain = !app.chats && !tree.before(app.talk, node).some((one) => one.role === "assistant");
    const key = JSON.stringify([
      plain,
      growing,
      finish,
      node.error,
      empty,
      node.raw,
      app.settings.lang,
      this.siblingsOf(node),
    ]);
    if (drawn.ended === key) return;
    drawn.ended = key;
    drawn.ending.replaceChildren(
      ...[
        growing && empty ? h("p", { class: "waiting" }, app.t("waiting")) : null,
        plain && !growing ? h("p", { class: "soft" }, app.t("hello_plain")) : null,
        node.error ? h("p", { class: "bad" }, `${app.t("ended_error")} ${node.error}`) : null,
        ["length", "stopped"].includes(finish)
          ? h("p", { class: "soft" }, `${app.t(`ended_${finish}`)} `, this.more(node))
          : null,
      ].filter(Boolean),
    );
    drawn.actions.replaceChildren(...(growing ? [] : this.actions(node)));
  }

  more(node) {
    const { app } = this;
    if (!node.tokens.length) return null;
    return h("button", { type: "button", class: "go-on", on: { click: () => app.goOn(node) } }, app.t("go_on"));
  }

  siblingsOf(node) {
    return tree.siblings(this.app.talk, node).length;
  }

  actions(node) {
    const { app } = this;
    const flip = () => {
      node.raw = !node.raw;
      Object.assign(this.drawn.get(node.id), { blocks: [], thought: [] });
      this.refresh(node, true);
    };
    const speed = node.timings?.predicted_per_second;
    const count = node.tokens.length || node.usage?.completion_tokens;
    const facts = [
      node.model,
      count ? app.t("tokens_count", count) : "",
      speed ? app.t("speed", Math.round(speed)) : "",
    ];
    return [
      this.branches(node),
      copyButton(app, () => node.content),
      button("again", app.t("again"), () => app.again(node)),
      node.tokens.length ? button("open", app.t("open_tokens"), () => app.look(node, 0)) : null,
      node.tokens.length
        ? button("tokens", app.t(node.raw ? "as_text" : "as_tokens"), flip, { "aria-pressed": String(!!node.raw) })
        : null,
      h("span", { class: "facts" }, facts.filter(Boolean).join(" · ")),
    ].filter(Boolean);
  }

  // --- tokens --------------------------------------------------------------------------------------------------------

  clicked(event) {
    const span = event.target.closest?.(".t"),
      selected = getSelection();
    if (!span || event.target.closest("a, button, summary") || (selected && !selected.isCollapsed)) return;
    const node = this.app.talk.nodes[span.closest("article").dataset.id];
    this.app.look(node, Number(span.dataset.i));
  }

  /** The probability of the token under the pointer, for who waits there. */
  tip(span) {
    if (!span.matches(".t") || span.title) return;
    const { logprob } = this.app.talk.nodes[span.closest("article").dataset.id].tokens[span.dataset.i];
    if (logprob !== null && logprob !== undefined) span.title = share(Math.exp(logprob));
  }

  /** The token that is looked at stands out. */
  mark() {
    for (const span of this.element.querySelectorAll(".t.here")) span.classList.remove("here");
    const { opened } = this.app;
    if (!opened) return;
    const place = this.element.querySelector(`article[data-id="${CSS.escape(opened.node.id)}"]`);
    const spans = place?.querySelectorAll(`.t[data-i="${opened.index}"]`) ?? [];
    for (const span of spans) span.classList.add("here");
    spans[spans.length - 1]?.scrollIntoView({ block: "nearest" });
  }

  // --- following -----------------------------------------------------------------------------------------------------

  follow() {
    const { scrollHeight, scrollTop, clientHeight } = this.element;
    this.following = scrollHeight - scrollTop - clientHeight < NEAR;
    this.toEnd.hidden = this.following;
  }

  scrollToEnd(asked = false) {
    if (asked) this.following = true;
    this.element.scrollTop = this.element.scrollHeight;
    this.follow();
  }
}

const alike = (a, b) => a.kind === b.kind && a.from === b.from && a.to === b.to;

/** Draws stretches of one part of an answer: each token's letters in a span that knows which token it is. */
function placing(node, part) {
  const laid = [];
  node.tokens.forEach((token, i) => token.part === part && token.at != null && token.end > token.at && laid.push(i));
  return (text, from) => {
    const made = [],
      to = from + text.length;
    let at = from,
      i = first(node.tokens, laid, from);
    for (; i < laid.length && node.tokens[laid[i]].at < to; i += 1) {
      const token = node.tokens[laid[i]],
        start = Math.max(token.at, at),
        end = Math.min(token.end, to);
      if (start > at) made.push(text.slice(at - from, start - from));
      const word = text.slice(start - from, end - from),
        gap = /^\s*(?=\S)/.exec(word)?.[0] ?? ""; // the space before a word keeps no colour, at a line's end least
      if (gap) made.push(h("span", { class: "t gap", data: { i: laid[i] } }, gap));
      made.push(h("span", { class: `t ${kind(token)}`, data: { i: laid[i] } }, word.slice(gap.length)));
      at = end;
    }
    if (at < to) made.push(text.slice(at - from));
    return made;
  };
}

const kind = (token) => (token.yours ? `yours ${sureness(token)}` : sureness(token));

/** The first token that ends behind a place. */
function first(tokens, laid, from) {
  let low = 0,
    high = laid.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (tokens[laid[middle]].end <= from) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Arguments as one reads them; while they grow they are no JSON yet. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Once a frame for each node, with its latest arguments. */
function eachFrameEach(tell) {
  const due = new Map();
  const flush = eachFrame(() => {
    const all = [...due];
    due.clear();
    for (const [node, done] of all) tell(node, done);
  });
  return (node, done = false) => {
    due.set(node, done || due.get(node) || false);
    flush();
  };
}
