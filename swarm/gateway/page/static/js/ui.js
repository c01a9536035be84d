// @ts-check
/** What components are made of: one place names the libraries. */
import { h, render, Fragment } from "../vendor/preact.js";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/preact-hooks.js";
import { batch, computed, effect, signal, useComputed, useSignal } from "../vendor/signals.js";
import htm from "../vendor/htm.js";

/** Templates: html`<p class="note">${text}</p>`. Values are text, never HTML. */
export const html = htm.bind(h);
export { Fragment, batch, computed, effect, h, render, signal };
export { useComputed, useEffect, useLayoutEffect, useMemo, useRef, useSignal, useState };
