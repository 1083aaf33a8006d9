// Files in and out: what is attached is read as text here, in the browser; what is saved is made here.

import { h } from "./explain/dom.js";

export const MOST_BYTES = 512 * 1024;

/** {name, text} of a file. Raises: Error with a key of words, where it is no text or too large. */
export async function readText(file) {
  if (file.size > MOST_BYTES) throw new Error("file_large");
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Error("file_binary");
  }
  if (text.includes("\0")) throw new Error("file_binary");
  return { name: file.name.slice(0, 200), text: text.replaceAll("\r\n", "\n") };
}

/** Offers a text as a file to be saved. */
export function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = h("a", { href: url, download: name.replace(/[^\p{L}\p{N} ._-]+/gu, " ").trim() || "conversation" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/**
 * A conversation from a file that this page saved, made anew from what it understands: what else stands in it is left
 * out, and nothing in it can be of another kind than the page expects. Raises: Error.
 */
export function readConversation(text, fresh) {
  const { format, conversation: told } = JSON.parse(text);
  if (format !== "pellucid-chat" || !Object.keys(told.nodes).length) throw new Error("not_ours");
  const nodes = Object.fromEntries(Object.values(told.nodes).map((node) => [word(node.id), message(node)]));
  const settings = Object.fromEntries(Object.entries(told.settings ?? {}).map(([key, value]) => [key, word(value)]));
  const chosen = Object.fromEntries(Object.entries(told.chosen ?? {}).map(([key, value]) => [key, word(value)]));
  const now = Date.now();
  return { id: fresh(), title: word(told.title), created: now, updated: now, settings, chosen, nodes };
}

function message(node) {
  if (!word(node.id)) throw new Error("not_ours"); // it would be its own parent
  const common = {
    id: word(node.id),
    parent: word(node.parent),
    created: Number(node.created) || 0,
    content: word(node.content),
  };
  if (node.role === "user")
    return {
      ...common,
      role: "user",
      files: list(node.files).map((file) => ({ name: word(file.name), text: word(file.text) })),
    };
  if (node.role !== "assistant") throw new Error("not_ours");
  return {
    ...common,
    role: "assistant",
    reasoning: word(node.reasoning),
    model: word(node.model),
    finish: node.finish ? word(node.finish) : "stopped",
    error: node.error ? word(node.error) : null,
    calls: list(node.calls).map((call) => ({ name: word(call.name), arguments: word(call.arguments) })),
    tokens: list(node.tokens).map((one) => ({ ...token(one), ...letters(one), top: list(one.top).map(token) })),
    promptIds: list(node.promptIds).map(Number).filter(Number.isInteger),
  };
}

function token(told) {
  const logprob = typeof told.logprob === "number" ? told.logprob : null,
    read = { id: Number(told.id) || 0, text: word(told.text), logprob };
  return told.bytes ? { ...read, bytes: list(told.bytes).map(Number) } : read;
}

function letters({ part, at, end, yours }) {
  const laid = ["content", "reasoning"].includes(part) && Number.isInteger(at) && Number.isInteger(end);
  return { ...(laid ? { part, at, end } : { at: null }), ...(yours ? { yours: true } : {}) };
}

const word = (value) =>
  typeof value === "string" ? value : value === undefined || value === null ? "" : String(value);
const list = (value) => (Array.isArray(value) ? value : []);
