// @ts-check
/** Who belongs to the swarm, and changing it: invite with a code, join by one, put a member out. Only for the owner. */
import { get, post } from "./api.js";
import {
  Badge,
  Button,
  Choice,
  Confirm,
  CopyButton,
  Dialog,
  Field,
  Lock,
  messageOf,
  NeedsRight,
  notify,
  Problem,
  Table,
} from "./components.js";
import { ago, clean, counted, duration, ms, short } from "./format.js";
import { qrPath } from "./qr.js";
import { rights } from "./rights.js";
import { parts } from "./store.js";
import { STRINGS } from "./strings.js";
import { html, signal, useEffect, useState } from "./ui.js";

/** @typedef {import("./types.js").NodeState} NodeState */
/** @typedef {import("./types.js").KnownNodes} KnownNodes */
/** @typedef {import("./types.js").KnownNode} KnownNode */
/** @typedef {import("./types.js").KnownCode} KnownCode */
/** @typedef {{id: string, name: string, url: string, version: string, state: string, rtt_ms: number | null, since: string | null, member: boolean}} Row */

const T = STRINGS.peers;
const MINUTES = [10, 60, 24 * 60, 7 * 24 * 60];
const ASK_MS = 3000;

/** @type {import("../vendor/signals.js").Signal<KnownNodes | null>} */
const known = signal(null);
const problem = signal("");

async function look() {
  if (!rights.value?.may.trust) return;
  try {
    known.value = await get("/swarm/v1/trust/peers");
    problem.value = "";
  } catch (error) {
    problem.value = messageOf(error);
  }
}

/** Members and peers together, each once: what the board tells of a node, and whether it is a member. Pure.
 * @param {NodeState[]} nodes @param {KnownNodes | null} told @returns {Row[]} */
export function everybody(nodes, told) {
  const own = nodes.find((node) => node.source === "own");
  const rtt = new Map((own?.peers ?? []).map((peer) => [peer.id, peer.rtt_ms]));
  /** @type {Row[]} */
  const rows = nodes
    .filter((node) => node.source !== "own")
    .map((node) => ({
      id: node.id,
      name: node.name,
      url: node.url,
      version: node.version,
      state: node.state,
      rtt_ms: rtt.get(node.id) ?? null,
      since: node.since,
      member: node.mode === "paired",
    }));
  for (const member of told?.nodes ?? []) {
    if (!rows.some((row) => row.id === member.id))
      rows.push({
        id: member.id,
        name: member.name,
        url: member.addresses?.[0] ?? "",
        version: "",
        state: member.state,
        rtt_ms: null,
        since: null,
        member: told?.mode === "paired",
      });
  }
  return rows.sort((one, other) => one.name.localeCompare(other.name) || one.id.localeCompare(other.id));
}

