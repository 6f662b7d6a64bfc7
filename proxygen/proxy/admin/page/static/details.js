/** What is only fetched when somebody opens it, such as a generation's diff. */

/**
 * Fill a `<details data-src="/generations/7">` when it is opened: with the section of that page which `data-part` names.
 */
export function openDetails() {
  // The event does not bubble; it can be caught on the way down.
  document.addEventListener(
    "toggle",
    (event) => {
      const details = event.target;
      if (details instanceof HTMLDetailsElement && details.open && details.dataset.src) fill(details);
    },
    { capture: true },
  );
}

/** @param {HTMLDetailsElement} details */
async function fill(details) {
  if (details.querySelector("[data-fetched]")) return;
  const place = document.createElement("div");
  place.dataset.fetched = "";
  place.setAttribute("aria-live", "polite");
  place.textContent = "Reading…";
  details.append(place);
  try {
    const answer = await fetch(details.dataset.src ?? "", { headers: { "X-Proxygen-Part": "live" } });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const part = page.getElementById(details.dataset.part ?? "");
    if (!answer.ok || !part) throw new Error(`${answer.status} ${answer.statusText}`);
    place.replaceChildren(...part.childNodes);
  } catch (error) {
    place.textContent = `It cannot be read now: ${error instanceof Error ? error.message : error}`;
    // Closed and opened again, it is tried again.
    details.addEventListener("toggle", () => place.remove(), { once: true });
  }
}
