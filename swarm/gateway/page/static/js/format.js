// @ts-check
/** Figures as people read them: sizes in the units of the node's own words, instants by the node's clock. */
import { now } from "./store.js";
import { STRINGS } from "./strings.js";

const T = STRINGS.format;
const [KIB, MIB, GIB] = [2 ** 10, 2 ** 20, 2 ** 30];

/** Characters that would change how the text around them is read, or show as nothing. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it is about
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** What others say, without control and bidirectional signs: a name cannot turn the words beside it. @param {unknown} text */
export function clean(text) {
  return String(text ?? "").replace(UNSEEN, (sign) => (sign === "\u200d" ? sign : "\ufffd"));
}

/** `clean`, in one line and not longer than `most` signs. @param {unknown} text @param {number} [most] */
export function short(text, most = 80) {
  const line = clean(text).replace(/\s+/g, " ").trim();
  return line.length > most ? `${line.slice(0, most - 1)}…` : line;
}

/** The order of names; numbers in them by their size. */
export const byName = new Intl.Collator("en", { numeric: true }).compare;

/** @param {number} value @param {number} digits */
function rounded(value, digits) {
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

/** As exact as the node says it, and rounded as it rounds. @type {Intl.NumberFormatOptions & {roundingMode: string}} */
const TENTHS = { minimumFractionDigits: 1, maximumFractionDigits: 1, useGrouping: false, roundingMode: "halfEven" };

/** Bytes as the node's own words have them (`size_text` in model_memory.py): 4.4 GiB, 700 MiB. @param {number | null | undefined} count */
export function bytes(count) {
  if (count === null || count === undefined) return T.unknown;
  if (count >= GIB) return `${(count / GIB).toLocaleString("en", TENTHS)} GiB`;
  if (count >= MIB) return `${Math.ceil(count / MIB)} MiB`;
  return count >= KIB ? `${Math.ceil(count / KIB)} KiB` : `${Math.round(count)} B`;
}

/** 12 ms, 1.2 s, 3 min. @param {number | null | undefined} value milliseconds */
export function ms(value) {
  if (value === null || value === undefined) return T.unknown;
  if (value < 1000) return `${rounded(value, value < 10 ? 1 : 0)} ms`;
  return duration(value / 1000);
}

/** @param {number | null | undefined} seconds */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return T.unknown;
  if (seconds < 60) return `${rounded(seconds, seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${rounded(seconds / 3600, 1)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** How long ago an instant was; it goes on by the second. @param {string | null | undefined} at ISO 8601 @param {number} [instant] milliseconds by the node's clock */
export function ago(at, instant = now.value) {
  const then = at ? Date.parse(at) : Number.NaN;
  if (Number.isNaN(then)) return T.unknown;
  return T.ago(duration(Math.max(0, (instant - then) / 1000)));
}

/** How long something lasts by now that began at an instant; null where that is unknown. @param {string | number | null} at ISO 8601, or milliseconds */
export function since(at) {
  const then = new Date(at ?? Number.NaN).getTime();
  return Number.isNaN(then) ? null : duration(Math.max(0, Math.round((now.value - then) / 1000)));
}

/** The time of day of an instant. @param {string | number} at ISO 8601, or milliseconds @param {boolean} [seconds] */
export function clock(at, seconds = true) {
  const then = new Date(at);
  /** @type {Intl.DateTimeFormatOptions} */
  const asked = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(seconds ? { second: "2-digit" } : {}) };
  return Number.isNaN(then.getTime()) ? T.unknown : then.toLocaleTimeString("en", asked);
}

/** @param {number | null | undefined} share 0 to 1 */
export function percent(share) {
  return share === null || share === undefined ? T.unknown : `${Math.round(share * 100)} %`;
}

/** @param {number | null | undefined} value @param {number} [digits] */
export function number(value, digits = 0) {
  return value === null || value === undefined ? T.unknown : rounded(value, digits);
}

/** "1 vote", "2 votes". @param {number} count @param {readonly [string, string]} words */
export function counted(count, words) {
  return `${number(count)} ${words[count === 1 ? 0 : 1]}`;
}
