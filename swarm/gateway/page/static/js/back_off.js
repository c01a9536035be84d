// @ts-check
/** How a page comes back to a node that went. Pure. */

const BACK_OFF_MS = [250, 500, 1000, 2000, 4000];

/** How long to wait before the next try, in milliseconds. @param {number} tries @param {number} [random] 0 to 1 */
export function backOff(tries, random = Math.random()) {
  const longest = BACK_OFF_MS[Math.min(tries, BACK_OFF_MS.length) - 1] ?? 0;
  return longest * (0.5 + random / 2); // so that pages do not come back all at once
}
