// The page: puts its parts together, listens to keys and to the address.

import { App } from "./app.js";
import { Composer } from "./composer.js";
import { Panel } from "./panel.js";
import { Preferences } from "./preferences.js";
import { Side } from "./side.js";
import { Thread } from "./thread.js";
import { Top } from "./top.js";

const byId = (id) => document.getElementById(id);

async function start() {
  const app = new App();
  globalThis.pellucid = app; // for the console, and for tests
  app.speak = (lang) => (app.set({ lang }), look(app), app.draw());
  app.shade = () => (app.set({ theme: dark() ? "light" : "dark" }), look(app));
  look(app);
  app.parts = {
    top: new Top(app, byId("top")),
    thread: new Thread(app, byId("thread")),
    composer: new Composer(app, byId("foot")),
    side: new Side(app, byId("side")),
    panel: new Panel(app, byId("panel")),
    preferences: new Preferences(app),
  };
  byId("veil").addEventListener("click", () => (app.parts.side.toggle(false), app.look(null)));
  keys(app);
  addEventListener("popstate", () => arrive(app));
  app.draw();
  const [asked] = await Promise.all([app.findModels(), arrive(app)]);
  app.draw();
  if (!matchMedia("(pointer: coarse)").matches) app.parts.composer.area.focus();
  return asked;
}

async function arrive(app) {
  const id = new URLSearchParams(location.hash.slice(1)).get("c");
  if (id && id !== app.talk.id) await app.open(id);
  else if (!id && Object.keys(app.talk.nodes).length) app.begin();
}

const dark = () =>
  (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "")) ===
  "dark";

function look(app) {
  const root = document.documentElement;
  root.lang = app.settings.lang === "zh" ? "zh-CN" : "en";
  if (app.settings.theme) root.dataset.theme = app.settings.theme;
}

function keys(app) {
  addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const writes = event.target.matches?.("input, textarea, select");
    const command = event.ctrlKey || event.metaKey;
    if (command && event.shiftKey && event.key.toLowerCase() === "o") {
      event.preventDefault();
      app.begin();
      app.parts.composer.area.focus();
    } else if (event.key === "Escape") {
      if (app.opened) app.look(null);
      else if (document.body.classList.contains("side-open")) app.parts.side.toggle(false);
      else if (app.growing) app.stop(app.growing.id);
    } else if (app.opened && !writes && !command && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
      event.preventDefault();
      app.parts.panel.step(event.key === "ArrowLeft" ? -1 : 1);
    } else if (event.key === "/" && !writes && !command) {
      event.preventDefault();
      app.parts.composer.area.focus();
    }
  });
}

start();
