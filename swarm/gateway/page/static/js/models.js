// @ts-check
/** What lies on a node's disk, what would fit there, and loading, unloading, keeping and fetching it. */
import { get, post } from "./api.js";
import {
  Badge,
  Bar,
  Button,
  Choice,
  Confirm,
  messageOf,
  NeedsRight,
  notify,
  Problem,
  Search,
  Spinner,
  Table,
  typed,
} from "./components.js";
import { byName, bytes, clean, duration, number, percent, short } from "./format.js";
import { rights } from "./rights.js";
import { parts, useParts } from "./store.js";
import { STRINGS } from "./strings.js";
import { html, useEffect, useState } from "./ui.js";

/** @typedef {import("./types.js").StoredModel} StoredModel */
/** @typedef {import("./types.js").StoredModels} StoredModels */
/** @typedef {import("./types.js").NodeState} NodeState */
/** @typedef {import("./types.js").OwnModel} OwnModel */
/** @typedef {import("./types.js").PullEntry} PullEntry */
/** @typedef {StoredModel & {now: OwnModel | undefined}} Row */

const T = STRINGS.models;
const SUGGESTED = 6;
const LEAVING = ["draining", "unloading"];

/**
 * Models with the word in name or id, with what the node tells of those that it runs now; those in memory first, then by name. Pure.
 * @param {StoredModel[]} stored @param {OwnModel[]} running @param {string} word @returns {Row[]}
 */
export function found(stored, running, word) {
  const sought = word.trim().toLowerCase();
  const byId = new Map(running.map((model) => [model.id, model]));
  const known = new Set(stored.map((model) => model.id));
  const only = running
    .filter((model) => !known.has(model.id))
    .map((model) => ({
      id: model.id,
      name: model.id,
      state: model.state,
      pinned: model.pinned,
      size_bytes: model.size_bytes,
      need_bytes: model.taken_bytes,
      fits: true,
      why: "",
      tokens_per_s: null,
      engine: model.engine,
    }));
  const rank = (/** @type {StoredModel} */ model) => (model.state === "available" ? 1 : 0);
  return [...stored, ...only]
    .filter((model) => `${model.name} ${model.id}`.toLowerCase().includes(sought))
    .map((model) => {
      const now = byId.get(model.id);
      /** @type {StoredModel["state"]} */
      const state = now?.state ?? (model.state === "failed" ? "failed" : "available");
      return { ...model, now, state, pinned: now?.pinned ?? model.pinned };
    })
    .sort((one, other) => rank(one) - rank(other) || byName(one.name, other.name));
}

/** The machines of one that is not computed yet, or no more: else its computation says them. Pure. @param {OwnModel | undefined} model */
function over(model) {
  return model?.nodes.length ? STRINGS.overview.over(model.nodes.join(" + ")) : undefined;
}

/** Seconds until a pull is done; null where that is not known. Pure. @param {{done_bytes: number, total_bytes: number | null, bytes_per_s: number | null}} pull */
export function secondsLeft({ done_bytes: done, total_bytes: total, bytes_per_s: rate }) {
  return total === null || !rate ? null : Math.max(0, (total - done) / rate);
}

/**
 * What to offer of the catalogue: what fits, best first; once a word is typed, whatever has it in its name, fitting or not. Pure.
 * @param {StoredModel[]} fit @param {string} word
 */
export function suggested(fit, word) {
  const sought = word.trim().toLowerCase();
  const named = sought ? fit.filter((model) => model.name.toLowerCase().includes(sought)) : [];
  return (named.length ? named : fit.filter((model) => model.fits)).slice(0, SUGGESTED);
}

export function Screen() {
  const may = rights.value?.may.manage ?? false;
  useParts(may ? ["pull"] : []);
  const nodes = /** @type {NodeState[]} */ ([...(parts.node?.value.values() ?? [])]).filter(
    (node) => node.state !== "dead" && node.state !== "absent",
  );
  const own = nodes.find((node) => node.source === "own");
  const [chosen, setChosen] = useState("");
  const node = nodes.find((one) => one.id === chosen) ?? own;
  if (!node) return html`<${Spinner} />`;
  return html`<div class="stack models">
    <${NeedsRight} right="manage" />
    ${
      nodes.length > 1 &&
      html`<${Choice} label=${T.node} value=${node.id} onChoice=${setChosen} of=${nodes.map((one) => [one.id, short(one.name, 40) + (one === own ? ` (${STRINGS.overview.here})` : "")])} />`
    }
    ${may && html`<${Pulls} />`}
    <${OfNode} key=${node.id} node=${node} may=${may} />
  </div>`;
}

