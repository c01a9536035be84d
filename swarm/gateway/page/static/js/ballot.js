// @ts-check
/** A vote while it is held and once it is over: who answered what, who leads, what stopped it, and what it cost. */
import { Badge, Bar } from "./components.js";
import { clean, counted, ms, number, percent, short } from "./format.js";
import { STRINGS } from "./strings.js";
import { html, useState } from "./ui.js";

const T = STRINGS.ballot;
const BROKEN = new Set(["failed", "cancelled"]); // nobody has won

/** @typedef {{voter: string, model: string, group: number | null, weight: number, tokens: number, ms: number, temperature?: number, abstained?: string, answer?: string}} Candidate */
/** @typedef {{id: number | null, answer: string, weight: number, voters: Candidate[]}} Group */

/**
 * What is known of a vote after one more object of the node: the last one has no short answers and nobody who is out, so these are kept
 * from before. Pure. @param {any} before @param {any} told @returns {any}
 */
export function merged(before, told) {
  const answers = new Map((before?.candidates ?? []).map((/** @type {Candidate} */ one) => [one.voter, one.answer]));
  const candidates = (told.candidates ?? []).map((/** @type {Candidate} */ one) =>
    one.answer === undefined && answers.get(one.voter) !== undefined ? { ...one, answer: answers.get(one.voter) } : one,
  );
  return { ...told, candidates, out: told.out ?? [], final: told.final ?? true };
}

/** Equal answers together, the winner's (0) first, whether or not it is the heaviest, those who abstained last. Pure. @param {Candidate[]} candidates @returns {Group[]} */
export function groupsOf(candidates) {
  /** @type {Map<number | null, Group>} */
  const groups = new Map();
  for (const one of candidates) {
    const group = groups.get(one.group) ?? { id: one.group, answer: "", weight: 0, voters: [] };
    group.answer ||= one.answer ?? "";
    group.weight += one.group === null ? 0 : one.weight;
    group.voters.push(one);
    groups.set(one.group, group);
  }
  const place = (/** @type {Group} */ group) => group.id ?? Number.POSITIVE_INFINITY;
  return [...groups.values()].sort((one, other) => (place(one) < place(other) ? -1 : 1));
}

/** Whether an object of the node tells of a vote, and not of one answer that stands for itself. @param {any} ballot */
export function isVote(ballot) {
  return Boolean(ballot) && ballot.strategy !== "single" && ballot.outcome !== "single" && (ballot.asked ?? 0) > 1;
}

/** Whether it is still held. @param {any} ballot an answer's object, a stream's, or a vote of the board */
const runs = (ballot) => ballot.final === false || ballot.state === "running";

/** Who is still out, in words. @param {any} ballot @returns {string[]} */
export function stillOut(ballot) {
  return (ballot.out ?? []).map((/** @type {any} */ one) =>
    typeof one === "string" ? short(one, 60) : `${short(one.node, 30)} (${short(one.model, 30)}${one.seats > 1 ? ` × ${one.seats}` : ""})`,
  );
}

/** One line: "4 of 5 agree". Pure. @param {any} ballot */
export function inOneLine(ballot) {
  if (!ballot) return "";
  if (!isVote(ballot)) {
    const why = T.why[ballot.why];
    return [ballot.winner ? T.answeredBy(short(ballot.winner, 40)) : "", why, ms(ballot.elapsed_ms)].filter(Boolean).join(" · ");
  }
  const leading = groupsOf(ballot.candidates ?? [])[0];
  const agree = leading && leading.id !== null ? leading.voters.length : 0;
  const words = !runs(ballot) ? T.agree(agree, ballot.votes) : T.soFar(agree, ballot.votes, ballot.asked);
  const by = ballot.stopped_by === "strongest" ? T.strongest : "";
  const who = !runs(ballot) && ballot.winner ? short(ballot.winner, 40) : "";
  return [words, by, who, ms(ballot.elapsed_ms)].filter(Boolean).join(" · ");
}

