/** Requests, errors and response times of the last minutes, drawn from the figures that stand in the page. */

import { NotLoaded, load } from "./vendor.js";

/**
 * @typedef {object} Series
 * @property {string} name  The variant.
 * @property {(number | null)[]} requests  By step, oldest first.
 * @property {(number | null)[]} errors
 * @property {(number | null)[]} p95  Seconds.
 */

/**
 * @typedef {object} Figures
 * @property {number} step  Seconds.
 * @property {Series[]} series
 */

/**
 * What is drawn, one below the other, with one cursor through all.
 *
 * Response times have gaps where nobody asked, so single ones need a point to be seen.
 *
 * @type {{title: string, points: boolean, of: (series: Series, step: number) => (number | null)[]}[]}
 */
const PANELS = [
  { title: "requests/s", points: false, of: (series, step) => series.requests.map((count) => count && count / step) },
  { title: "errors/s", points: false, of: (series, step) => series.errors.map((count) => count && count / step) },
  { title: "p95, ms", points: true, of: (series) => series.p95.map((seconds) => (seconds === null ? null : seconds * 1000)) },
];

const HEIGHT = 130;
const NARROWEST = 240;

/** @type {WeakMap<Element, {text: string, plots: any[]}>} */
const drawn = new WeakMap();

/** Draw every chart of the page whose figures moved; all of them at the next call where the library is not to be had. */
export async function drawCharts() {
  const charts = [...document.querySelectorAll(".chart[data-chart]")];
  if (charts.length === 0) return;
  let uPlot;
  try {
    uPlot = await load("uPlot");
  } catch (error) {
    if (!(error instanceof NotLoaded)) throw error;
    return;
  }
  for (const chart of charts) {
    if (chart instanceof HTMLElement) draw(uPlot, chart);
  }
}

/**
 * @param {any} uPlot
 * @param {HTMLElement} chart
 */
function draw(uPlot, chart) {
  const text = chart.dataset.chart ?? "";
  const before = drawn.get(chart);
  if (before?.text === text) return;
  /** @type {Figures} */
  const figures = JSON.parse(text);
  const names = figures.series.map((series) => series.name).join("\n");
  if (before && chart.dataset.names === names) {
    PANELS.forEach((panel, index) => before.plots[index].setData(dataOf(panel, figures)));
    drawn.set(chart, { text, plots: before.plots });
    return;
  }
  for (const plot of before?.plots ?? []) plot.destroy();
  chart.dataset.names = names;
  const plots = PANELS.map((panel, index) => new uPlot(optionsOf(panel, index, chart, figures), dataOf(panel, figures), chart));
  drawn.set(chart, { text, plots });
  widths.observe(chart);
}

/**
 * @param {typeof PANELS[number]} panel
 * @param {Figures} figures
 */
function dataOf(panel, figures) {
  const steps = Math.max(0, ...figures.series.map((series) => series.requests.length));
  const ages = Array.from({ length: steps }, (_, index) => (index - steps + 1) * figures.step);
  return [ages, ...figures.series.map((series) => panel.of(series, figures.step))];
}

/**
 * @param {typeof PANELS[number]} panel
 * @param {number} index
 * @param {HTMLElement} chart
 * @param {Figures} figures
 */
function optionsOf(panel, index, chart, figures) {
  const style = getComputedStyle(chart);
  const ink = style.color;
  const grid = { stroke: style.getPropertyValue("--chart-grid") || ink, width: 1 };
  const axis = { stroke: ink, grid, ticks: { show: false } };
  return {
    width: Math.max(NARROWEST, chart.clientWidth),
    height: HEIGHT,
    title: panel.title,
    cursor: { sync: { key: chart.id || "chart" }, drag: { x: false, y: false } },
    scales: { x: { time: false }, y: { range: upTo } },
    axes: [{ ...axis, incrs: [60, 120, 300], values: (/** @type {any} */ _, /** @type {number[]} */ ages) => ages.map(ago) }, { ...axis, size: 60 }],
    series: [
      { label: "when", value: (/** @type {any} */ _, /** @type {number | null} */ age) => (age === null ? "" : ago(age)) },
      ...figures.series.map((series, place) => ({
        label: series.name,
        stroke: style.getPropertyValue(`--series-${place % 4}`) || ink,
        dash: place > 0 ? [2 + 4 * place, 4] : undefined,
        width: 2,
        points: { show: panel.points, size: 4 },
        value: (/** @type {any} */ _, /** @type {number | null} */ value) => (value === null ? "" : value.toFixed(1)),
      })),
    ],
    legend: { show: index === PANELS.length - 1 },
  };
}

/**
 * From nothing to a little above the highest: a scale that begins elsewhere makes noise look like news.
 *
 * @param {any} _plot
 * @param {number} _least
 * @param {number} most
 */
function upTo(_plot, _least, most) {
  return [0, Math.max(1, most * 1.1)];
}

/** @param {number} age  Seconds, negative. */
function ago(age) {
  if (age === 0) return "now";
  return age % 60 === 0 ? `${age / 60} min` : `${age} s`;
}

const widths = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const width = Math.max(NARROWEST, target.clientWidth);
    for (const plot of drawn.get(target)?.plots ?? []) {
      if (plot.width !== width) plot.setSize({ width, height: HEIGHT });
    }
  }
});

// The colours come from the style sheet, which follows the reader's choice of light or dark.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of document.querySelectorAll(".chart[data-chart]")) {
    if (chart instanceof HTMLElement) delete chart.dataset.names;
    const before = drawn.get(chart);
    if (before) drawn.set(chart, { ...before, text: "" });
  }
  drawCharts();
});
