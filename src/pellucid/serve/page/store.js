// Conversations are kept in this browser alone: their heads (for the list) and their bodies, in IndexedDB. Where a
// browser keeps nothing (a private window), they live as long as the page.

const NAME = "pellucid-chat",
  VERSION = 1;

export class Store {
  constructor() {
    this.lasting = true;
    this.memory = new Map();
    this.opening = this.open().catch(() => ((this.lasting = false), null));
    this.changes = "BroadcastChannel" in globalThis ? new BroadcastChannel(NAME) : null;
  }

  open() {
    return new Promise((done, failed) => {
      const asked = indexedDB.open(NAME, VERSION);
      asked.onupgradeneeded = () => {
        asked.result.createObjectStore("heads", { keyPath: "id" });
        asked.result.createObjectStore("bodies", { keyPath: "id" });
      };
      asked.onsuccess = () => {
        asked.result.onversionchange = () => asked.result.close();
        done(asked.result);
      };
      asked.onerror = () => failed(asked.error);
      asked.onblocked = () => failed(new Error("blocked"));
    });
  }

  /** Runs ``work`` with the stores of one transaction; answers what its request gives once all of it is kept. */
  async with(mode, work) {
    const base = await this.opening;
    return new Promise((done, failed) => {
      const transaction = base.transaction(["heads", "bodies"], mode),
        asked = work(transaction.objectStore("heads"), transaction.objectStore("bodies"));
      transaction.oncomplete = () => done(asked?.result);
      transaction.onerror = transaction.onabort = () => failed(transaction.error ?? new Error("aborted"));
    });
  }

  /** {id, title, updated} of all, the latest first. */
  async heads() {
    await this.opening;
    const all = this.lasting ? await this.with("readonly", (heads) => heads.getAll()) : [...this.memory.values()];
    return all.sort((a, b) => b.updated - a.updated);
  }

  async get(id) {
    await this.opening;
    return this.lasting ? this.with("readonly", (_, bodies) => bodies.get(id)) : this.memory.get(id);
  }

  async all() {
    await this.opening;
    return this.lasting ? this.with("readonly", (_, bodies) => bodies.getAll()) : [...this.memory.values()];
  }

  /** Raises where the browser has no room left. */
  async put(talk) {
    await this.opening;
    const { id, title, updated } = talk;
    if (this.lasting)
      await this.with("readwrite", (heads, bodies) => (heads.put({ id, title, updated }), bodies.put(talk)));
    else this.memory.set(id, structuredClone(talk));
    this.changes?.postMessage({ id });
  }

  async remove(id) {
    await this.opening;
    if (this.lasting) await this.with("readwrite", (heads, bodies) => (heads.delete(id), bodies.delete(id)));
    else this.memory.delete(id);
    this.changes?.postMessage({ id, removed: true });
  }
}
