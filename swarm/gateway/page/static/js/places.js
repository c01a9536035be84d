// @ts-check
/** Which screen an address names. Pure. */
import { STRINGS } from "./strings.js";

export const FIRST = "overview";

/** The name of the screen and what follows it: #/votes/ID. @param {string} hash */
export function placeOf(hash) {
  const [name = "", ...rest] = hash.replace(/^#\/?/, "").split("/");
  return { name: Object.hasOwn(STRINGS.page.screens, name) ? name : FIRST, rest: rest.map(decoded) };
}

/** @param {string} word */
function decoded(word) {
  try {
    return decodeURIComponent(word);
  } catch {
    return word;
  }
}