/** @param {{node: NodeState, may: boolean}} props */
function OfNode({ node, may }) {
  const [told, setTold] = useState(/** @type {StoredModels | null} */ (null));
  const [problem, setProblem] = useState("");
  const [word, setWord] = useState("");
  const states = node.models.map((model) => `${model.id} ${model.state}`).join(" ");
  const pulls = [...(parts.pull?.value.values() ?? [])].filter((pull) => pull.state === "done").length;
  const look = async () => {
    if (!may) return;
    try {
      setTold(await get(`/swarm/v1/models${node.source === "own" ? "" : `?node=${encodeURIComponent(node.id)}`}`));
      setProblem("");
    } catch (error) {
      setProblem(messageOf(error));
    }
  };
  useEffect(() => {
    void look();
  }, [states, pulls, may]);
  const rows = found(told?.data ?? [], node.models, word);
  const where = node.source === "own" ? {} : { node: node.id };
  /** @type {import("./components.js").Column<Row>[]} */
  const columns = [
    {
      title: T.model,
      render: ({ name, now, engine }) =>
        html`<div class="stack"><strong>${short(name, 70)}</strong><small>${clean(now?.computation?.words ?? over(now) ?? engine ?? "")}</small></div>`,
    },
    { title: T.state, render: (row) => html`<${State} row=${row} />` },
    { title: T.size, end: true, render: ({ size_bytes: size, now }) => bytes(size ?? now?.size_bytes) },
    { title: T.memory, render: ({ why, now }) => (now?.taken_bytes ? T.takes(bytes(now.taken_bytes)) : clean(why)) },
    { title: "", end: true, render: (row) => may && html`<${Actions} row=${row} where=${where} after=${look} />` },
  ];
  return html`<div class="stack">
    <div class="row spread">
      <${Search} label=${T.find} value=${word} onText=${setWord} />
      ${told?.free.map((pool) => html`<span class="soft">${T.free(bytes(pool.free_bytes), bytes(pool.total_bytes))}</span>`)}
    </div>
    <${Problem} message=${problem} retry=${look} />
    <${Table} label=${T.title} rows=${rows} rowKey=${(/** @type {Row} */ { id }) => id} empty=${word ? T.noMatch : T.empty} columns=${columns} />
    ${may && html`<${Fetch} node=${node} fit=${told?.fit ?? []} where=${where} />`}
  </div>`;
}

/** @param {{row: Row}} props */
function State({ row }) {
  const { now } = row;
  const { share, left_s: left } = now?.loading ?? { share: null, left_s: null };
  const fits = row.state === "available" && row.fits === false;
  return html`<div class="stack">
    <span class="row"><${Badge} state=${fits ? "warning" : row.state} words=${fits ? T.tooLarge : undefined} />${row.pinned && html`<small>${T.pinned}</small>`}</span>
    ${row.state === "loading" && share !== null && html`<${Bar} label=${percent(share)} parts=${[{ share, tone: "accent" }]} />`}
    ${row.state === "loading" && html`<small>${share === null ? "" : percent(share)} ${left === null ? "" : STRINGS.overview.left(duration(left))}</small>`}
    ${row.state === "ready" && now && html`<small>${STRINGS.overview.slots(now.slots_free, now.slots)}</small>`}
    ${now?.reason || now?.problem ? html`<small class="problem">${clean(now.problem ?? now.reason)}</small>` : null}
  </div>`;
}

