// @ts-check
/** What a page asks its node for, and how it comes back to one that went. Pure. */

/** @typedef {import("./types.js").PartName} PartName */

const BACK_OFF_MS = [250, 500, 1000, 2000, 4000];

/** How long to wait before the next try, in milliseconds. @param {number} tries @param {number} [random] 0 to 1 */
export function backOff(tries, random = Math.random()) {
  const longest = BACK_OFF_MS[Math.min(tries, BACK_OFF_MS.length) - 1] ?? 0;
  return longest * (0.5 + random / 2); // so that pages do not come back all at once
}

const FOR_ALL = /** @type {PartName[]} */ (["view", "node", "finding"]);
const MANAGED = /** @type {PartName[]} */ (["request", "usage", "log", "pull"]);

/** What to ask for: one part that it may not see would cost the page all of them. @param {Iterable<PartName>} wanted @param {boolean} manages */
export function askedParts(wanted, manages) {
  return [...new Set([...FOR_ALL, ...wanted])].filter((name) => manages || !MANAGED.includes(name)).sort();
}

/** Whether who has read these parts up to an event can go on from it with those: new ones need a snapshot. @param {string[]} read @param {string[]} asked */
export function canResume(read, asked) {
  return asked.every((name) => read.includes(name));
}
