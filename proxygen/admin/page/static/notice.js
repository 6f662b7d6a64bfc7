/**
 * Say how a change went, where eyes and screen readers find it.
 *
 * @param {string} text
 * @param {"good" | "bad" | "busy"} kind
 */
export function say(text, kind) {
  const place = document.getElementById("steer-answer");
  if (!place) return;
  place.dataset.kind = kind;
  place.textContent = text;
}
