// The page: opens its source, draws the frame, and mounts sections as they come near.

import { App, readAddress } from "./app.js";
import { bytes, h, number, percent, prose, visible } from "./dom.js";
import { story, trouble } from "./figures.js";
import { Embedded, Live } from "./source.js";
import { Why } from "./why.js";
import { render as fact } from "./sections/fact.js";
import { render as files } from "./sections/files.js";
import { render as text } from "./sections/text.js";
import { render as embed } from "./sections/embed.js";
import { render as model } from "./sections/map.js";
import { render as cell } from "./sections/cell.js";
import { render as attention } from "./sections/attention.js";
import { render as mlp } from "./sections/mlp.js";
import { render as residual } from "./sections/residual.js";
import { render as causes } from "./sections/causes.js";
import { render as output } from "./sections/output.js";
import { render as decode } from "./sections/decode.js";
import { render as whatif } from "./sections/whatif.js";
import { render as training } from "./sections/training.js";
import { render as precision } from "./sections/precision.js";

const ALL = {
  fact,
  files,
  text,
  embed,
  model,
  cell,
  attention,
  mlp,
  residual,
  causes,
  output,
  decode,
  whatif,
  training,
};
let SECTIONS = ALL;
const byId = (id) => document.getElementById(id);

async function open() {
  const embedded = byId("pellucid-data"),
    app = new App(embedded ? new Embedded(JSON.parse(embedded.textContent)) : new Live());
  globalThis.pellucid = app; // for the console, and for tests
  new Why(app, byId("why"));
  settings(app);
  try {
    app.model = await app.source.get("model");
    if (!app.model) return await onlyTraining(app);
    if (app.model.native) SECTIONS = { precision, ...ALL };
    const asked = app.source.live && app.state.text;
    start(app, await (asked ? app.source.post("trace", { text: asked }) : app.source.get("run")));
  } catch (error) {
    return byId("page").replaceChildren(trouble(app, error));
  }
  app.rerun = async (sentence) => openRun(app, () => app.source.post("trace", { text: sentence }));
  app.openRun = async (run) => openRun(app, () => app.source.get("run", { run }));
  keys(app);
  addEventListener(
    "hashchange",
    () => (Object.assign(app.state, readAddress()), app.tell(["layer", "head", "pos"]), arrive(app)),
  );
  arrive(app);
}

/** A run that goes on, or that has left no model yet: its training is all there is to see. */
async function onlyTraining(app) {
  const info = await app.source.get("training");
  SECTIONS = { training };
  app.model = { name: info.name, layers: [], trained: info };
  app.run = { tokens: [], steps: [], text: "" };
  render(app);
  keys(app);
}

async function openRun(app, ask) {
  byId("page").classList.add("busy");
  try {
    start(app, await ask(), true);
    scrollTo({ top: 0 });
  } catch (error) {
    byId("prompt-error").replaceChildren(trouble(app, error));
  }
  byId("page").classList.remove("busy");
}

/** A run is there: everything is drawn anew from it. */
function start(app, run, again = false) {
  app.run = run;
  const given = again ? {} : readAddress(),
    last = run.tokens.length - 1,
    layers = app.model.layers.length;
  const layer = Math.min(given.layer ?? Math.floor(layers / 2), layers - 1);
  Object.assign(app.state, {
    pos: Math.min(given.pos ?? last, last),
    layer,
    head: Math.max(0, Math.min(given.head ?? 0, app.model.layers[layer].num_heads - 1)),
    text: run.text === app.model.text ? "" : run.text,
  });
  if (again) Object.assign(app.state, { step: "", cell: "", a: "", b: "", other: "", part: "" });
  if (again) app.keep();
  render(app);
}

