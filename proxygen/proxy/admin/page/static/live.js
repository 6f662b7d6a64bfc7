/**
 * The status page's only entry: keeps what is shown up to date, and starts what people may do with it.
 *
 * The server draws every page in whole; here its sections are read again and merged in place. An event makes that
 * happen at once, and a timer makes it happen while somebody looks, since figures of traffic move without an event.
 */

import { drawCharts } from "./charts.js";
import { openDetails } from "./details.js";
import { keepFiltered, startFilter } from "./filter.js";
import { merge } from "./merge.js";
import { Refresher } from "./refresher.js";
import { startSteering } from "./steer.js";
import { follow } from "./stream.js";
import { NotLoaded } from "./vendor.js";

/** Milliseconds between two readings without an event. */
const EVERY = 5000;

/** Milliseconds after which an answer is not waited for any more. */
const PATIENCE = 10_000;

const UNANSWERED = "the sidecar does not answer; trying again";

const refresher = new Refresher(readAgain);

/** When the page was last known to be right. */
let fresh = new Date();

/** Whether the stream of events is open. */
let connected = false;

/** Read this page's sections and merge them into what is shown. */
async function readAgain() {
  const asked = location.href;
  const page = await read(asked);
  if (asked !== location.href) {
    // The search moved on meanwhile; this answers a question that nobody asks any more.
    refresher.ask();
    return;
  }
  if (typeof page === "string") {
    sayStale(page);
    return;
  }
  try {
    await merge(page);
  } catch (error) {
    if (!(error instanceof NotLoaded)) throw error;
    sayStale(UNANSWERED);
    return;
  }
  keepFiltered();
  fresh = new Date();
  if (connected) sayLive();
  await drawCharts();
}

/**
 * @param {string} url
 * @returns {Promise<Document | string>} The page's sections, or why they cannot be had.
 */
async function read(url) {
  try {
    const signal = AbortSignal.timeout(PATIENCE);
    const answer = await fetch(url, { headers: { "X-Proxygen-Part": "live" }, cache: "no-store", signal });
    const text = await answer.text();
    if (!answer.ok) return `this page cannot be read (${answer.status} ${answer.statusText})`;
    return new DOMParser().parseFromString(text, "text/html");
  } catch {
    return UNANSWERED;
  }
}

/** @param {string} why */
function sayStale(why) {
  const banner = document.getElementById("not-live");
  if (!banner) return;
  const text = `Not live since ${fresh.toISOString().slice(11, 19)} UTC: ${why}`;
  banner.hidden = false;
  // Said once: a screen reader would read the same words at each attempt.
  if (banner.textContent !== text) banner.textContent = text;
}

function sayLive() {
  const banner = document.getElementById("not-live");
  if (banner) banner.hidden = true;
}

/** @type {AbortController | undefined} */
let stream;

/**
 * Follow the events while somebody looks. A browser opens only six connections to one server, and a stream holds
 * one of them: tabs in the background must not use them up.
 */
function followWhileVisible() {
  stream?.abort();
  connected = false;
  if (document.hidden) return;
  stream = new AbortController();
  follow("/api/v1/events", stream.signal, {
    opened() {
      connected = true;
      refresher.ask();
    },
    event() {
      refresher.ask();
    },
    lost() {
      connected = false;
      sayStale(UNANSWERED);
    },
  });
}

startFilter(() => refresher.ask());
startSteering(() => refresher.now());
openDetails();
document.addEventListener("visibilitychange", followWhileVisible);
followWhileVisible();
setInterval(() => document.hidden || refresher.ask(), EVERY);
drawCharts();