export function Screen() {
  const [asked, setAsked] = useState(/** @type {{what: string, node?: any} | null} */ (null));
  const may = rights.value?.may.trust ?? false;
  useEffect(() => {
    void look();
    const timer = setInterval(() => {
      if (!document.hidden) void look();
    }, ASK_MS);
    return () => clearInterval(timer);
  }, [may]);
  const view = parts.view?.value.get("");
  const paired = view?.node.mode === "paired";
  const rows = everybody([...(parts.node?.value.values() ?? [])], known.value);
  const close = () => {
    setAsked(null);
    void look();
  };
  /** @type {import("./components.js").Column<Row>[]} */
  const columns = [
    { title: T.name, render: ({ name }) => html`<strong>${short(name, 40)}</strong>` },
    { title: T.state, render: ({ state }) => html`<${Badge} state=${state} />` },
    { title: T.address, render: ({ url }) => clean(url) },
    { title: T.rtt, end: true, render: (row) => ms(row.rtt_ms) },
    { title: T.since, render: ({ since }) => ago(since) },
    { title: T.version, render: ({ version }) => short(version, 20) },
    {
      title: "",
      end: true,
      render: (row) =>
        row.member &&
        html`<${Button} kind="quiet" disabled=${!may} onClick=${() => setAsked({ what: "revoke", node: row })}>${T.revoke}<//>`,
    },
  ];
  return html`<div class="stack">
    <section class="card stack">
      <h3><${Lock} closed=${paired} /> ${paired ? T.paired : T.open}</h3>
      <p class="soft">${paired ? T.pairedMore : T.openMore}</p>
      ${view?.trust.problem && html`<${Problem} message=${view.trust.problem} />`}
      <div class="row"><${Button} kind="main" disabled=${!may} onClick=${() => setAsked({ what: "invite" })}>${T.invite}<//><${Button} disabled=${!may} onClick=${() => setAsked({ what: "join" })}>${T.join}<//></div>
      <${NeedsRight} right="trust" />
      <${Problem} message=${may ? problem.value : ""} />
    </section>
    <${Table} label=${T.title} rows=${rows} rowKey=${(/** @type {Row} */ { id }) => id} empty=${T.nobody} columns=${columns} />
    ${may && (known.value?.codes?.length ?? 0) > 0 && html`<${Codes} codes=${known.value?.codes ?? []} />`}
    ${may && (known.value?.revoked?.length ?? 0) > 0 && html`<${Out} nodes=${known.value?.revoked ?? []} />`}
    <${Rejected} rejected=${view?.rejected ?? []} names=${view?.names ?? []} />
    ${asked?.what === "invite" && html`<${Invite} open=${!paired} onClose=${close} />`}
    ${asked?.what === "join" && html`<${Join} onClose=${close} />`}
    ${asked?.what === "revoke" && html`<${Revoke} node=${asked.node} onClose=${close} />`}
  </div>`;
}

/** @param {{codes: KnownCode[]}} props */
function Codes({ codes }) {
  const end = async (/** @type {string} */ id) => {
    try {
      await post("/swarm/v1/trust/withdraw", { code: id });
      notify(T.withdrawn);
    } catch (error) {
      notify(messageOf(error));
    }
    void look();
  };
  return html`<section class="card stack"><h3>${T.codes}</h3><ul class="stack">
    ${codes.map((code) => html`<li key=${code.id} class="row spread"><span><code>${clean(code.id)}</code> ${T.left(code.uses - code.joined.length, code.uses, duration(code.ends_in_s))}${code.joined.length ? ` · ${T.joinedBy(code.joined.map((name) => short(name, 30)).join(", "))}` : ""}</span><${Button} kind="quiet" onClick=${() => end(code.id)}>${T.withdraw}<//></li>`)}
  </ul></section>`;
}

/** @param {{nodes: KnownNode[]}} props */
function Out({ nodes }) {
  return html`<section class="card stack"><h3>${T.out}</h3><p class="soft">${T.outMore}</p><ul class="stack">
    ${nodes.map((node) => html`<li key=${node.id}><strong>${short(node.name, 40)}</strong> <code>${node.id.slice(0, 8)}</code> ${node.by && T.outBy(short(node.by, 40))}</li>`)}
  </ul></section>`;
}

/** @param {{rejected: any[], names: any[]}} props */
function Rejected({ rejected, names }) {
  const shown = rejected.filter((one) => one.source === "static" || !["itself", "down"].includes(one.why));
  const lost = names.filter((one) => one.problem);
  if (shown.length + lost.length === 0) return null;
  return html`<section class="card stack"><h3>${T.rejected}</h3><ul class="stack">
    ${shown.map((one) => html`<li>${String(one.reason).startsWith(one.address) ? "" : html`<code>${clean(one.address)}</code> `}${clean(one.reason)}</li>`)}
    ${lost.map((one) => html`<li><code>${clean(one.name)}</code> ${clean(one.problem)}</li>`)}
  </ul></section>`;
}

/** @param {{open: boolean, onClose: () => void}} props */
function Invite({ open, onClose }) {
  const [uses, setUses] = useState(1);
  const [minutes, setMinutes] = useState(10);
  const [made, setMade] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  const [wrong, setWrong] = useState("");
  const [left, setLeft] = useState(0);
  useEffect(() => {
    if (!made) return undefined;
    const ends = Date.now() + made.life_s * 1000;
    const count = () => setLeft(Math.max(0, (ends - Date.now()) / 1000));
    count();
    const timer = setInterval(count, 1000);
    return () => clearInterval(timer);
  }, [made]);
  const make = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setBusy(true);
    setWrong("");
    try {
      setMade(await post("/swarm/v1/trust/invite", { uses, life_s: minutes * 60 }));
    } catch (error) {
      setWrong(messageOf(error));
    }
    setBusy(false);
  };
  if (made) {
    const joined = known.value?.codes.find((code) => code.id === made.id)?.joined ?? [];
    const command = `swarm join ${made.code}`;
    return html`<${Dialog} title=${T.invite} onClose=${onClose}><div class="stack">
      <p>${T.typeThere}</p>
      <p><code>${clean(command)}</code></p>
      <div class="row"><${CopyButton} text=${command} label=${T.copyCommand} /><${CopyButton} text=${made.code} label=${T.copyCode} /></div>
      <${Qr} rows=${made.qr} />
      <p class="soft" role="timer">${left > 0 ? T.goodFor(duration(Math.round(left)), counted(made.uses, T.machines)) : T.over}</p>
      ${joined.length > 0 && html`<p role="status">${T.joinedBy(joined.map((name) => short(name, 30)).join(", "))}</p>`}
    </div><//>`;
  }
  return html`<${Dialog} title=${T.invite} onClose=${onClose}><form class="stack" onSubmit=${make}>
    <p>${open ? T.firstInvite : T.nextInvite}</p>
    <${Field} label=${T.uses}>${(/** @type {string} */ id) => html`<input id=${id} type="number" min="1" max="127" value=${uses} onInput=${(/** @type {any} */ event) => setUses(Number(event.target.value))} />`}<//>
    <${Choice} label=${T.time} value=${minutes} of=${MINUTES.map((count) => [count, duration(count * 60)])} onChoice=${(/** @type {string} */ count) => setMinutes(Number(count))} />
    <${Problem} message=${wrong} />
    <footer class="row"><${Button} kind=${open ? "danger" : "main"} type="submit" busy=${busy}>${open ? T.inviteAndClose : T.makeCode}<//></footer>
  </form><//>`;
}

