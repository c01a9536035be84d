// @ts-check
/** What components are made of: one place names the libraries. */
import { Component, h, render, Fragment } from "../vendor/preact.js";
import { useEffect, useId, useLayoutEffect, useMemo, useRef, useState } from "../vendor/preact-hooks.js";
import { batch, computed, effect, signal, useComputed, useSignal } from "../vendor/signals.js";
import htm from "../vendor/htm.js";

/** Templates: html`<p class="note">${text}</p>`. Values are text, never HTML. */
export const html = htm.bind(h);
export { Component, Fragment, batch, computed, effect, h, render, signal };
export { useComputed, useEffect, useId, useLayoutEffect, useMemo, useRef, useSignal, useState };
