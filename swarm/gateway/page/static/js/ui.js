// @ts-check
/** What components are made of: one place names the libraries. */
import { Component, h, render } from "../vendor/preact.js";
import { useEffect, useId, useLayoutEffect, useMemo, useRef, useState } from "../vendor/preact-hooks.js";
import { batch, effect, signal } from "../vendor/signals.js";
import htm from "../vendor/htm.js";

/** Templates: html`<p class="note">${text}</p>`. Values are text, never HTML. */
export const html = htm.bind(h);
export { Component, batch, effect, h, render, signal };
export { useEffect, useId, useLayoutEffect, useMemo, useRef, useState };
