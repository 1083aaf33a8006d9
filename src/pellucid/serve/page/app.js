// What the parts of the page share: words, settings, the conversation that is open, and what can be done with it.

import * as api from "./api.js";
import { lay } from "./align.js";
import { Store } from "./store.js";
import * as tree from "./tree.js";
import { en } from "./words.en.js";
import { zh } from "./words.zh.js";

const WORDS = { en, zh };
const SETTINGS = "pellucid-chat";
const LOOK = ["lang", "theme"]; // shared with the explain page
const KEPT_EVERY = 1500; // ms, while an answer grows
export const ALTERNATIVES = 10;

// What a conversation's answers are made with; empty: as the model's files have it.
export const CHOICES = {
  model: "",
  system: "",
  temperature: "",
  top_p: "",
  top_k: "",
  min_p: "",
  max_tokens: "",
  seed: "",
};

export class App {
  constructor() {
    this.store = new Store();
    this.settings = { lang: "", theme: "", sure: false, key: "", alternatives: true, ...CHOICES, ...remembered() };
    if (!WORDS[this.settings.lang]) this.settings.lang = (navigator.language || "en").startsWith("zh") ? "zh" : "en";
    this.models = [];
    this.talk = tree.conversation(this.choices());
    this.running = new Map(); // id of an answer that grows → {talk, controller}
    this.opened = null; // {node, index}: the token that is looked at
    this.parts = {}; // thread, side, top, composer, panel: what draws
  }

  t(key, ...values) {
    const entry = WORDS[this.settings.lang][key] ?? WORDS.en[key];
    return typeof entry === "function" ? entry(...values) : (entry ?? key);
  }

  /** A line at the foot of the page, and for those who listen to it. */
  say(text, lasting = false) {
    const place = document.getElementById("said");
    place.textContent = text;
    clearTimeout(this.saying);
    if (!lasting) this.saying = setTimeout(() => (place.textContent = ""), 3500);
  }

  /** What new conversations are made with: as it was last set. */
  choices() {
    return Object.fromEntries(Object.keys(CHOICES).map((key) => [key, this.settings[key]]));
  }

  /** A setting as it is for this conversation. */
  value(key) {
    return (key in CHOICES ? this.talk.settings[key] : this.settings[key]) ?? "";
  }

  set(changes) {
    Object.assign(this.settings, changes);
    for (const key of Object.keys(CHOICES)) if (key in changes) this.talk.settings[key] = changes[key];
    if (Object.keys(changes).some((key) => key in CHOICES) && Object.keys(this.talk.nodes).length) this.keep(this.talk);
    const look = Object.fromEntries(LOOK.map((key) => [key, this.settings[key]]));
    try {
      localStorage.setItem(SETTINGS, JSON.stringify(this.settings));
      localStorage.setItem("pellucid", JSON.stringify({ ...read("pellucid"), ...look }));
    } catch {
      /* a private window may keep nothing */
    }
  }

  /** The model that answers here. */
  get model() {
    return this.models.find((model) => model.id === this.talk.settings.model) ?? this.models[0];
  }

  /** Whether the model was made to chat; one that was not goes on with the text. */
  get chats() {
    return this.model?.meta?.has_chat_template !== false;
  }

  async findModels() {
    try {
      this.models = await api.models(this.settings.key);
    } catch (error) {
      this.say(this.told(error), true);
      if (error.status === 401) this.parts.preferences.open("key");
    }
  }

  told(error) {
    if (error.status === 401) return this.t("key_needed");
    return error instanceof TypeError ? this.t("no_server") : error.message;
  }

  // --- conversations -------------------------------------------------------------------------------------------------

  begin() {
    this.show(tree.conversation(this.choices()));
  }

  /** Opens a kept conversation; one that is not there any more is answered with a new one. */
  async open(id) {
    const growing = [...this.running.values()].find(({ talk }) => talk.id === id)?.talk;
    const talk = growing ?? (await this.store.get(id));
    if (talk) this.show(talk);
    else this.begin();
  }

  show(talk) {
    this.talk = talk;
    this.opened = null;
    const address = Object.keys(talk.nodes).length ? `#c=${talk.id}` : "#";
    if (location.hash !== address) history.pushState(null, "", address);
    this.draw();
  }

