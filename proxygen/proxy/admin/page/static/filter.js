/** The search: hides rows at once, and has the server find those that are not on this page. */

/** Milliseconds without a key after which the server is asked. */
const PAUSE = 150;

/**
 * Follow what is typed into the search. The words stand in the address too, so that a reload or a link shows the same,
 * and the sections that are read again hold only what is wanted.
 *
 * @param {() => void} refresh
 */
export function startFilter(refresh) {
  const input = document.querySelector("input[data-filter]");
  if (!(input instanceof HTMLInputElement)) return;
  let timer = 0;
  const ask = () => {
    clearTimeout(timer);
    history.replaceState(null, "", addressFor(input.value));
    refresh();
  };
  input.addEventListener("input", () => {
    hideOthers(input.value);
    clearTimeout(timer);
    timer = setTimeout(ask, PAUSE);
  });
  input.form?.addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
}

/** Hide again what a reading brought back that was asked for before the last keys. */
export function keepFiltered() {
  const input = document.querySelector("input[data-filter]");
  if (!(input instanceof HTMLInputElement)) return;
  const asked = new URL(location.href).searchParams.get("q") ?? "";
  if (input.value.trim() !== asked) hideOthers(input.value);
}

/** @param {string} text */
function addressFor(text) {
  const address = new URL(location.href);
  if (text.trim()) address.searchParams.set("q", text.trim());
  else address.searchParams.delete("q");
  return address;
}

/** @param {string} text */
function hideOthers(text) {
  const wanted = text.trim().toLowerCase();
  let shown = 0;
  for (const row of document.querySelectorAll("[data-rows] > [data-name]")) {
    if (!(row instanceof HTMLElement)) continue;
    row.hidden = !row.dataset.name?.includes(wanted);
    shown += Number(!row.hidden);
  }
  const count = document.querySelector("[data-rows-shown]");
  if (count) count.textContent = String(shown);
}
