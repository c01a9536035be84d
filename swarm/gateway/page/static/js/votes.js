// @ts-check
/** The last votes of this node: running ones first, filtered, one opened in full. */
import { get } from "./api.js";
import { Ballot } from "./ballot.js";
import { Badge, Bar, Choice, messageOf, Problem, Search, Spinner, Table } from "./components.js";
import { ago, clean, ms, number, percent } from "./format.js";
import { orderOf, Plot } from "./plot.js";
import { parts, useParts } from "./store.js";
import { STRINGS } from "./strings.js";
import { html, useEffect, useState } from "./ui.js";

const T = STRINGS.votes;

/** @typedef {import("./types.js").VoteEntry} VoteEntry */

/**
 * Those that match every filter that is set; running ones first, then the newest. Pure.
 * @param {VoteEntry[]} votes @param {{kind: string, outcome: string, text: string}} filter
 */
export function chosen(votes, { kind, outcome, text }) {
  const wanted = text.trim().toLowerCase();
  return votes
    .filter((vote) => (!kind || vote.kind === kind) && (!outcome || vote.outcome === outcome))
    .filter((vote) => !wanted || [vote.model, vote.winner, vote.id, vote.request_id].join(" ").toLowerCase().includes(wanted))
    .sort(
      (one, other) =>
        Number(other.state === "running") - Number(one.state === "running") || Date.parse(other.began) - Date.parse(one.began),
    );
}

/**
 * What is plotted of votes: those that came to an end, the oldest first; the mean of each and up to nine before. Pure.
 * @param {VoteEntry[]} votes
 */
export function overTime(votes) {
  const ended = votes.filter((vote) => vote.agreement !== null).sort((one, other) => Date.parse(one.began) - Date.parse(other.began));
  const agreed = ended.map((vote) => (vote.agreement ?? 0) * 100);
  const means = agreed.map((_, at) => {
    const last = agreed.slice(Math.max(0, at - 9), at + 1);
    return last.reduce((sum, one) => sum + one, 0) / last.length;
  });
  return {
    times: ended.map((vote) => Date.parse(vote.began) / 1000),
    agreed,
    means,
    tokens: ended.map((vote) => vote.total_completion_tokens),
  };
}

/** @param {{votes: VoteEntry[]}} props */
function OverTime({ votes }) {
  const { times, agreed, means, tokens } = overTime(votes);
  if (times.length < 2) return null;
  const order = orderOf(times);
  return html`<div class="plots first">
    <${Plot} title=${T.agreements} ...${order} most=${100} lines=${[
      { label: T.mean, values: means },
      { label: T.each, values: agreed, dots: true },
    ]} />
    <${Plot} title=${T.costs} ...${order} lines=${[{ label: T.each, values: tokens, dots: true }]} />
  </div>`;
}

/** @param {{outcome: string | null, state: string}} vote */
function Outcome({ outcome, state }) {
  const word = state === "done" ? (outcome ?? state) : state;
  return html`<${Badge} state=${word} words=${T.outcomes[word]} />`;
}

/** @type {import("./components.js").Column<VoteEntry>[]} */
const COLUMNS = [
  { title: T.model, render: ({ id, model }) => html`<a href=${`#/votes/${encodeURIComponent(id)}`}>${clean(model)}</a>` },
  { title: T.kind, render: ({ kind }) => clean(kind ?? T.none) },
  { title: T.outcome, render: Outcome },
  {
    title: T.agreement,
    render: ({ agreement }) =>
      agreement === null
        ? T.none
        : html`${percent(agreement)}<${Bar} parts=${[{ share: agreement, tone: "weights" }]} label=${T.agree(percent(agreement))} />`,
  },
  { title: T.counted, end: true, render: ({ votes, asked }) => T.of(number(votes), number(asked)) },
  { title: T.costTitle, end: true, render: (vote) => number(vote.total_completion_tokens) },
  { title: T.took, end: true, render: (vote) => ms(vote.elapsed_ms) },
  { title: T.began, end: true, render: ({ began }) => ago(began) },
];

/** @param {{id: string, live: VoteEntry | undefined}} props */
function InFull({ id, live }) {
  const [full, setFull] = useState(/** @type {import("./types.js").VoteInFull | null} */ (null));
  const [problem, setProblem] = useState("");
  const [tries, setTries] = useState(0);
  useEffect(() => {
    const controller = new AbortController();
    setProblem("");
    get(`/swarm/v1/votes/${encodeURIComponent(id)}`, controller.signal).then(setFull, (error) => {
      if (!controller.signal.aborted) setProblem(messageOf(error));
    });
    return () => controller.abort();
  }, [id, live?.state, tries]);
  const vote = live?.state === "running" ? live : (full ?? live);
  return html`<div class="stack">
    <p><a href="#/votes">${T.back}</a></p>
    <${Problem} message=${problem} retry=${() => setTries(tries + 1)} />
    ${vote ? html`<article class="card stack"><h3>${clean(vote.model)}</h3><${Ballot} ballot=${vote} /></article>` : !problem && html`<${Spinner} />`}
    ${full?.why && html`<p class="note">${clean(full.why)}</p>`}
    ${full?.prompt?.map((turn) => html`<div class="card"><strong>${clean(turn.role)}</strong><pre>${clean(turn.text)}</pre></div>`)}
  </div>`;
}

/** @param {{rest: string[]}} props what follows the screen's name in the address */
export function Screen({ rest }) {
  useParts(["vote"]);
  const [filter, setFilter] = useState({ kind: "", outcome: "", text: "" });
  const known = /** @type {Map<string, VoteEntry>} */ (parts.vote?.value ?? new Map());
  const id = rest[0];
  if (id) return html`<${InFull} key=${id} id=${id} live=${known.get(id)} />`;
  const votes = [...known.values()];
  const shown = chosen(votes, filter);
  /** @param {"kind" | "outcome"} name */
  const choice = (name) => {
    const there = [...new Set(votes.map((vote) => vote[name]))].filter((one) => one !== null).sort();
    const of = [["", T.every], ...there.map((one) => [one, one])];
    return html`<${Choice} label=${T[name]} value=${filter[name]} of=${of} onChoice=${(/** @type {string} */ one) => setFilter({ ...filter, [name]: one })} />`;
  };
  return html`<div class="stack">
    <p class="soft">${T.kept}</p>
    <div class="row filters">
      ${choice("kind")}${choice("outcome")}
      <${Search} label=${T.find} value=${filter.text} onText=${(/** @type {string} */ text) => setFilter({ ...filter, text })} />
    </div>
    <${OverTime} votes=${shown} />
    <${Table} label=${T.title} columns=${COLUMNS} rows=${shown} rowKey=${(/** @type {VoteEntry} */ vote) => vote.id} empty=${votes.length ? T.noMatch : T.empty} />
  </div>`;
}