/** @param {{row: Row, where: {node?: string}, after: () => void}} props */
function Actions({ row, where, after }) {
  const [busy, setBusy] = useState("");
  const [problem, setProblem] = useState("");
  const [sure, setSure] = useState(false);
  const loaded = row.now !== undefined && row.state !== "failed";
  const act = async (/** @type {string} */ what, /** @type {Record<string, unknown>} */ more = {}) => {
    setBusy(what);
    setProblem("");
    try {
      await post(`/v1/models/${what}`, { model: row.id, ...where, ...more });
      notify(T.done[/** @type {keyof typeof T.done} */ (what)](short(row.name, 60), !row.pinned));
    } catch (error) {
      setProblem(messageOf(error));
    }
    setBusy("");
    after();
  };
  return html`<span class="row">
    ${!loaded && html`<${Button} busy=${busy === "load"} onClick=${() => act("load")}>${T.load}<//>`}
    ${loaded && html`<${Button} kind="quiet" busy=${busy === "pin"} pressed=${row.pinned} onClick=${() => act("pin", { pinned: !row.pinned })}>${row.pinned ? T.unpin : T.pin}<//>`}
    ${loaded && !LEAVING.includes(row.state) && html`<${Button} busy=${busy === "unload"} onClick=${() => setSure(true)}>${T.unload}<//>`}
    ${sure && html`<${Confirm} title=${T.unloadTitle(short(row.name, 60))} what=${T.unloadWhat} action=${T.unload} onClose=${() => setSure(false)} onConfirm=${async () => void act("unload")} />`}
  </span><${Problem} message=${problem} />`;
}

/** @param {{node: NodeState, fit: StoredModel[], where: {node?: string}}} props */
function Fetch({ node, fit, where }) {
  const [name, setName] = useState("");
  const [problem, setProblem] = useState("");
  const offered = suggested(fit, name);
  const pull = async (/** @type {string} */ model) => {
    setProblem("");
    try {
      await post("/swarm/v1/pulls", { model, ...where });
      notify(T.pulling(short(model, 60), short(node.name, 40)));
      setName("");
    } catch (error) {
      setProblem(messageOf(error));
    }
  };
  return html`<section class="card stack">
    <h3>${T.fetch(short(node.name, 40))}</h3>
    <form class="row" onSubmit=${(/** @type {Event} */ event) => {
      event.preventDefault();
      if (name.trim()) void pull(name.trim());
    }}>
      <input class="grow" aria-label=${T.name} placeholder=${T.namePlace} value=${name} onInput=${typed(setName)} />
      <${Button} kind="main" type="submit" disabled=${!name.trim()}>${T.pull}<//>
    </form>
    <${Problem} message=${problem} />
    ${node.source !== "own" && html`<p class="soft">${T.noSuggestions}</p>`}
    ${
      offered.length > 0 &&
      html`<p class="soft">${T.suggestions}</p><ul class="stack">
      ${offered.map((model) => html`<li key=${model.id} class="row spread"><span><strong>${short(model.name, 60)}</strong> <small>${offer(model)}</small></span><${Button} kind="quiet" label=${T.pullIt(short(model.name, 60))} onClick=${() => pull(model.id)}>${T.pull}<//></li>`)}
    </ul>`
    }
  </section>`;
}

/** @param {StoredModel} model */
function offer(model) {
  const { size_bytes: size, need_bytes: need, tokens_per_s: rate } = model;
  if (!model.fits) return T.fitsNot(bytes(size), clean(model.why));
  return T.fits(bytes(size), need === null ? "" : bytes(need), rate === null ? "" : number(rate, rate < 10 ? 1 : 0));
}

function Pulls() {
  const pulls = /** @type {PullEntry[]} */ ([...(parts.pull?.value.values() ?? [])]);
  if (pulls.length === 0) return null;
  const cancel = (/** @type {PullEntry} */ pull) =>
    post(`/swarm/v1/pulls/${encodeURIComponent(pull.id)}/cancel`).catch((error) => notify(messageOf(error)));
  return html`<section class="card stack" aria-label=${T.pulls}><h3>${T.pulls}</h3><ul class="stack">
    ${pulls.map((pull) => {
      const share = pull.total_bytes ? pull.done_bytes / pull.total_bytes : null;
      const left = secondsLeft(pull);
      const runs = pull.state === "running" || pull.state === "waiting";
      return html`<li key=${pull.id} class="stack">
        <div class="row spread"><span><strong>${short(pull.model, 60)}</strong> <small>${short(pull.node, 40)}</small></span><span class="row"><${Badge} state=${pull.state} />${runs && html`<${Button} kind="quiet" onClick=${() => cancel(pull)}>${STRINGS.components.cancel}<//>`}</span></div>
        ${runs && share !== null && html`<${Bar} label=${percent(share)} parts=${[{ share, tone: "accent" }]} />`}
        ${runs && html`<small>${T.progress(bytes(pull.done_bytes), bytes(pull.total_bytes), pull.bytes_per_s === null ? "" : bytes(pull.bytes_per_s), left === null ? "" : duration(left))}</small>`}
        <${Problem} message=${pull.problem ?? ""} />
      </li>`;
    })}
  </ul></section>`;
}
