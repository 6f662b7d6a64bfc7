/** The libraries, loaded when first needed: most pages have no chart. */

/** Where each is, by the name that it takes among the globals. */
const FILES = { Idiomorph: "vendor/idiomorph.min.js", uPlot: "vendor/uPlot.min.js" };

/** @type {Map<string, Promise<any>>} */
const loaded = new Map();

/**
 * @param {keyof typeof FILES} name
 * @returns {Promise<any>} What the library calls itself.
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
      reject(new TypeError(`${script.src} cannot be loaded`));
    };
    document.head.append(script);
  });
  loaded.set(name, promise);
  return promise;
}
