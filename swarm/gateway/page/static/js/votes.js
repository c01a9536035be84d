// @ts-check
import { html } from "./ui.js";
import { parts } from "./store.js";

/** @param {{rest: string[]}} props what follows the screen's name in the address */
export function Screen({ rest }) {
  return html`<pre>${JSON.stringify([...(parts.view?.value.values() ?? [])], null, 1)}${rest}</pre>`;
}
