// @ts-check
/** What runs on this node, and ending it; beside it the log and what keys use. For who manages the node. */
import { post } from "./api.js";
import { Badge, Button, Confirm, NeedsRight, notify, Table } from "./components.js";
import { clean, duration, number, short } from "./format.js";
import { Logs } from "./logs.js";
import { rights } from "./rights.js";
import { parts, useParts } from "./store.js";
import { STRINGS } from "./strings.js";
import { html, useState } from "./ui.js";
import { Usage } from "./usage.js";

/** @typedef {import("./types.js").RequestEntry} RequestEntry */

const T = STRINGS.requests;
const TABS = { running: Running, logs: Logs, usage: Usage };

/**
 * Those with the word in them, by their keys on the board, the longest first. Pure.
 * @template {RequestEntry} Entry @param {Entry[]} requests @param {string} word
 */
export function matching(requests, word) {
  const sought = word.trim().toLowerCase();
  return requests
    .filter(({ id, path, key, model }) => [id, path, key, model].join(" ").toLowerCase().includes(sought))
    .sort((one, other) => other.running_s - one.running_s);
}

/** @param {{rest: string[]}} props what follows the screen's name in the address */
export function Screen({ rest }) {
  const [asked = "", word = ""] = rest;
  const name = Object.hasOwn(TABS, asked) ? /** @type {keyof typeof TABS} */ (asked) : "running";
  return html`<div class="stack">
    <nav class="row tabs" aria-label=${T.tabs}>${Object.entries(T.names).map(
      ([tab, title]) => html`<a href=${`#/requests/${tab}`} aria-current=${tab === name ? "page" : undefined}>${title}</a>`,
    )}</nav>
    <${NeedsRight} right="manage" />
    ${rights.value?.may.manage && html`<${TABS[name]} key=${rest.join("/")} word=${word} />`}
  </div>`;
}

function Running() {
  useParts(["request"]);
  const [word, setWord] = useState("");
  const [doomed, setDoomed] = useState(/** @type {RequestEntry | null} */ (null));
  /** @typedef {RequestEntry & {row: string}} Row several may share an id */
  const rows = /** @type {Row[]} */ ([...(parts.request?.value ?? [])].map(([row, entry]) => ({ ...entry, row })));
  return html`
    <input type="search" aria-label=${T.find} placeholder=${T.find} value=${word} onInput=${(/** @type {any} */ event) => setWord(event.target.value)} />
    <${Table} label=${T.title} rows=${matching(rows, word)} rowKey=${(/** @type {Row} */ { row }) => row} empty=${word ? T.noMatch : T.empty} columns=${[
      {
        name: "id",
        title: T.id,
        render: (/** @type {Row} */ { id, path }) =>
          html`<div class="stack"><code>${short(id, 70)}</code><small>${clean(path)} · <a href=${`#/requests/logs/${encodeURIComponent(id)}`}>${T.log}</a></small></div>`,
      },
      { name: "from", title: T.from, render: (/** @type {Row} */ row) => (row.key === null ? T.by[row.from] : clean(row.key)) },
      { name: "model", title: T.model, render: (/** @type {Row} */ { model }) => short(model ?? STRINGS.format.unknown, 60) },
      { name: "state", title: T.state, render: (/** @type {Row} */ { state }) => html`<${Badge} state=${state} />` },
      { name: "tokens", title: T.tokens, end: true, render: (/** @type {Row} */ { tokens }) => number(tokens) },
      { name: "runs", title: T.runs, end: true, render: (/** @type {Row} */ row) => duration(row.running_s) },
      {
        name: "cancel",
        title: "",
        end: true,
        render: (/** @type {Row} */ row) => html`<${Button} onClick=${() => setDoomed(row)}>${T.cancel}<//>`,
      },
    ]} />
    <p class="soft">${T.note}</p>
    ${
      doomed &&
      html`<${Confirm} title=${T.cancelTitle} what=${T.cancelWhat(short(doomed.id, 60))} action=${T.cancel} danger=${true} onClose=${() => setDoomed(null)} onConfirm=${async () => {
        await post(`/swarm/v1/requests/${encodeURIComponent(doomed.id)}/cancel`);
        notify(T.cancelled);
      }} />`
    }`;
}