/** How a vote stands; folded it is one line with the groups while it is held. @param {{ballot: any, folded?: boolean}} props */
export function Ballot({ ballot, folded = false }) {
  const [shown, setShown] = useState(!folded);
  if (!ballot) return null;
  const vote = isVote(ballot);
  return html`<section class="ballot" aria-label=${vote ? T.vote : T.answer}>
    <button type="button" class="summary" aria-expanded=${shown} onClick=${() => setShown(!shown)}>
      <${Badge} state=${runs(ballot) ? "running" : (ballot.outcome ?? ballot.state ?? "done")} words=${vote ? (T.outcomes[runs(ballot) ? "running" : (ballot.outcome ?? ballot.state)] ?? ballot.outcome) : T.one} />
      <span>${inOneLine(ballot)}</span>
    </button>
    ${vote && (shown || runs(ballot)) && html`<${Groups} ballot=${ballot} />`}
    ${shown && html`<${Details} ballot=${ballot} />`}
  </section>`;
}

/** @param {{ballot: any}} props */
export function Groups({ ballot }) {
  const groups = groupsOf(ballot.candidates ?? []);
  const out = runs(ballot) ? stillOut(ballot) : [];
  const whole =
    groups.reduce((sum, group) => sum + group.weight, 0) +
    (ballot.out ?? []).reduce((/** @type {number} */ sum, /** @type {any} */ one) => sum + (one.seats ?? 1), 0);
  return html`<ul class="groups">
    ${groups.map((group, at) => {
      const leads = at === 0 && group.id !== null;
      const words = group.id === null ? T.abstained : leads ? (runs(ballot) || BROKEN.has(ballot.outcome) ? T.leads : T.wins) : T.dissent;
      return html`<li key=${group.id ?? "none"} class=${leads ? "leads" : ""}>
        <div class="row spread"><strong>${clean(group.answer) || words}</strong><small>${words} · ${counted(group.voters.length, T.votes)}</small></div>
        <${Bar} label=${`${words}: ${counted(group.voters.length, T.votes)}`} parts=${[{ share: whole ? group.weight / whole : 0, tone: leads ? "accent" : "other" }]} />
        <ul class="voters">${group.voters.map((voter) => html`<${Voter} key=${voter.voter} voter=${voter} />`)}</ul>
      </li>`;
    })}
    ${out.length > 0 && html`<li class="out"><small>${T.out(out.join(", "))}</small></li>`}
  </ul>`;
}

/** @param {{voter: Candidate}} props */
function Voter({ voter }) {
  return html`<li><span>${short(voter.voter, 40)}</span> <small>${short(voter.model, 40)} · ${ms(voter.ms)} · ${counted(voter.tokens, T.tokens)}${voter.weight !== 1 && voter.group !== null ? ` · ${T.weight(number(voter.weight, 2))}` : ""}${voter.abstained ? ` · ${clean(voter.abstained)}` : ""}</small></li>`;
}

/** @param {{ballot: any}} props */
function Details({ ballot }) {
  const rows = [
    [T.kind, T.kinds[ballot.kind] ?? ballot.kind],
    [T.strategy, ballot.strategy],
    [T.agreement, ballot.agreement === null || ballot.agreement === undefined ? null : percent(ballot.agreement)],
    [T.asked, isVote(ballot) ? T.askedOf(ballot.votes, ballot.asked, ballot.wanted) : null],
    [T.stopped, T.stops[ballot.stopped_by] ?? ballot.stopped_by],
    [
      T.cost,
      ballot.total_completion_tokens === undefined
        ? null
        : T.costs(number(ballot.total_completion_tokens), number(ballot.wasted_tokens ?? 0), ballot.saved ?? 0),
    ],
    [T.shortfall, ballot.shortfall],
    [T.whyTitle, T.why[ballot.why] ?? ballot.why],
    [
      T.routed,
      ballot.routed
        ? `${ballot.routed.node}: ${ballot.routed.reason}${ballot.routed.tried?.length ? ` (${T.tried(ballot.routed.tried.join(", "))})` : ""}`
        : null,
    ],
    [T.loaded, ballot.loaded ? `${ballot.loaded.model} · ${ballot.loaded.node} · ${ms(ballot.loaded.ms)}` : null],
    [T.leftOut, (ballot.left_out ?? []).map((/** @type {any} */ one) => `${one.model} (${one.why})`).join("; ") || null],
    [T.violations, (ballot.schema_violations ?? []).map((/** @type {any} */ one) => `${one.path}: ${one.message}`).join("; ") || null],
    [T.coordinator, ballot.coordinator],
  ];
  return html`<dl class="details">${rows.filter(([, value]) => value).map(([name, value]) => html`<div><dt>${name}</dt><dd>${clean(value)}</dd></div>`)}</dl>`;
}
