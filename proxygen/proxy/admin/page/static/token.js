/**
 * The operator's token: asked for once, kept until the tab is closed, and sent by nothing but our own requests.
 */

const KEY = "proxygen-token";

/** @returns {string | null} */
export function keptToken() {
  return sessionStorage.getItem(KEY);
}

export function forgetToken() {
  sessionStorage.removeItem(KEY);
  showWhether();
}

/**
 * Ask for the token in a dialog.
 *
 * @param {string} why  What was wrong with the last one, or "".
 * @returns {Promise<string | null>} None where the operator thought better of it.
 */
export function askForToken(why) {
  const dialog = document.getElementById("token-dialog");
  const input = document.getElementById("token");
  if (!(dialog instanceof HTMLDialogElement) || !(input instanceof HTMLInputElement)) return Promise.resolve(null);
  const problem = dialog.querySelector("[data-problem]");
  if (problem) problem.textContent = why;
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  input.focus();
  input.onkeydown = (event) => {
    // A browser takes Enter for the first button, which here is the one that cancels.
    if (event.key !== "Enter") return;
    event.preventDefault();
    dialog.close("ok");
  };
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(take(dialog, input)), { once: true });
  });
}

/**
 * @param {HTMLDialogElement} dialog
 * @param {HTMLInputElement} input
 */
function take(dialog, input) {
  const token = input.value.trim();
  // It stands in no field for longer than it is typed.
  input.value = "";
  if (dialog.returnValue !== "ok" || !token) return null;
  sessionStorage.setItem(KEY, token);
  showWhether();
  return token;
}

/** Let the button that forgets the token be there only while there is one. */
export function showWhether() {
  const button = document.querySelector("[data-forget-token]");
  if (button instanceof HTMLElement) button.hidden = keptToken() === null;
}
