// @ts-check
/** What runs on this node, and ending it. For who manages it. */
import { get, post } from "./api.js";
import { Button, Confirm, messageOf, NeedsRight, notify, Problem, Table } from "./components.js";
import { clean, duration, short } from "./format.js";
import { rights } from "./rights.js";
import { STRINGS } from "./strings.js";
import { html, useEffect, useState } from "./ui.js";

const T = STRINGS.requests;
const ASK_MS = 1000;

/** @typedef {{id: string, path: string, from: "client" | "node", running_s: number}} RunningRequest */

/** Those with the word in them, the longest first. Pure. @param {RunningRequest[]} requests @param {string} word */
export function matching(requests, word) {
  const sought = word.trim().toLowerCase();
  return requests
    .filter((one) => `${one.id} ${one.path}`.toLowerCase().includes(sought))
    .sort((one, other) => other.running_s - one.running_s);
}

export function Screen() {
  const may = rights.value?.may.manage ?? false;
  const [requests, setRequests] = useState(/** @type {RunningRequest[]} */ ([]));
  const [problem, setProblem] = useState("");
  const [word, setWord] = useState("");
  const [doomed, setDoomed] = useState(/** @type {RunningRequest | null} */ (null));
  useEffect(() => {
    if (!may) return undefined;
    const look = async () => {
      if (document.hidden) return;
      try {
        setRequests((await get("/swarm/v1/requests")).data);
        setProblem("");
      } catch (error) {
        setProblem(messageOf(error));
      }
    };
    void look();
    const timer = setInterval(look, ASK_MS);
    return () => clearInterval(timer);
  }, [may]);
  if (!may) return html`<${NeedsRight} right="manage" />`;
  return html`<div class="stack requests">
    <${Problem} message=${problem} />
    <input type="search" aria-label=${T.find} placeholder=${T.find} value=${word} onInput=${(/** @type {any} */ event) => setWord(event.target.value)} />
    <${Table} label=${T.title} rows=${matching(requests, word)} rowKey=${(/** @type {RunningRequest} */ row) => `${row.id} ${row.path}`} empty=${word ? T.noMatch : T.empty} columns=${[
      { name: "id", title: T.id, render: (/** @type {RunningRequest} */ row) => html`<code>${short(row.id, 70)}</code>` },
      { name: "path", title: T.path, render: (/** @type {RunningRequest} */ row) => html`<code>${clean(row.path)}</code>` },
      { name: "from", title: T.from, render: (/** @type {RunningRequest} */ row) => T.by[row.from] },
      { name: "runs", title: T.runs, end: true, render: (/** @type {RunningRequest} */ row) => duration(row.running_s) },
      {
        name: "cancel",
        title: "",
        end: true,
        render: (/** @type {RunningRequest} */ row) => html`<${Button} onClick=${() => setDoomed(row)}>${T.cancel}<//>`,
      },
    ]} />
    <p class="soft">${T.note}</p>
    ${
      doomed &&
      html`<${Confirm} title=${T.cancelTitle} what=${T.cancelWhat(short(doomed.id, 60))} action=${T.cancel} danger=${true} onClose=${() => setDoomed(null)} onConfirm=${async () => {
        await post(`/swarm/v1/requests/${encodeURIComponent(doomed.id)}/cancel`);
        notify(T.cancelled);
      }} />`
    }
  </div>`;
}