function render(app) {
  app.watchers = [];
  app.nearness.disconnect();
  document.documentElement.lang = app.state.lang === "zh" ? "zh-CN" : "en";
  document.title = `${app.model.name} – Pellucid`;
  bar(app);
  navigation(app);
  const page = byId("page"),
    places = Object.keys(SECTIONS).map((id) =>
      h("div", { class: "place", data: { section: id }, style: { "min-height": "80vh" } }),
    );
  page.replaceChildren(hero(app), ...places);
  const mount = (place) => {
    if (place.dataset.mounted) return;
    place.dataset.mounted = "true";
    place.style.removeProperty("min-height");
    try {
      place.replaceChildren(SECTIONS[place.dataset.section](app));
    } catch (error) {
      place.replaceChildren(trouble(app, error));
    }
  };
  app.mount = (id) => places.filter((place) => place.dataset.section === id).forEach(mount);
  const near = new IntersectionObserver(
    (entries) => entries.forEach((entry) => entry.isIntersecting && mount(entry.target)),
    { rootMargin: "700px" },
  );
  const here = new IntersectionObserver(
    (entries) => entries.forEach((entry) => entry.isIntersecting && arriveAt(app, entry.target.dataset.section)),
    { rootMargin: "-30% 0px -60% 0px" },
  );
  places.forEach((place) => (near.observe(place), here.observe(place)));
  const go = app.go.bind(app);
  app.go = (id) => {
    const section = { position: "embed" }[id] ?? id;
    app.mount(section);
    App.prototype.go.call(app, id);
  };
  page.onclick = (event) => {
    const link = event.target.closest?.("a[data-goto]");
    if (link) (event.preventDefault(), app.go(link.dataset.goto));
  };
}

/** After the first picture: the place, the cell that the address names. */
function arrive(app) {
  const { at, step, cell } = readAddress();
  if (at && SECTIONS[at]) requestAnimationFrame(() => app.go(at));
  if (step && cell) app.why.open(step, cell.split(",").map(Number), app.run.run);
}

function arriveAt(app, id) {
  app.set({ at: id });
  for (const link of byId("map-nav").querySelectorAll("a")) {
    link.classList.toggle("here", link.dataset.goto === id);
    if (link.dataset.goto === id) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    if (link.dataset.goto === id && innerWidth <= 900) link.parentElement.scrollTo({ left: link.offsetLeft - 100 });
  }
}

function bar(app) {
  const { state } = app,
    set = (change) => (app.set(change), settings(app), "lang" in change ? redraw(app) : null);
  const view = h(
    "span",
    { class: "switch", id: "view" },
    ["story", "numbers"].map((its) =>
      h(
        "button",
        {
          "aria-pressed": String(state.view === its),
          data: { view: its },
          on: { click: () => (set({ view: its }), bar(app), dispatchEvent(new Event("resize"))) },
        },
        app.t(its),
      ),
    ),
  );
  const strip = h(
    "div",
    { class: "strip", id: "strip" },
    app.run.tokens.map((token, i) =>
      h(
        "button",
        {
          class: `chip${token.special ? " special" : ""}`,
          title: `${i} · id ${token.id}`,
          on: { click: () => app.set({ pos: i }) },
        },
        visible(token.text),
      ),
    ),
  );
  byId("bar").replaceChildren(
    h("div", { id: "checks-failed" }),
    h(
      "div",
      { class: "bar-row" },
      h(
        "a",
        { class: "wordmark", href: "#", on: { click: (event) => (event.preventDefault(), scrollTo({ top: 0 })) } },
        "Pellucid",
      ),
      h("span", { class: "bar-model" }, app.model.name),
      app.run.steps.length ? goTo(app) : "",
      view,
      h(
        "button",
        {
          id: "lang",
          lang: state.lang === "zh" ? "en" : "zh",
          on: { click: () => set({ lang: state.lang === "zh" ? "en" : "zh" }) },
        },
        app.t("language"),
      ),
      h(
        "button",
        {
          class: "icon",
          id: "theme",
          title: app.t("theme"),
          "aria-label": app.t("theme"),
          on: { click: () => set({ theme: dark() ? "light" : "dark" }) },
        },
        "◐",
      ),
      h(
        "button",
        {
          class: "icon",
          id: "help",
          title: app.t("help"),
          "aria-label": app.t("help"),
          on: { click: () => help(app) },
        },
        "?",
      ),
    ),
    strip,
  );
  app.watch(strip, ["pos"], ({ pos }) =>
    [...strip.children].forEach((chip, i) => {
      chip.classList.toggle("here", i === pos);
      chip.setAttribute("aria-pressed", String(i === pos));
      if (i === pos) strip.scrollLeft = Math.max(0, chip.offsetLeft - strip.clientWidth * 0.7);
    }),
  );
}

