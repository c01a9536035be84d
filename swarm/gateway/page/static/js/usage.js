// @ts-check
/** What each key uses of this node: today and its limits, and the days before, as plots and as a table of the same figures. */
import { Bar, Field, Table } from "./components.js";
import { clean, number } from "./format.js";
import { Plot } from "./plot.js";
import { now, parts, useParts } from "./store.js";
import { STRINGS } from "./strings.js";
import { html, useState } from "./ui.js";

/** @typedef {import("./types.js").UsageEntry} UsageEntry */
/** @typedef {UsageEntry["days"][number]} Day */

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
  const days = shown
    .flatMap((entry) => entry.days.map((day) => ({ ...day, key: entry.key })))
    .sort((one, other) => other.day.localeCompare(one.day) || one.key.localeCompare(other.key));
  /** @typedef {Day & {key: string}} Row */
  const figures = [
    { name: "requests", title: T.requests, end: true, render: (/** @type {Row} */ row) => number(row.requests) },
    { name: "refused", title: T.refused, end: true, render: (/** @type {Row} */ row) => number(row.refused) },
    { name: "read", title: T.read, end: true, render: (/** @type {Row} */ row) => number(row.prompt_tokens) },
    { name: "made", title: T.made, end: true, render: (/** @type {Row} */ row) => number(row.completion_tokens) },
  ];
  const named = { name: "key", title: T.key, render: (/** @type {Row} */ row) => html`<strong>${clean(row.key)}</strong>` };
  return html`
    <${Table} label=${T.title} empty=${T.empty} rows=${entries.map((entry) => ({ ...onDay(entry, today), key: entry.key, entry }))} rowKey=${(/** @type {Row} */ row) => row.key} columns=${[
      named,
      ...figures,
      { name: "limits", title: T.limit, render: (/** @type {any} */ { entry }) => html`<${Limits} entry=${entry} today=${today} />` },
    ]} />
    <p class="soft">${T.note}</p>
    <details class="card"><summary>${T.file}</summary><div class="stack"><pre>${T.example}</pre><ul class="stack">${T.options.map((option) => html`<li>${option}</li>`)}</ul></div></details>
    ${
      entries.length > 0 &&
      html`<h3>${T.days}</h3>
      <${Field} label=${T.key}>${(
        /** @type {string} */ id,
      ) => html`<select id=${id} value=${key} onChange=${(/** @type {any} */ event) => setKey(event.target.value)}>
        <option value="">${T.every}</option>${entries.map((entry) => html`<option value=${entry.key}>${clean(entry.key)}</option>`)}
      </select>`}<//>
      <div class="plots">
        <${Plot} title=${T.tokens} ...${axis} lines=${[
          { label: T.read, values: sums.prompt },
          { label: T.made, values: sums.completion },
        ]} />
        <${Plot} title=${T.asked} ...${axis} lines=${[
          { label: T.let, values: sums.requests },
          { label: T.refused, values: sums.refused },
        ]} />
      </div>
      <${Table} label=${T.days} rows=${days} rowKey=${(/** @type {Row} */ row) => `${row.day} ${row.key}`} columns=${[{ name: "day", title: T.day, render: (/** @type {Row} */ row) => row.day }, named, ...figures]} />`
    }`;
}
