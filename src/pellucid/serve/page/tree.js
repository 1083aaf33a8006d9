// A conversation is a tree: editing a question, asking again and going on with another token each begin a branch, and
// nothing that was written is lost. ``chosen`` says which branch is shown.

const ROOT = "";

export const fresh = () => crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint32Array(4))).join("-");

export function conversation(settings) {
  const now = Date.now();
  return { id: fresh(), title: "", created: now, updated: now, settings: { ...settings }, nodes: {}, chosen: {} };
}

/** Adds a message below another and shows it. */
export function add(talk, parent, message) {
  const node = { id: fresh(), parent: parent ?? ROOT, created: Date.now(), ...message };
  talk.nodes[node.id] = node;
  talk.chosen[node.parent] = node.id;
  return node;
}

/** The messages that are shown, from the first on. */
export function path(talk) {
  const shown = [];
  let at = pick(talk, ROOT);
  while (at) {
    shown.push(at);
    at = pick(talk, at.id);
  }
  return shown;
}

/** The messages before one, from the first on. */
export function before(talk, node) {
  const above = [];
  for (let at = talk.nodes[node.parent]; at; at = talk.nodes[at.parent]) above.unshift(at);
  return above;
}

export function siblings(talk, node) {
  return Object.values(talk.nodes)
    .filter((other) => other.parent === node.parent)
    .sort((a, b) => a.created - b.created);
}

export function choose(talk, node) {
  talk.chosen[node.parent] = node.id;
}

function pick(talk, parent) {
  const chosen = talk.nodes[talk.chosen[parent]];
  return chosen?.parent === parent ? chosen : Object.values(talk.nodes).find((node) => node.parent === parent);
}

/** A title from the first question. */
export function titled(text) {
  const line = text.trim().split("\n")[0].replace(/\s+/g, " ");
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}

/** What the model is sent of a message: a question with its files as text. */
export function content(node) {
  const files = (node.files ?? []).map(({ name, text }) => {
    const fence = "`".repeat(Math.max(3, ...(text.match(/`+/g) ?? []).map((run) => run.length + 1)));
    return `${name}\n${fence}\n${text.replace(/\n$/, "")}\n${fence}`;
  });
  return [...files, node.content].filter((part) => part !== "").join("\n\n");
}

/** A conversation as a text that other programs read. */
export function asMarkdown(talk, names) {
  const parts = path(talk).map((node) => `**${names[node.role] ?? node.role}**\n\n${content(node)}`);
  const system = talk.settings.system ? [`**${names.system}**\n\n${talk.settings.system}`] : [];
  return `# ${talk.title}\n\n${[...system, ...parts].join("\n\n---\n\n")}\n`;
}