/** @param {{rows: string[] | undefined}} props */
function Qr({ rows }) {
  if (!rows?.length) return null;
  const size = rows.length + 8;
  return html`<svg class="qr" viewBox=${`-4 -4 ${size} ${size}`} role="img" aria-label=${T.qr} shape-rendering="crispEdges">
    <rect x="-4" y="-4" width=${size} height=${size} fill="#fff" /><path d=${qrPath(rows)} fill="#000" />
  </svg>`;
}

/** @param {{onClose: () => void}} props */
function Join({ onClose }) {
  const [code, setCode] = useState("");
  return html`<${Confirm} title=${T.join} what=${T.joinWhat} action=${T.join} ready=${code.trim() !== ""} onClose=${onClose} onConfirm=${async () => {
    const done = await post("/swarm/v1/trust/join", { code: code.trim() });
    notify(T.joined(short(done.inviter, 40)));
  }}>
    <${Field} label=${T.code}>${(/** @type {string} */ id) => html`<textarea id=${id} rows="3" spellcheck="false" value=${code} onInput=${(/** @type {any} */ event) => setCode(event.target.value)}></textarea>`}<//>
  <//>`;
}

/** @param {{node: any, onClose: () => void}} props */
function Revoke({ node, onClose }) {
  const [typed, setTyped] = useState("");
  return html`<${Confirm} title=${T.revokeTitle(short(node.name, 40))} what=${T.revokeWhat(short(node.name, 40))} action=${T.revoke} danger=${true} ready=${typed.trim() === node.name} onClose=${onClose} onConfirm=${async () => {
    await post("/swarm/v1/trust/revoke", { who: node.id });
    notify(T.revoked(short(node.name, 40)));
  }}>
    <${Field} label=${T.typeName(short(node.name, 60))}>${(/** @type {string} */ id) => html`<input id=${id} value=${typed} autocomplete="off" onInput=${(/** @type {any} */ event) => setTyped(event.target.value)} />`}<//>
  <//>`;
}
