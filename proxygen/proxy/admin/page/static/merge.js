/** What the server says now, merged into what is shown. */

import { load } from "./vendor.js";

const OPTIONS = {
  morphStyle: "outerHTML",
  ignoreActiveValue: true,
  callbacks: { beforeNodeMorphed, beforeNodeRemoved, beforeAttributeUpdated },
};

/**
 * Merge the sections of a fresh page into this one, and leave alone what belongs to the reader: what is typed,
 * open, focused or scrolled to.
 *
 * @param {Document} page
 */
export async function merge(page) {
  const idiomorph = await load("Idiomorph");
  for (const section of page.querySelectorAll("section[data-live]")) {
    const shown = document.getElementById(section.id);
    if (!shown) continue;
    mergeRows(idiomorph, shown.querySelector("[data-rows]"), section.querySelector("[data-rows]"));
    idiomorph.morph(shown, section, OPTIONS);
  }
}

/**
 * Merge a list of many rows, of which few change: each has an id, and a revision that says whether it is another.
 * The library would compare all of them, which takes a quarter of a second for a thousand.
 *
 * @param {any} idiomorph
 * @param {Element | null} shown
 * @param {Element | null} fresh
 */
function mergeRows(idiomorph, shown, fresh) {
  if (!shown || !fresh) return;
  const wanted = new Set([...fresh.children].map((row) => row.id));
  const known = new Map([...shown.children].map((row) => [row.id, row]));
  for (const [id, row] of known) {
    if (!wanted.has(id)) row.remove();
  }
  let next = shown.firstElementChild;
  for (const row of [...fresh.children]) {
    const old = known.get(row.id);
    if (old) update(idiomorph, old, row);
    const place = old ?? document.adoptNode(row);
    // A row that went further down is passed by, and moved when its turn comes: the others keep their focus.
    if (next?.nextElementSibling === place) next = place;
    if (next === place) next = place.nextElementSibling;
    else shown.insertBefore(place, next);
  }
  fresh.replaceChildren();
}

/**
 * @param {any} idiomorph
 * @param {Element} old
 * @param {Element} row
 */
function update(idiomorph, old, row) {
  if (!(old instanceof HTMLElement) || !(row instanceof HTMLElement)) return;
  if (old.dataset.rev !== row.dataset.rev) idiomorph.morph(old, row, OPTIONS);
  old.hidden = false;
}

/**
 * Say whether the node is to be made like the fresh one.
 *
 * @param {Node} shown
 * @param {Node} fresh
 */
function beforeNodeMorphed(shown, fresh) {
  if (!(shown instanceof HTMLElement) || !(fresh instanceof HTMLElement)) return true;
  if (shown.matches("[data-rows]")) return false;
  if (shown.dataset.rev !== undefined && shown.dataset.rev === fresh.dataset.rev) return false;
  if (shown.matches(".chart")) {
    takeFigures(shown, fresh);
    return false;
  }
  if (shown instanceof HTMLInputElement && isTyped(shown)) {
    // The reader's text stays; what it would go back to is the new one.
    shown.defaultValue = fresh.getAttribute("value") ?? "";
    return false;
  }
  return true;
}

/**
 * The chart's canvas is not the server's: its figures are.
 *
 * @param {HTMLElement} shown
 * @param {HTMLElement} fresh
 */
function takeFigures(shown, fresh) {
  for (const name of ["data-chart", "aria-label"]) {
    const value = fresh.getAttribute(name);
    if (value !== null && value !== shown.getAttribute(name)) shown.setAttribute(name, value);
  }
}

/** @param {HTMLInputElement} input */
function isTyped(input) {
  return !["hidden", "submit", "button"].includes(input.type) && input.value !== input.defaultValue;
}

/**
 * Say whether the node may go: what was fetched on a click stays.
 *
 * @param {Node} node
 */
function beforeNodeRemoved(node) {
  return !(node instanceof HTMLElement && node.matches("[data-fetched]"));
}

/**
 * Say whether the attribute follows the server. A form into which something is typed keeps the revision that its reader
 * saw when typing: another one would let the text overwrite what came since.
 *
 * @param {string} name
 * @param {Element} element
 */
function beforeAttributeUpdated(name, element) {
  if (name === "data-etag") return ![...element.querySelectorAll("input")].some(isTyped);
  return !(name === "open" && element.matches("details"));
}
