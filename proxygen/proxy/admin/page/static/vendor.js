/** The libraries, loaded when first needed: most pages have no chart. */

/** Where each is, by the name that it takes among the globals. */
const FILES = { Idiomorph: "vendor/idiomorph.min.js", uPlot: "vendor/uPlot.min.js" };

/** A library that the sidecar did not give: it is gone, or is another one by now. It is asked for again at the next need. */
export class NotLoaded extends Error {}

/** @type {Map<string, Promise<any>>} */
const loaded = new Map();

/**
 * @param {keyof typeof FILES} name
 * @returns {Promise<any>} What the library calls itself; rejected with `NotLoaded`.
 */
export function load(name) {
  const known = loaded.get(name);
  if (known) return known;
  const promise = new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL(FILES[name], import.meta.url).href;
    script.onload = () => resolve(/** @type {any} */ (globalThis)[name]);
    script.onerror = () => {
      loaded.delete(name);
      script.remove();
      reject(new NotLoaded(`${script.src} cannot be loaded`));
    };
    document.head.append(script);
  });
  loaded.set(name, promise);
  return promise;
}
