// @ts-check
/** A plot over the last hour. uPlot draws it; the colours are those of the page, and change with it. */
import uPlot from "../vendor/uplot.js";
import { html, useEffect, useRef } from "./ui.js";

const HEIGHT = 180;
const COLOURS = ["--accent", "--good", "--warn", "--bad", "--kv", "--weights", "--soft", "--text"];
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];

/** What uPlot draws: the minutes, then the values of each line, with gaps where there is none. Pure. @param {number[]} minutes @param {{values: (number | null)[]}[]} lines */
export function plotData(minutes, lines) {
  return [minutes, ...lines.map(({ values }) => minutes.map((_, at) => values[at] ?? null))];
}

/** @param {string} name */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A colour as the scheme has it now: what light-dark() comes to. @param {string} name */
function settled(name) {
  const probe = document.createElement("i");
  probe.style.color = colour(name);
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** @param {{title: string, minutes: number[], lines: {label: string, values: (number | null)[]}[]}} props */
export function Plot({ title, minutes, lines }) {
  const box = /** @type {{current: HTMLElement | null}} */ (useRef(null));
  const drawn = /** @type {{current: uPlot | null}} */ (useRef(null));
  const labels = lines.map((line) => line.label).join("\n");
  useEffect(() => {
    const place = box.current;
    if (!place) return undefined;
    const make = () => {
      drawn.current?.destroy();
      const [text, line] = [settled("--soft"), settled("--line")];
      const axis = { stroke: text, grid: { stroke: line, width: 1 }, ticks: { stroke: line } };
      drawn.current = new uPlot(
        {
          width: place.clientWidth,
          height: HEIGHT,
          cursor: { show: false },
          legend: { show: false },
          scales: { x: { range: (_, __, last) => [last - 3600, last] }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } },
          axes: [axis, { ...axis, size: 56 }],
          series: [
            {},
            ...lines.map((one, at) => ({
              label: one.label,
              stroke: settled(COLOURS[at % COLOURS.length] ?? ""),
              dash: DASHES[at % DASHES.length] ?? [],
              width: 2,
              points: { show: true, size: 4 },
            })),
          ],
        },
        /** @type {any} */ (plotData(minutes, lines)),
        place,
      );
    };
    make();
    const sizes = new ResizeObserver(() => drawn.current?.setSize({ width: place.clientWidth, height: HEIGHT }));
    sizes.observe(place);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", make);
    return () => {
      sizes.disconnect();
      scheme.removeEventListener("change", make);
      drawn.current?.destroy();
      drawn.current = null;
    };
  }, [labels]);
  useEffect(() => {
    drawn.current?.setData(/** @type {any} */ (plotData(minutes, lines)));
  }, [minutes, lines]);
  return html`<figure class="card stack plot"><figcaption><strong>${title}</strong></figcaption>
    <div ref=${box} aria-hidden="true"></div>
    <ul class="legend">${lines.map((line, at) => html`<li><i style=${{ background: `var(${COLOURS[at % COLOURS.length]})` }}></i>${line.label}</li>`)}</ul>
  </figure>`;
}
