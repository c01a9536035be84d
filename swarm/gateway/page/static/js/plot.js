// @ts-check
/**
 * A plot of at most a few hundred points, drawn as SVG in the page's own colours. (uPlot would draw them as well, for a fifth of all that
 * the page may weigh.)
 */
import { clock, number } from "./format.js";
import { html } from "./ui.js";

const WIDTH = 480;
const HEIGHT = 170;
const EDGE = { left: 46, right: 8, top: 8, bottom: 20 };
const WIDE = WIDTH - EDGE.left - EDGE.right;
const HIGH = HEIGHT - EDGE.top - EDGE.bottom;
const HOUR_S = 3600;
const TICKS = 4;
const LOOKS = 8; // how many lines can be told apart, by colour and dashes: css/screens.css

/** The roundest step that divides what is up to `most` into at most TICKS. Pure. @param {number} most */
export function stepOf(most) {
  const rough = Math.max(most, 1e-9) / TICKS;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough) ?? 10);
}

const rounded = (/** @type {number} */ value) => Math.round(value * 10) / 10;
const xOf = (/** @type {number} */ share) => rounded(EDGE.left + share * WIDE);
const yOf = (/** @type {number} */ share) => rounded(HEIGHT - EDGE.bottom - share * HIGH);

/**
 * Each unbroken run of a line as points of the drawing; gaps are where there is no figure. Pure.
 * @param {number[]} at where each figure stands, 0 to 1 @param {(number | null)[]} values @param {number} top the figure at the upper edge
 */
export function runsOf(at, values, top) {
  /** @type {string[][]} */
  const runs = [[]];
  at.forEach((share, place) => {
    const value = values[place];
    if (value !== null && value !== undefined) runs.at(-1)?.push(`${xOf(share)},${yOf(value / top)}`);
    else if (runs.at(-1)?.length) runs.push([]);
  });
  return runs.filter((run) => run.length > 0);
}

const timeOf = (/** @type {number} */ seconds) => clock(seconds * 1000, false);

/** The axis of the last hour. Pure. @param {number[]} minutes Unix time */
export function hourOf(minutes) {
  const last = minutes.at(-1) ?? 0;
  return {
    at: minutes.map((minute) => 1 - (last - minute) / HOUR_S),
    marks: [last - HOUR_S, last - HOUR_S / 2, last].map(timeOf),
  };
}

/**
 * An axis on which one stands beside the other, marked with the times of the first, the middle and the last: days where they are further
 * apart than one. Pure. @param {number[]} times Unix time, the oldest first
 */
export function orderOf(times) {
  const [first = 0, last = 0] = [times[0], times.at(-1)];
  const named = last - first > 24 * HOUR_S ? (/** @type {number} */ time) => new Date(time * 1000).toISOString().slice(0, 10) : timeOf;
  return {
    at: times.map((_, place) => (place + 0.5) / times.length),
    marks: [first, times[times.length >> 1] ?? 0, last].map(named),
  };
}

/**
 * `at`: where the figures stand, 0 to 1; `marks`: what stands at the beginning, the middle and the end. `bars`: the lines are stacked.
 * @param {{title: string, at: number[], marks: string[], lines: {label: string, values: (number | null)[], dots?: boolean, look?: number}[], most?: number, bars?: boolean}} props
 */
export function Plot({ title, at, marks, lines, most = 0, bars = false }) {
  const sums = lines.map((_, last) =>
    at.map((_, place) => lines.slice(0, last + 1).reduce((sum, line) => sum + (line.values[place] ?? 0), 0)),
  );
  const highest = Math.max(most, ...(bars ? sums : lines.map((line) => line.values)).flat().map((value) => value ?? 0));
  const step = stepOf(highest || 1);
  const top = Math.max(step, Math.ceil(highest / step) * step);
  const ticks = Array.from({ length: Math.round(top / step) + 1 }, (_, count) => count * step);
  const barsOf = (/** @type {number} */ line) =>
    at
      .map((share, place) => `M${xOf(share)},${yOf((sums[line - 1]?.[place] ?? 0) / top)}V${yOf((sums[line]?.[place] ?? 0) / top)}`)
      .join("");
  return html`<figure class="card stack plot"><figcaption><strong>${title}</strong></figcaption>
    <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} aria-hidden="true">
      ${ticks.map((tick) => html`<line class="grid" x1=${EDGE.left} x2=${WIDTH - EDGE.right} y1=${yOf(tick / top)} y2=${yOf(tick / top)} /><text x=${EDGE.left - 6} y=${yOf(tick / top) + 4} text-anchor="end">${number(tick, 2)}</text>`)}
      ${marks.map((mark, place) => html`<text x=${xOf(place / 2)} y=${HEIGHT - 4} text-anchor=${["start", "middle", "end"][place]}>${mark}</text>`)}
      ${lines.map((line, place) => {
        const look = `look${(line.look ?? place) % LOOKS}`;
        if (bars) return html`<path class=${`bars ${look}`} stroke-width=${(WIDE / at.length) * 0.7} d=${barsOf(place)} />`;
        const runs = runsOf(at, line.values, top);
        const dots = runs.filter((run) => line.dots || run.length === 1).flat();
        return html`<path class=${`line ${look}`} d=${line.dots ? "" : runs.map((run) => `M${run.join("L")}`).join("")} />
          <path class=${`dots ${look}`} d=${dots.map((point) => `M${point}h0`).join("")} />`;
      })}
    </svg>
    <ul class="legend">${lines.map((line, place) => html`<li><i class=${`look${(line.look ?? place) % LOOKS}`}></i>${line.label}</li>`)}</ul>
  </figure>`;
}
