// @ts-check
/**
 * A plot over the last hour: sixty points a line at most, drawn as SVG in the page's own colours. (uPlot would draw them as well, for a
 * fifth of all that the page may weigh.)
 */
import { clock, number } from "./format.js";
import { html } from "./ui.js";

const WIDTH = 480;
const HEIGHT = 170;
const EDGE = { left: 46, right: 8, top: 8, bottom: 20 };
const HOUR_S = 3600;
const TICKS = 4;
const LOOKS = 8; // how many lines can be told apart, by colour and dashes: css/screens.css

/** The roundest step that divides what is up to `most` into at most TICKS. Pure. @param {number} most */
export function stepOf(most) {
  const rough = Math.max(most, 1e-9) / TICKS;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough) ?? 10);
}

/**
 * Each unbroken run of a line as points of the drawing; gaps are where there is no figure. Pure.
 * @param {number[]} minutes @param {(number | null)[]} values @param {number} top the figure at the upper edge @param {number} last the newest minute
 */
export function runsOf(minutes, values, top, last) {
  /** @type {string[][]} */
  const runs = [[]];
  minutes.forEach((minute, at) => {
    const value = values[at];
    if (value === null || value === undefined) {
      if (runs.at(-1)?.length) runs.push([]);
      return;
    }
    const x = WIDTH - EDGE.right - ((last - minute) / HOUR_S) * (WIDTH - EDGE.left - EDGE.right);
    const y = HEIGHT - EDGE.bottom - (value / top) * (HEIGHT - EDGE.top - EDGE.bottom);
    runs.at(-1)?.push(`${Math.round(x * 10) / 10},${Math.round(y * 10) / 10}`);
  });
  return runs.filter((run) => run.length > 0);
}

/** @param {{title: string, minutes: number[], lines: {label: string, values: (number | null)[]}[]}} props */
export function Plot({ title, minutes, lines }) {
  const last = minutes.at(-1) ?? 0;
  const most = Math.max(0, ...lines.flatMap((line) => line.values.map((value) => value ?? 0)));
  const step = stepOf(most || 1);
  const top = Math.max(step, Math.ceil(most / step) * step);
  const ticks = Array.from({ length: Math.round(top / step) + 1 }, (_, at) => at * step);
  const y = (/** @type {number} */ value) => HEIGHT - EDGE.bottom - (value / top) * (HEIGHT - EDGE.top - EDGE.bottom);
  const times = [last - HOUR_S, last - HOUR_S / 2, last];
  return html`<figure class="card stack plot"><figcaption><strong>${title}</strong></figcaption>
    <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} aria-hidden="true">
      ${ticks.map((tick) => html`<line class="grid" x1=${EDGE.left} x2=${WIDTH - EDGE.right} y1=${y(tick)} y2=${y(tick)} /><text x=${EDGE.left - 6} y=${y(tick) + 4} text-anchor="end">${number(tick, 2)}</text>`)}
      ${times.map((time, at) => html`<text x=${EDGE.left + (at * (WIDTH - EDGE.left - EDGE.right)) / 2} y=${HEIGHT - 4} text-anchor=${["start", "middle", "end"][at]}>${clock(time * 1000, false)}</text>`)}
      ${lines.map((line, at) => runsOf(minutes, line.values, top, last).map((run) => html`<polyline class=${`line look${at % LOOKS}`} points=${run.length > 1 ? run.join(" ") : `${run[0]} ${run[0]}`} />`))}
    </svg>
    <ul class="legend">${lines.map((line, at) => html`<li><i class=${`look${at % LOOKS}`}></i>${line.label}</li>`)}</ul>
  </figure>`;
}
