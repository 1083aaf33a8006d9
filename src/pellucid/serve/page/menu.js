// A small menu at a button: arrows move, Enter chooses, Escape and a click elsewhere close it.

import { h } from "./explain/dom.js";

/** ``items``: [label, what it does, class]. */
export function menu(anchor, items) {
  const close = () => {
    box.remove();
    removeEventListener("pointerdown", outside, true);
    anchor.setAttribute("aria-expanded", "false");
  };
  const outside = (event) => !box.contains(event.target) && close();
  const box = h(
    "div",
    { class: "menu", role: "menu" },
    items.map(([label, choose, kind]) =>
      h("button", { type: "button", role: "menuitem", class: kind, on: { click: () => (close(), choose()) } }, label),
    ),
  );
  box.addEventListener("keydown", (event) => {
    const all = [...box.children],
      step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      all.at((all.indexOf(document.activeElement) + step) % all.length).focus();
    }
    if (event.key === "Escape" || event.key === "Tab") {
      event.stopPropagation();
      close();
      anchor.focus();
    }
  });
  document.body.append(box);
  const { right, bottom, top } = anchor.getBoundingClientRect(),
    { offsetWidth: width, offsetHeight: height } = box;
  box.style.left = `${Math.max(8, Math.min(right - 24, innerWidth - width - 8))}px`;
  box.style.top = `${bottom + height + 8 > innerHeight ? Math.max(8, top - height - 4) : bottom + 4}px`;
  anchor.setAttribute("aria-expanded", "true");
  addEventListener("pointerdown", outside, true);
  box.firstChild.focus();
}