  draw() {
    for (const part of Object.values(this.parts)) part.draw();
  }

  async keep(talk) {
    if (talk.removed) return; // its last answer was still being stopped
    talk.updated = Date.now();
    try {
      await this.store.put(talk);
    } catch {
      this.say(this.t("no_room"), true);
    }
    if (!this.store.lasting && !this.warned) this.say(this.t("not_lasting"));
    this.warned = true;
    this.parts.side?.draw();
  }

  async rename(id, title) {
    const talk = id === this.talk.id ? this.talk : await this.store.get(id);
    if (!talk || !title.trim()) return;
    talk.title = tree.titled(title);
    await this.keep(talk);
    this.parts.top.draw();
  }

  async remove(id) {
    for (const [node, { talk }] of this.running) if (talk.id === id) ((talk.removed = true), this.stop(node));
    await this.store.remove(id);
    this.say(this.t("removed"));
    if (id === this.talk.id) this.begin();
    else this.parts.side.draw();
  }

  // --- asking --------------------------------------------------------------------------------------------------------

  /** A question below ``parent`` (by default: below what is shown), and its answer. */
  send(content, files = [], parent = tree.path(this.talk).at(-1)?.id) {
    const { talk } = this;
    talk.title ||= tree.titled(content || files[0]?.name || "");
    const question = tree.add(talk, parent, { role: "user", content, files });
    history.replaceState(null, "", `#c=${talk.id}`);
    return this.answer(question);
  }

  /** Another answer to the same question. */
  again(node) {
    return this.answer(this.talk.nodes[node.parent]);
  }

  /** A branch of an answer that goes on with other tokens from ``index`` on: {id, text, logprob}. */
  branch(node, index, ...tokens) {
    const kept = node.tokens.slice(0, index).map((one) => ({ ...one, part: undefined, at: null, end: null }));
    const top = (i) => (i === 0 ? node.tokens[index].top : []);
    const begun = [...kept, ...tokens.map((one, i) => ({ ...one, top: top(i), yours: true, at: null }))];
    return this.answer(this.talk.nodes[node.parent], begun, node);
  }

  /** Lets the model go on where an answer ended. */
  async goOn(node) {
    const { talk } = this,
      begun = node.tokens.map((one) => ({ ...one, part: undefined, at: null, end: null }));
    Object.assign(node, { tokens: begun, laid: null, finish: null, error: null, again: true });
    await this.write(talk, node, () => this.grow(talk, node, [...begun], this.running.get(node.id).controller.signal));
  }

  /** Lets the model write below ``parent``; ``begun`` are the answer's first tokens, where it does not begin anew. */
  async answer(parent, begun = [], from = null) {
    if (this.growing) this.stop(this.growing.id); // what is asked now takes its place
    const { talk } = this,
      node = tree.add(talk, parent?.id, { role: "assistant", content: "", reasoning: "", calls: [], tokens: begun });
    Object.assign(node, { model: this.model?.id ?? "", promptIds: from?.promptIds ?? [], finish: null, error: null });
    if (from) node.from = { id: from.id, index: begun.length - 1 };
    await this.write(talk, node, async () => {
      if (this.ends(begun)) this.end(node, from, begun.length - 1);
      else await this.grow(talk, node, begun, this.running.get(node.id).controller.signal);
    });
  }

  /** An answer grows by ``work``: it is shown meanwhile, and kept at the end. */
  async write(talk, node, work) {
    this.running.set(node.id, { talk, controller: new AbortController() });
    this.opened = null;
    this.draw();
    await this.keep(talk);
    await work();
    lay(node, true);
    if (!this.model?.meta) await this.findModels(); // it was not loaded yet when they were asked for
    this.running.delete(node.id);
    await this.keep(talk);
    if (this.talk === talk) this.parts.thread.update(node, true);
    this.parts.composer.draw();
  }

  /** Whether the last of these tokens ends an answer, so that there is nothing to be written. */
  ends(begun) {
    return begun.length > 0 && (this.model?.meta?.stop_token_ids ?? []).includes(begun.at(-1).id);
  }

