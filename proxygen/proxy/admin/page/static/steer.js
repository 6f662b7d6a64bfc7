/** Changes that an operator makes: a form's values, the operator's token, and what the server said to them. */

import { say } from "./notice.js";
import { askForToken, forgetToken, keptToken, showWhether } from "./token.js";

/**
 * Which etag this page's own changes put in place of which: what the page reads after a change may have been drawn
 * before the server saw it, and shows the one before once more.
 *
 * @type {Map<string, string>}
 */
const superseded = new Map();

/**
 * Send forms marked `data-steer` to the API.
 *
 * @param {() => Promise<void>} refresh  Shows what is so now.
 */
export function startSteering(refresh) {
  showWhether();
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!(form instanceof HTMLFormElement) || !form.matches("[data-steer]")) return;
    event.preventDefault();
    steer(form, refresh);
  });
  document.addEventListener("click", (event) => {
    if (event.target instanceof Element && event.target.closest("[data-forget-token]")) {
      forgetToken();
      say("The token is forgotten.", "good");
    }
  });
}

/**
 * @param {HTMLFormElement} form
 * @param {() => Promise<void>} refresh
 */
async function steer(form, refresh) {
  // What the operator saw and meant is what is asked for, though the page moves on while the token is typed.
  const change = changeOf(form);
  const before = shownShares(form);
  if (form.dataset.confirm && !(await confirmed(form.dataset.confirm, buttonOf(form)))) return;
  const answer = await send(change);
  if (answer === null) return;
  if (answer.ok) {
    takeOver(change.etag, answer.etag);
    form.reset();
    say(form.dataset.done || "Done.", "good", form);
  }
  if (answer.status === 412) {
    // Somebody else's change counts from here on, even one that brings an etag back; and the operator is told of it.
    superseded.clear();
    if (answer.etag) form.dataset.etag = answer.etag;
  }
  await refresh();
  if (!answer.ok) say(refusal(answer, before, shownShares(form)), "bad", form);
}

/**
 * Let the next change build on this one, whatever the page shows by then: it is the operator's own.
 *
 * @param {string | undefined} old
 * @param {string | null} now
 */
function takeOver(old, now) {
  if (!old || !now || old === now) return;
  for (const [before, after] of superseded) if (after === old) superseded.set(before, now);
  superseded.set(old, now);
}

/**
 * @typedef {object} Answer
 * @property {boolean} ok
 * @property {number} status
 * @property {string} text  Why not.
 * @property {string | null} etag
 */

/**
 * @typedef {object} Change
 * @property {string} url
 * @property {string | undefined} etag  What it builds on.
 * @property {RequestInit} options
 */

/**
 * @param {HTMLFormElement} form
 * @returns {Change}
 */
function changeOf(form) {
  const { method = "POST", action = "", etag: shown, body } = form.dataset;
  const etag = shown && (superseded.get(shown) ?? shown);
  /** @type {Record<string, string>} */
  const headers = {};
  if (etag) headers["If-Match"] = etag;
  const sent = body ?? shares(form);
  if (sent) headers["Content-Type"] = "application/json";
  return { url: action, etag, options: { method, headers, body: sent, cache: "no-store", credentials: "omit" } };
}

/**
 * @param {HTMLFormElement} form
 * @returns {string | undefined}
 */
function shares(form) {
  const inputs = shareInputs(form);
  if (inputs.length === 0) return undefined;
  return JSON.stringify({ shares: Object.fromEntries(inputs.map((input) => [input.dataset.share, percent(input)])) });
}

/** @param {HTMLInputElement} input */
function percent(input) {
  const text = input.value.trim();
  return text.endsWith("%") ? text : `${text}%`;
}

/** @param {HTMLFormElement} form */
function shareInputs(form) {
  return [...form.querySelectorAll("input[data-share]")].filter((input) => input instanceof HTMLInputElement);
}

/**
 * What the server last said of each share, whatever is typed over it.
 *
 * @param {HTMLFormElement} form
 */
function shownShares(form) {
  return new Map(shareInputs(form).map((input) => [input.dataset.share ?? "", input.defaultValue]));
}

/**
 * Send the change with the token; ask for a token while there is none or the server knows it not.
 *
 * @param {Change} change
 * @returns {Promise<Answer | null>} None where the operator gave up.
 */
async function send(change) {
  let token = keptToken() ?? (await askForToken(""));
  while (token !== null) {
    say("Sending…", "busy");
    const answer = await sendWith(change, token);
    if (answer.status !== 401) return answer;
    forgetToken();
    say(answer.text, "bad");
    token = await askForToken(answer.text);
  }
  return null;
}

/**
 * @param {Change} change
 * @param {string} token
 * @returns {Promise<Answer>}
 */
async function sendWith(change, token) {
  const headers = { ...change.options.headers, Authorization: `Bearer ${token}` };
  try {
    const answer = await fetch(change.url, { ...change.options, headers });
    return { ok: answer.ok, status: answer.status, text: await words(answer), etag: answer.headers.get("ETag") };
  } catch (error) {
    // Also where the token holds what no header can.
    const text = `It could not be sent: ${error instanceof Error ? error.message : error}`;
    return { ok: false, status: 0, text, etag: null };
  }
}

/**
 * The server's reason for a refusal.
 *
 * @param {Response} answer
 */
async function words(answer) {
  if (answer.ok) return "";
  try {
    const { error } = await answer.json();
    return `${error} (${answer.status})`;
  } catch {
    return `${answer.status} ${answer.statusText}`;
  }
}

/**
 * @param {{status: number, text: string}} answer
 * @param {Map<string, string>} before
 * @param {Map<string, string>} now
 */
function refusal(answer, before, now) {
  if (answer.status !== 412) return answer.text;
  const moved = [...now]
    .filter(([name, value]) => before.get(name) !== value)
    .map(([name, value]) => `${name} was ${before.get(name) ?? "not there"} and is ${value}`);
  const what = moved.length > 0 ? ` Meanwhile: ${moved.join(", ")}.` : "";
  return `Somebody else was faster, and nothing was changed by you: ${answer.text}.${what} Look, and send it again if it still holds.`;
}

/** @param {HTMLFormElement} form */
function buttonOf(form) {
  return form.querySelector("button")?.textContent ?? "Yes";
}

/**
 * @param {string} question
 * @param {string} act  What the button says that does it.
 * @returns {Promise<boolean>}
 */
function confirmed(question, act) {
  const dialog = document.createElement("dialog");
  dialog.className = "confirm";
  dialog.setAttribute("aria-label", act);
  const text = document.createElement("p");
  text.textContent = question;
  const form = document.createElement("form");
  form.method = "dialog";
  form.append(choice("Cancel", ""), choice(act, "ok"));
  dialog.append(text, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "ok");
    });
  });
}

/**
 * @param {string} text
 * @param {string} value
 */
function choice(text, value) {
  const button = document.createElement("button");
  button.value = value;
  button.textContent = text;
  return button;
}
