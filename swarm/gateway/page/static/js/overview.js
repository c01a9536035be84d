// @ts-check
/** The swarm at a glance: who sees whom, each node with its memory, models and load, and what to do about what is wrong. */
import { Badge, Bar, Button, CopyButton, Empty, Lock, NeedsRight, Search, Spinner } from "./components.js";
import { byName, bytes, clean, counted, duration, ms, number, percent, short, since } from "./format.js";
import { connection, parts } from "./store.js";
import { STRINGS } from "./strings.js";
import { CROWD, cutInside, layOut, linksOf, NARROW, WIDTH } from "./topology.js";
import { html, signal, useMemo, useState } from "./ui.js";

/** @typedef {import("./types.js").NodeState} NodeState */
/** @typedef {import("./types.js").OwnModel} OwnModel */
/** @typedef {import("./types.js").FindingEntry} FindingEntry */
/** @typedef {import("./types.js").LendingEntry} LendingEntry */

const T = STRINGS.overview;
const FOLDED = 5;
const STALE_S = 3;
const LINKS_WITH_TIMES = 12;

const phone = matchMedia("(max-width: 760px)");
const narrow = signal(phone.matches);
phone.addEventListener("change", () => {
  narrow.value = phone.matches;
});

/** This node first, then by name; those that are gone last. @param {Iterable<NodeState>} nodes */
export function ordered(nodes) {
  const rank = (/** @type {NodeState} */ node) => (node.source === "own" ? 0 : node.state === "dead" || node.state === "absent" ? 2 : 1);
  return [...nodes].sort((one, other) => rank(one) - rank(other) || byName(one.name, other.name) || one.id.localeCompare(other.id));
}

export function Screen() {
  const nodes = ordered(parts.node?.value.values() ?? []);
  const findings = /** @type {FindingEntry[]} */ ([...(parts.finding?.value.values() ?? [])]);
  const [wanted, setWanted] = useState("");
  if (nodes.length === 0) return connection.value.state === "refused" ? html`<${NeedsRight} right="ask" />` : html`<${Spinner} />`;
  const found = wanted ? nodes.filter((node) => matches(node, wanted)) : nodes;
  return html`<div class="stack">
    <${Findings} findings=${findings} />
    ${nodes.length > 1 ? html`<${Topology} nodes=${nodes} />` : html`<${Alone} node=${nodes[0]} />`}
    ${nodes.length > 6 && html`<${Search} label=${T.findNode} value=${wanted} onText=${setWanted} />`}
    <div class="grid">${found.map((node) => html`<${Kept} key=${node.id} node=${node} />`)}</div>
  </div>`;
}

/** @param {NodeState} node @param {string} wanted */
function matches(node, wanted) {
  const text = `${node.name} ${node.url} ${node.models.map((model) => model.id).join(" ")}`.toLowerCase();
  return text.includes(wanted.trim().toLowerCase());
}

/** @param {{findings: FindingEntry[]}} props */
export function Findings({ findings }) {
  if (findings.length === 0) return null;
  return html`<section class="stack" aria-label=${T.findings}>
    ${findings.map(
      (finding) => html`<div key=${finding.id} class=${`finding ${finding.level}-level`}>
        <p><strong>${clean(finding.what)}</strong></p><p class="soft">${clean(finding.remedy)}</p>
      </div>`,
    )}
  </section>`;
}

