/**
 * Say how a change went: at the top, where screen readers are told of it, and under the form whose button was pressed.
 *
 * @param {string} text
 * @param {"good" | "bad" | "busy"} kind
 * @param {HTMLFormElement} [form]
 */
export function say(text, kind, form) {
  const place = document.getElementById("steer-answer");
  if (place) write(place, text, kind);
  for (const old of document.querySelectorAll("[data-answer]")) old.remove();
  if (!form?.isConnected) return;
  const near = document.createElement("p");
  near.className = "notice";
  // Said once is enough for who listens; and what the server sends next does not know of it.
  near.setAttribute("aria-hidden", "true");
  near.dataset.answer = near.dataset.fetched = "";
  write(near, text, kind);
  form.after(near);
}

/**
 * @param {HTMLElement} place
 * @param {string} text
 * @param {string} kind
 */
function write(place, text, kind) {
  place.dataset.kind = kind;
  place.textContent = text;
}