/** For who knows the name of the number: a step, or a cell of it, typed. */
function goTo(app) {
  const input = h("input", {
    type: "text",
    class: "go-to only-numbers",
    list: "step-names",
    placeholder: app.t("go_to"),
    "aria-label": app.t("go_to"),
    spellcheck: "false",
  });
  const go = (event) => {
    event.preventDefault();
    const [, name, index] = input.value.trim().match(/^([\w.]+)\s*\[?([\d,\s]*)\]?$/) ?? [],
      layer = name?.match(/^layers\.(\d+)\./);
    if (!name) return;
    if (layer) app.set({ layer: Math.min(+layer[1], app.model.layers.length - 1) });
    if (index)
      app.ask(
        name,
        index
          .split(/[,\s]+/)
          .filter(Boolean)
          .map(Number),
      );
    else if (app.has(name)) (app.set({ step: name, cell: "" }), app.go("cell"));
  };
  return h(
    "form",
    { class: "only-numbers", on: { submit: go } },
    input,
    h(
      "datalist",
      { id: "step-names" },
      app.run.steps.map((step) => h("option", { value: step.name })),
    ),
  );
}

const dark = () => getComputedStyle(document.documentElement).colorScheme === "dark";

function settings(app) {
  const root = document.documentElement;
  root.dataset.view = app.state.view;
  if (app.state.theme) root.dataset.theme = app.state.theme;
}

function redraw(app) {
  const at = app.state.at,
    was = byId(at)?.getBoundingClientRect().top ?? 0;
  render(app);
  if (!at) return;
  app.mount(at);
  scrollBy(0, (byId(at)?.getBoundingClientRect().top ?? 0) - was);
}

/** The slim map: sections in the order of the computation, the layers as a stack between. */
function navigation(app) {
  const link = (id) =>
    h(
      "a",
      { href: `#at=${id}`, data: { goto: id }, on: { click: (event) => (event.preventDefault(), app.go(id)) } },
      app.t("nav")[id],
    );
  const stack = h(
    "div",
    { class: "stack", role: "group", "aria-label": app.t("layer") },
    app.model.layers
      .map((_, i) =>
        h("button", {
          title: `${app.t("layer")} ${i}`,
          "aria-label": `${app.t("layer")} ${i}`,
          tabindex: -1,
          on: { click: () => app.set({ layer: i }) },
        }),
      )
      .reverse(),
  );
  const label = h("span", { class: "stack-label" });
  const nav = byId("map-nav");
  document.body.classList.toggle("alone", !app.model.layers.length);
  nav.setAttribute("aria-label", app.t("nav").model);
  nav.replaceChildren(
    ...Object.keys(SECTIONS).flatMap((id) => (id === "residual" ? [label, stack, link(id)] : [link(id)])),
  );
  app.watch(stack, ["layer"], ({ layer }) => {
    [...stack.children].reverse().forEach((button, i) => button.classList.toggle("here", i === layer));
    label.replaceChildren(`${app.t("layer")} ${layer}`);
  });
}