/** @param {{node: NodeState | undefined}} props */
function Alone({ node }) {
  const address = node?.url.replace(/^https?:\/\//, "") ?? "";
  const peer = `swarm --federation --peer ${address}`;
  return html`<section class="card stack">
    <h3>${T.aloneTitle}</h3>
    <p>${T.alone}</p>
    <p class="row"><code>${T.aloneCommand}</code><${CopyButton} text=${T.aloneCommand} /></p>
    <p>${T.aloneElse}</p>
    <p class="row"><code>${peer}</code><${CopyButton} text=${peer} /></p>
    <p><a class="button main" href="#/chat">${T.try}</a></p>
  </section>`;
}

/** @param {{nodes: NodeState[]}} props */
function Topology({ nodes }) {
  const own = nodes[0]?.id ?? "";
  const width = narrow.value ? NARROW : WIDTH;
  const crowd = nodes.length > CROWD;
  const letters = narrow.value && nodes.length > 6 ? 10 : 18;
  const ids = nodes.map((node) => node.id).join(" ");
  const { height, places } = useMemo(() => layOut(ids.split(" "), own, width), [ids, own, width]);
  const links = linksOf(nodes);
  const paired = nodes[0]?.mode === "paired";
  const times = crowd ? [] : links.length <= LINKS_WITH_TIMES ? links : links.filter((link) => link.from === own || link.to === own);
  const seen = new Map(nodes[0]?.peers.map((peer) => [peer.id, peer.rtt_ms]));
  return html`<section class="card stack">
    <div class="row spread"><h3>${T.topology}</h3><span class="soft"><${Lock} closed=${paired} /> ${paired ? T.paired : T.open}</span></div>
    <svg class=${`topology ${crowd ? "crowd" : ""}`} viewBox=${`0 0 ${width} ${height}`} role="img" aria-label=${T.topologyLabel(nodes.length, links.length)}>
      ${links.map((link) => {
        const [from, to] = [places.get(link.from), places.get(link.to)];
        return (
          from &&
          to &&
          html`<line key=${`${link.from} ${link.to}`} class=${link.lends ? `${link.state} lends` : link.state} x1=${from.x} y1=${from.y} x2=${to.x} y2=${to.y} />`
        );
      })}
      ${times.map((link) => {
        const [from, to] = [places.get(link.from), places.get(link.to)];
        if (!from || !to || link.rtt_ms === null || link.state === "dead") return null;
        return html`<text key=${`t ${link.from} ${link.to}`} class="rtt" x=${(from.x + to.x) / 2} y=${(from.y + to.y) / 2 + 4}>${ms(link.rtt_ms)}</text>`;
      })}
      ${nodes.map((node) => {
        const place = places.get(node.id);
        if (!place) return null;
        const beside = crowd && !narrow.value ? 20 * place.side : 0;
        const busy = crowd ? 8 + Math.min(6, node.running) : 14 + Math.min(8, 2 * node.running);
        const anchor = beside < 0 ? "end" : beside > 0 ? "start" : "";
        const low = beside ? 0 : crowd ? 26 : 38;
        const time = seen.get(node.id) ?? null;
        const more = node.state !== "alive" ? (STRINGS.states[node.state] ?? node.state) : beside && time !== null ? ms(time) : "";
        return html`<g key=${node.id} class=${`${node.source === "own" ? "here" : ""} ${node.state}`} transform=${`translate(${place.x} ${place.y})`}>
          <title>${clean(node.name)}</title><circle r=${busy} /><text class=${anchor} x=${beside} y=${low + (more && beside ? 0 : beside ? 4 : 0)}>${cutInside(short(node.name, 80), letters)}</text>
          ${more && html`<text class=${`rtt ${anchor}`} x=${beside} y=${low + (crowd ? 13 : 16)}>${more}</text>`}
        </g>`;
      })}
    </svg>
    ${links.some((link) => link.lends) && html`<p class="soft">${T.lendsLine}</p>`}
  </section>`;
}

/** A card is made anew only when its node told something new. @param {{node: NodeState}} props */
function Kept({ node }) {
  return useMemo(() => html`<${Node} node=${node} />`, [node]);
}

/** @param {{node: NodeState}} props */
function Node({ node }) {
  const gone = node.state === "dead" || node.state === "absent";
  const names = node.peers
    .filter((peer) => peer.state !== "dead")
    .map((peer) => `${short(peer.name, 24)}${peer.rtt_ms === null ? "" : ` (${ms(peer.rtt_ms)})`}`);
  return html`<article class=${`card stack ${gone ? "gone" : ""}`} aria-label=${clean(node.name)}>
    <div class="row spread">
      <h3>${short(node.name, 40)} ${node.source === "own" && html`<small>${T.here}</small>`}</h3>
      <span class="row"><span class="soft" title=${node.mode === "paired" ? T.paired : T.open}><${Lock} closed=${node.mode === "paired"} /> ${node.mode === "paired" ? T.pairedShort : T.openShort}</span><${Badge} state=${node.state} /></span>
    </div>
    <p class="soft">${clean(node.url)}${node.version && ` · ${T.version(short(node.version, 20))}`}</p>
    ${node.state !== "alive" && html`<${Since} node=${node} />`}
    ${!gone && node.status !== "ok" && html`<p class="problem">${clean(node.status)}</p>`}
    <p>${hardware(node)}</p>
    ${!gone && node.source === "unknown" && html`<p class="soft">${T.silent}</p>`}
    ${!gone && html`<${Figures} node=${node} />`}
    ${!gone && node.memory.length > 0 && html`<${Memory} node=${node} />`}
    ${!gone && node.lending && html`<${Lending} lending=${node.lending} />`}
    ${!gone && html`<${Models} node=${node} />`}
    ${!gone && names.length > CROWD && html`<details class="soft"><summary>${T.seesMany(names.length)}</summary>${names.join(", ")}</details>`}
    ${!gone && html`<p class="soft">${names.length > CROWD ? "" : names.length ? T.sees(names.join(", ")) : T.seesNobody}${node.age_s > STALE_S ? ` · ${T.seen(duration(node.age_s))}` : ""}</p>`}
  </article>`;
}

/** Since when it is not alive, and why; it goes on by the second. @param {{node: NodeState}} props */
function Since({ node }) {
  return html`<p class="problem">${T.since(STRINGS.states[node.state] ?? node.state, since(node.since), clean(node.why ?? ""))}</p>`;
}

/** @param {NodeState} node */
export function hardware(node) {
  const { cpu, cores, ram_bytes: ram, gpu, vram_bytes: vram } = node.hardware;
  const found = [
    cpu && short(cpu, 60),
    cores && counted(cores, T.cores),
    ram && bytes(ram),
    gpu && `${short(gpu, 60)}${vram ? ` ${bytes(vram)}` : ""}`,
  ];
  return found.filter(Boolean).join(" · ");
}

/** @param {{node: NodeState}} props */
function Figures({ node }) {
  return html`<dl class="figures">
    <div><dt>${T.tokens}</dt><dd>${number(node.tokens_per_s, node.tokens_per_s < 10 ? 1 : 0)}</dd></div>
    <div><dt>${T.running}</dt><dd>${number(node.running)}</dd></div>
    <div><dt>${T.waiting}</dt><dd>${number(node.waiting)}</dd></div>
  </dl>`;
}

/** @param {string} pool */
function poolName(pool) {
  const known = /** @type {Record<string, string>} */ (T.pool);
  return known[pool] ?? T.vram(clean(pool.replace(/^vram/, "")));
}

/** @param {{node: NodeState}} props */
function Memory({ node }) {
  return html`<div class="stack">
    ${node.memory.map((pool) => {
      const total = pool.total_bytes ?? 0;
      const share = (/** @type {number | null} */ count) => (total > 0 && count !== null ? count / total : 0);
      const other = Math.max(0, total - (pool.free_bytes ?? 0) - pool.weights_bytes - pool.kv_bytes - pool.lent_bytes);
      const words = T.memory(
        poolName(pool.pool),
        bytes(pool.weights_bytes),
        bytes(pool.kv_bytes),
        pool.lent_bytes ? bytes(pool.lent_bytes) : "",
        bytes(pool.free_bytes),
        bytes(pool.total_bytes),
      );
      return html`<div key=${pool.pool} class="stack">
        <small>${words}</small>
        <${Bar} label=${words} parts=${[{ share: share(pool.weights_bytes), tone: "weights" }, { share: share(pool.kv_bytes), tone: "kv" }, { share: share(pool.lent_bytes), tone: "lent" }, { share: share(other), tone: "other" }]} />
      </div>`;
    })}
    <p class="legend">${Object.entries(T.legend)
      .filter(([name]) => name !== "lent" || node.memory.some((pool) => pool.lent_bytes > 0))
      .map(([name, word]) => html`<span class=${name}><i></i>${word}</span>`)}</p>
  </div>`;
}

/** What a node lends, and to whom. @param {{lending: LendingEntry}} props */
function Lending({ lending }) {
  return html`<div class="stack">
    <small>${lending.draining ? (lending.lent.length ? T.wantedBack : T.lendsNoMore) : T.lends(bytes(lending.total_bytes), bytes(lending.free_bytes))}</small>
    ${
      lending.lent.length > 0 &&
      html`<ul aria-label=${T.lent}>${lending.lent.map((part, at) => html`<li key=${at}><small>${T.lentTo(bytes(part.bytes), short(part.node, 24), short(part.model, 60))}</small></li>`)}</ul>`
    }
  </div>`;
}

/** @param {{node: NodeState}} props */
function Models({ node }) {
  const [open, setOpen] = useState(false);
  const [wanted, setWanted] = useState("");
  const found = wanted ? node.models.filter((model) => model.id.toLowerCase().includes(wanted.toLowerCase())) : node.models;
  const shown = open ? found.slice(0, 200) : found.slice(0, FOLDED);
  if (node.models.length === 0) return html`<${Empty}>${T.noModels}<//>`;
  return html`<div class="stack">
    ${open && node.models.length > 10 && html`<${Search} label=${T.find} value=${wanted} onText=${setWanted} />`}
    <ul aria-label=${T.models}>${shown.map((model) => html`<${Model} key=${model.id} model=${model} />`)}</ul>
    ${
      node.models.length > FOLDED &&
      html`<${Button} kind="quiet" expanded=${open} onClick=${() => setOpen(!open)}>${open ? T.fewer : T.moreModels(node.models.length - FOLDED)}<//>`
    }
    ${node.loadable > 0 && html`<p class="soft">${T.loadable(node.loadable)}</p>`}
  </div>`;
}

/** @param {{model: OwnModel}} props */
function Model({ model }) {
  const { share, left_s: left } = model.loading ?? { share: null, left_s: null };
  return html`<li class="model">
    <div class="row spread"><strong>${short(model.id, 60)}</strong><${Badge} state=${model.state} /></div>
    ${model.state === "loading" && share !== null && html`<${Bar} label=${percent(share)} parts=${[{ share, tone: "accent" }]} />`}
    ${model.state === "loading" && html`<small>${share === null ? "" : percent(share)} ${left === null ? "" : T.left(duration(left))}</small>`}
    ${model.state === "ready" && html`<small>${T.slots(model.slots_free, model.slots)}${model.computation ? ` · ${clean(model.computation.words)}` : ""}</small>`}
    ${model.nodes.length > 0 && !(model.state === "ready" && model.computation) && html`<small>${T.over(model.nodes.map((name) => short(name, 24)).join(" + "))}</small>`}
    ${(model.problem || model.reason) && html`<p class="problem">${clean(model.problem ?? model.reason)}</p>`}
  </li>`;
}
