// @ts-check
/** What runs on this node, and ending it; beside it the log and what keys use. For who manages the node. */
import { post } from "./api.js";
import { Badge, Button, Confirm, NeedsRight, notify, Search, Table } from "./components.js";
import { clean, duration, number, short } from "./format.js";
import { Logs } from "./logs.js";
import { rights } from "./rights.js";
import { parts, useParts } from "./store.js";
import { STRINGS } from "./strings.js";
import { html, useState } from "./ui.js";
import { Usage } from "./usage.js";

/** @typedef {import("./types.js").RequestEntry} RequestEntry */
/** @typedef {RequestEntry & {row: string}} Row by its key on the board: several may share an id */

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
  const rows = /** @type {Row[]} */ ([...(parts.request?.value ?? [])].map(([row, entry]) => ({ ...entry, row })));
  /** @type {import("./components.js").Column<Row>[]} */
  const columns = [
    {
      title: T.id,
      render: ({ id, path }) =>
        html`<div class="stack"><code>${short(id, 70)}</code><small>${clean(path)} · <a href=${`#/requests/logs/${encodeURIComponent(id)}`}>${T.log}</a></small></div>`,
    },
    { title: T.from, render: ({ key, from }) => (key === null ? T.by[from] : clean(key)) },
    { title: T.model, render: ({ model }) => short(model ?? STRINGS.format.unknown, 60) },
    { title: T.state, render: ({ state }) => html`<${Badge} state=${state} />` },
    { title: T.tokens, end: true, render: ({ tokens }) => number(tokens) },
    { title: T.runs, end: true, render: (row) => duration(row.running_s) },
    { title: "", end: true, render: (row) => html`<${Button} onClick=${() => setDoomed(row)}>${T.cancel}<//>` },
  ];
  return html`
    <div class="row filters"><${Search} label=${T.find} value=${word} onText=${setWord} /></div>
    <${Table} label=${T.title} rows=${matching(rows, word)} rowKey=${(/** @type {Row} */ { row }) => row} empty=${word ? T.noMatch : T.empty} columns=${columns} />
    <p class="soft">${T.note}</p>
    ${
      doomed &&
      html`<${Confirm} title=${T.cancelTitle} what=${T.cancelWhat(short(doomed.id, 60))} action=${T.cancel} danger=${true} onClose=${() => setDoomed(null)} onConfirm=${async () => {
        await post(`/swarm/v1/requests/${encodeURIComponent(doomed.id)}/cancel`);
        notify(T.cancelled);
      }} />`
    }`;
}