function hero(app) {
  if (!app.run.tokens.length)
    return h(
      "div",
      { class: "hero story" },
      h("h1", {}, app.t("watch_title", app.model.name)),
      app.t("watch_hero").map((paragraph) => h("p", {}, prose(paragraph))),
    );
  const { run, model } = app,
    area = h("textarea", { rows: 2, maxlength: 20000, "aria-label": app.t("prompt_label"), spellcheck: "false" });
  area.value = run.text;
  const submit = (event) => (event.preventDefault(), area.value && app.rerun(area.value));
  area.addEventListener(
    "keydown",
    (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && submit(event),
  );
  const form = app.source.live
    ? h(
        "form",
        { id: "prompt", on: { submit } },
        h("label", { class: "soft" }, app.t("prompt_label"), area),
        h("div", { class: "controls" }, h("button", { class: "primary" }, app.t("run"))),
        h("div", { id: "prompt-error" }),
      )
    : h("p", { class: "placeholder" }, app.t("offline_says", app.source.leftOut[app.state.lang]));
  const verdict = h("span", { id: "checks" }),
    table = h("details", { class: "only-numbers" }),
    notes = h(
      "div",
      { class: "soft" },
      verdict,
      " ",
      h(
        "span",
        { class: "only-numbers" },
        app.t("speed", number(run.plain_ms, 3), run.traced_ms === null ? null : number(run.traced_ms, 3)),
        ` · ${bytes(run.bytes)}`,
      ),
      table,
    );
  const checked = new Promise((done) => setTimeout(done, app.source.live ? 1500 : 0)).then(() =>
    app.source.get("checks", { run: run.run }),
  ); // after the pictures
  checked
    .then((checks) => {
      verdict.replaceChildren(checks.failed.length ? "" : app.t("checks_ok", checks.count, number(checks.largest, 2)));
      table.replaceChildren(
        h("summary", {}, app.t("checks_table")),
        h(
          "div",
          { class: "scroll-x" },
          h(
            "table",
            {},
            h(
              "tr",
              {},
              ["identity", "largest_error", "allowed", "where"].map((key) => h("th", {}, app.t(key))),
            ),
            checks.worst.map((check) =>
              h(
                "tr",
                {},
                h("td", {}, check.title[app.state.lang]),
                h("td", { class: "n" }, number(check.error, 2)),
                h("td", { class: "n" }, number(check.tolerance, 2)),
                h("td", { class: "mono" }, check.name),
              ),
            ),
          ),
        ),
      );
      if (checks.failed.length)
        byId("checks-failed").replaceChildren(
          h(
            "div",
            { class: "checks-failed", role: "alert" },
            app.t(
              "checks_bad",
              checks.failed
                .map((check) => `${check.name}, ${check.title[app.state.lang]} (${number(check.error, 3)})`)
                .join("; "),
            ),
          ),
        );
    })
    .catch(() => {});
  const edited = run.edited
    ? h(
        "p",
        { class: "bad" },
        app.t("edited_run", run.edited),
        " ",
        h("button", { on: { click: () => app.rerun(run.text) } }, app.t("back_to_plain")),
      )
    : "";
  return h(
    "div",
    { class: "hero story" },
    edited,
    h("h1", {}, app.t("hero_title", model.name)),
    app.t("hero", model, run).map((paragraph) => h("p", {}, prose(paragraph))),
    model.native ? h("p", { id: "whose" }, prose(app.t("native_hero", model.native))) : "",
    form,
    notes,
  );
}

function help(app) {
  const dialog = h(
    "dialog",
    {},
    h("h3", {}, app.t("help")),
    h(
      "table",
      {},
      app.t("help_rows").map(([key, what]) => h("tr", {}, h("td", {}, h("kbd", {}, key)), h("td", {}, what))),
    ),
    h("p", { class: "soft" }, app.t("help_colours")),
    h("button", { class: "primary", on: { click: () => dialog.close() } }, app.t("close")),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function keys(app) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName))
      return;
    const ids = Object.keys(SECTIONS),
      at = ids.indexOf(app.state.at),
      { pos } = app.state,
      last = app.run.tokens.length - 1;
    const done = {
      "?": () => help(app),
      "]": () => app.set({ pos: Math.min(last, pos + 1) }),
      "[": () => app.set({ pos: Math.max(0, pos - 1) }),
      j: () => app.go(ids[Math.min(ids.length - 1, at + 1)]),
      k: () => app.go(ids[Math.max(0, at - 1)]),
      n: () => byId("view").querySelector('[aria-pressed="false"]').click(),
      Escape: () => !byId("why").hidden && app.why.close(),
    }[event.key];
    if (done) (done(), event.preventDefault());
  });
}

open();