  end(node, from, index) {
    const before = from.tokens.slice(0, index).findLast((token) => token.at != null);
    node.reasoning = before?.part === "reasoning" ? from.reasoning.slice(0, before.end) : before ? from.reasoning : "";
    node.content = before?.part === "content" ? from.content.slice(0, before.end) : "";
    node.finish = "stop";
  }

  async grow(talk, node, begun, signal) {
    let kept = performance.now();
    try {
      for await (const chunk of api.stream(this.order(talk, node, begun), { key: this.settings.key, signal })) {
        take(node, chunk, begun.length > 0);
        lay(node, false);
        if (this.talk === talk) this.parts.thread.update(node);
        if (performance.now() - kept > KEPT_EVERY) {
          kept = performance.now();
          this.keep(talk);
        }
      }
      if (!node.finish) throw new Error(this.t("no_end"));
    } catch (error) {
      node.finish = error.name === "AbortError" ? "stopped" : "error";
      node.error = node.finish === "error" ? this.told(error) : null;
      if (error.status === 401) this.parts.preferences.open("key");
    }
  }

  /** The body of a request: the conversation up to this answer, and how to go on. */
  order(talk, node, begun) {
    const { system, model, seed, ...numbers } = talk.settings;
    const messages = tree.before(talk, node).map((one) => ({ role: one.role, content: tree.content(one) }));
    const body = { model: this.model?.id ?? model, stream: true, stream_options: { include_usage: true } };
    body.plain_if_no_template = true; // and it is said (``chats``)
    const which = tree.siblings(talk, node).indexOf(node); // a seed repeats an answer, not that of its branches
    body.messages = system ? [{ role: "system", content: system }, ...messages] : messages;
    for (const [name, value] of Object.entries(numbers)) if (value !== "") body[name] = Number(value);
    if (seed !== "") body.seed = Number(seed) + which;
    if (this.settings.alternatives)
      Object.assign(body, { logprobs: true, top_logprobs: ALTERNATIVES, return_token_ids: true });
    if (begun.length) body.answer_token_ids = begun.map((token) => token.id);
    return body;
  }

  stop(id) {
    this.running.get(id)?.controller.abort();
  }

  /** The answer of this conversation that grows, or undefined. */
  get growing() {
    const id = [...this.running.keys()].find((one) => this.running.get(one).talk.id === this.talk.id);
    return id && this.talk.nodes[id];
  }

  // --- a token -------------------------------------------------------------------------------------------------------

  look(node, index) {
    this.opened = node ? { node, index } : null;
    this.parts.thread.mark();
    this.parts.panel.draw();
  }
}

/** Adds what a chunk brings to an answer. */
function take(node, chunk, branch) {
  if (chunk.prompt_token_ids && !branch) node.promptIds = chunk.prompt_token_ids;
  if (chunk.usage) node.usage = chunk.usage;
  if (chunk.timings) node.timings = chunk.timings;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { content, reasoning_content, tool_calls } = choice.delta ?? {};
  if (node.again && (content || reasoning_content))
    Object.assign(node, { content: "", reasoning: "", calls: [], again: false });
  node.content += content ?? "";
  node.reasoning += reasoning_content ?? "";
  for (const { index, function: called } of tool_calls ?? []) {
    const call = (node.calls[index] ??= { name: "", arguments: "" });
    call.name ||= called?.name ?? "";
    call.arguments += called?.arguments ?? "";
  }
  for (const [i, token] of (choice.logprobs?.content ?? []).entries())
    node.tokens.push({
      ...named({ id: choice.token_ids?.[i], ...token }),
      top: token.top_logprobs.map(named),
      at: null,
    });
  if (choice.finish_reason) node.finish = choice.finish_reason;
}

/** What is kept of a token; its bytes where its text does not say them. */
function named({ id, token: text, logprob, bytes }) {
  return text.includes("\ufffd") ? { id, text, logprob, bytes } : { id, text, logprob };
}

function read(name) {
  try {
    return JSON.parse(localStorage.getItem(name) ?? "{}") ?? {};
  } catch {
    return {};
  }
}

function remembered() {
  const { lang, theme } = read("pellucid"),
    kept = read(SETTINGS);
  return { ...(lang ? { lang } : {}), ...(theme ? { theme } : {}), ...kept };
}
