/**
 * The sidecar's events, read from an answer that does not end.
 *
 * The browser's own EventSource hides the comments that say "still here", so a connection that is dead without
 * having been closed would look alive for ever; and it does not let us choose when to try again.
 */

/** Milliseconds of silence that mean the connection is dead: the server sends a comment every 15 seconds. */
const SILENCE = 40_000;

/** Milliseconds before the first attempt to connect again; doubled up to the longest. */
const SHORTEST_PAUSE = 500;
const LONGEST_PAUSE = 10_000;

/**
 * @typedef {object} Listener
 * @property {() => void} opened  The server answers.
 * @property {() => void} event  Something happened.
 * @property {() => void} lost  The stream ended or cannot be had; it is tried again.
 */

/**
 * Follow the events until the signal says to stop.
 *
 * @param {string} url
 * @param {AbortSignal} stop
 * @param {Listener} listener
 */
export async function follow(url, stop, listener) {
  const place = { last: document.body.dataset.event ?? "" };
  let pause = SHORTEST_PAUSE;
  while (!stop.aborted) {
    try {
      await read(url, stop, place, {
        ...listener,
        opened() {
          pause = SHORTEST_PAUSE;
          listener.opened();
        },
      });
    } catch {
      // Refused, cut or silent: it comes to the same.
    }
    if (stop.aborted) return;
    listener.lost();
    // Many pages lose one sidecar at the same moment, and must not come back at the same moment.
    await sleep(pause * (0.5 + Math.random()), stop);
    pause = Math.min(pause * 2, LONGEST_PAUSE);
  }
}

/**
 * Read one answer to its end.
 *
 * @param {string} url
 * @param {AbortSignal} stop
 * @param {{last: string}} place  The id of the last event that was seen.
 * @param {Listener} listener
 */
async function read(url, stop, place, listener) {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE);
  try {
    const answer = await fetch(url, {
      headers: place.last ? { "Last-Event-ID": place.last } : {},
      signal: AbortSignal.any([stop, silence.signal]),
      cache: "no-store",
    });
    if (!answer.ok || !answer.body) throw new Error(`${answer.status}`);
    listener.opened();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE);
      const lines = (rest + value).split("\n");
      rest = lines.pop() ?? "";
      if (takeIn(lines, place)) listener.event();
    }
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Note the ids; tell whether there was an event among the lines.
 *
 * @param {string[]} lines
 * @param {{last: string}} place
 */
function takeIn(lines, place) {
  for (const line of lines) {
    if (line.startsWith("id: ")) place.last = line.slice(4);
  }
  return lines.some((line) => line.startsWith("data:"));
}

/**
 * @param {number} milliseconds
 * @param {AbortSignal} stop
 * @returns {Promise<void>}
 */
function sleep(milliseconds, stop) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    stop.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
