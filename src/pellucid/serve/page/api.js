// The server that this page came from, and nothing else.

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function ask(path, body, { key = "", signal } = {}) {
  const headers = {
    ...(body ? { "Content-Type": "application/json" } : {}),
    ...(key ? { Authorization: `Bearer ${key}` } : {}),
  };
  const options = { method: body ? "POST" : "GET", headers, signal, body: body ? JSON.stringify(body) : undefined };
  const response = await fetch(path, options);
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  throw new ApiError(
    said?.error?.message ?? said?.error ?? `${response.status} ${response.statusText}`,
    response.status,
  );
}

/** What the server answers with: [{id, max_model_len, …}]. */
export async function models(key) {
  return (await (await ask("v1/models", null, { key })).json()).data;
}

/**
 * The chunks of an answer as they come. Raises: ApiError; AbortError when ``signal`` ended it.
 */
export async function* stream(body, options) {
  const response = await ask("v1/chat/completions", body, options);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message ?? String(chunk.error), 0);
    yield chunk;
  }
}

/** The data of server-sent events. Source: WHATWG HTML, 9.2. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split(/\r\n\r\n|\n\n/);
    rest = parts.pop();
    for (const part of parts) {
      const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
    }
  }
}

/** A text that stands within another as the model's tokens: [{id, text, bytes}]. */
export async function tokenize(model, text, key) {
  const order = { model, content: text, add_special: false, with_pieces: true };
  const { tokens } = await (await ask("tokenize", order, { key })).json();
  const read = tokens.map(({ id, piece }) =>
    typeof piece === "string" ? { id, text: piece } : { id, text: "\ufffd", bytes: piece },
  );
  // a tokenizer that begins each text with a space has put one before ours
  const doubled = text.startsWith(" ") && read.map((token) => token.text).join("") === ` ${text}`;
  return doubled ? tokenize(model, text.slice(1), key) : read;
}

/** Opens an explanation of the token after ``token_ids``; answers {url, position, …}. Raises: ApiError. */
export async function explain(order, key) {
  return (await ask("why", order, { key })).json();
}

/** A question to an explanation. Raises: ApiError. */
export async function look(url, path) {
  return (await ask(`${url}api/${path}`)).json();
}
