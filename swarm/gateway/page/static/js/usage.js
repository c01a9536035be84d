// @ts-check
/** What each key uses of this node: today and its limits, and the days before, as plots and as a table of the same figures. */
import { Bar, Choice, Table } from "./components.js";
import { clean, number } from "./format.js";
import { Plot } from "./plot.js";
import { now, parts, useParts } from "./store.js";
import { STRINGS } from "./strings.js";
import { html, useState } from "./ui.js";

/** @typedef {import("./types.js").UsageEntry} UsageEntry */
/** @typedef {UsageEntry["days"][number]} Day */
/** @typedef {Day & {key: string, entry: UsageEntry}} Row one day of one key */

const T = STRINGS.usage;
const DAY_MS = 86_400_000;
const LEAST_DAYS = 7;

/** The UTC day of an instant, and how the days go on from one to another. Pure. @param {number} ms */
const dayOf = (ms) => new Date(ms).toISOString().slice(0, 10);

/** What an entry has of a day: nothing is none. Pure. @param {UsageEntry} entry @param {string} day @returns {Day} */
export function onDay({ days }, day) {
  return days.find((one) => one.day === day) ?? { day, requests: 0, refused: 0, prompt_tokens: 0, completion_tokens: 0 };
}

/** The sums of several keys for each day from the first that is known, but a week at least, to today. Pure. @param {UsageEntry[]} entries @param {string} today */
export function byDay(entries, today) {
  const end = Date.parse(today);
  const known = entries.flatMap(({ days }) => days.map(({ day }) => Date.parse(day)));
  const first = Math.min(end - (LEAST_DAYS - 1) * DAY_MS, ...known);
  const days = Array.from({ length: (end - first) / DAY_MS + 1 }, (_, nth) => dayOf(first + nth * DAY_MS));
  const sum = (/** @type {Exclude<keyof Day, "day">} */ of) =>
    days.map((day) => entries.reduce((all, entry) => all + onDay(entry, day)[of], 0));
  return { days, requests: sum("requests"), refused: sum("refused"), prompt: sum("prompt_tokens"), completion: sum("completion_tokens") };
}

/** The limits of a key with how much of each is used. Pure. @param {UsageEntry} entry @param {string} today @returns {{what: "requests" | "tokens", used: number, most: number}[]} */
export function limitsOf(entry, today) {
  const { requests_a_minute: requests, tokens_a_day: tokens } = entry.limits;
  const { prompt_tokens: read, completion_tokens: made } = onDay(entry, today);
  return [
    ...(requests === null ? [] : [{ what: /** @type {const} */ ("requests"), used: entry.last_minute ?? 0, most: requests }]),
    ...(tokens === null ? [] : [{ what: /** @type {const} */ ("tokens"), used: read + made, most: tokens }]),
  ];
}

/** @param {{entry: UsageEntry, today: string}} props */
function Limits({ entry, today }) {
  const limits = limitsOf(entry, today);
  if (limits.length === 0) return html`<span class="soft">${T.unlimited}</span>`;
  return html`<div class="stack limits">${limits.map(({ what, used, most }) => {
    const words = T.limits[what](number(used), number(most)) + (used >= most ? T.usedUp : "");
    return html`<small>${words}</small><${Bar} label=${words} parts=${[{ share: used / most, tone: used >= most ? "bad" : used >= 0.8 * most ? "warn" : "accent" }]} />`;
  })}</div>`;
}

/** @type {import("./components.js").Column<Row>} */
const NAMED = { title: T.key, render: ({ key }) => html`<strong>${clean(key)}</strong>` };
/** @type {import("./components.js").Column<Row>[]} */
const FIGURES = [
  { title: T.requests, end: true, render: (row) => number(row.requests) },
  { title: T.refused, end: true, render: (row) => number(row.refused) },
  { title: T.read, end: true, render: (row) => number(row.prompt_tokens) },
  { title: T.made, end: true, render: (row) => number(row.completion_tokens) },
];
/** @type {import("./components.js").Column<Row>} */
const LIMITS = { title: T.limit, render: ({ entry, day }) => html`<${Limits} entry=${entry} today=${day} />` };
/** @type {import("./components.js").Column<Row>} */
const DAY = { title: T.day, render: ({ day }) => day };
const rowKey = (/** @type {Row} */ { day, key }) => `${day} ${key}`;

export function Usage() {
  useParts(["usage"]);
  const [key, setKey] = useState("");
  const entries = /** @type {UsageEntry[]} */ ([...(parts.usage?.value.values() ?? [])]).sort((one, other) =>
    one.key.localeCompare(other.key),
  );
  const today = dayOf(now.value);
  const shown = entries.filter((entry) => !key || entry.key === key);
  const sums = byDay(shown, today);
  const axis = { at: sums.days.map((_, nth) => (nth + 0.5) / sums.days.length), marks: [sums.days[0] ?? "", "", today], bars: true };
  const rowOf = (/** @type {UsageEntry} */ entry, /** @type {Day} */ day) => ({ ...day, key: entry.key, entry });
  const days = shown
    .flatMap((entry) => entry.days.map((day) => rowOf(entry, day)))
    .sort((one, other) => other.day.localeCompare(one.day) || one.key.localeCompare(other.key));
  return html`
    <h3>${T.title}</h3>
    <${Table} label=${T.title} empty=${T.empty} rows=${entries.map((entry) => rowOf(entry, onDay(entry, today)))} rowKey=${rowKey} columns=${[NAMED, ...FIGURES, LIMITS]} />
    <p class="soft">${T.note}</p>
    <details class="card"><summary>${T.file}</summary><div class="stack"><pre>${T.example}</pre><ul class="stack">${T.options.map((option) => html`<li>${option}</li>`)}</ul></div></details>
    ${
      entries.length > 0 &&
      html`<h3>${T.days}</h3>
      <${Choice} label=${T.key} value=${key} of=${[["", T.every], ...entries.map((entry) => [entry.key, entry.key])]} onChoice=${setKey} />
      <div class="plots">
        <${Plot} title=${T.tokens} ...${axis} lines=${[
          { label: T.read, values: sums.prompt },
          { label: T.made, values: sums.completion },
        ]} />
        <${Plot} title=${T.asked} ...${axis} lines=${[
          { label: T.let, values: sums.requests },
          { label: T.refused, values: sums.refused, look: 4 },
        ]} />
      </div>
      <details class="card"><summary>${T.figures}</summary><${Table} label=${T.days} rows=${days} rowKey=${rowKey} columns=${[DAY, NAMED, ...FIGURES]} /></details>`
    }`;
}
