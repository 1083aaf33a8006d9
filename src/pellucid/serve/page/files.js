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
 * out. Raises: Error.
 */
export function readConversation(text, fresh) {
  const { format, conversation: told } = JSON.parse(text);
  if (format !== "pellucid-chat" || typeof told?.nodes !== "object") throw new Error("not_ours");
  const nodes = {};
  for (const node of Object.values(told.nodes)) {
    if (!["user", "assistant"].includes(node.role) || typeof node.content !== "string") continue;
    nodes[String(node.id)] = { ...node, id: String(node.id), parent: String(node.parent ?? "") };
  }
  const kept = { title: String(told.title ?? ""), settings: { ...told.settings }, chosen: { ...told.chosen } };
  return { ...kept, id: fresh(), created: Date.now(), updated: Date.now(), nodes };
}
