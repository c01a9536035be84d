// @ts-check
/** One question to the node, and its answer as it comes: words, thoughts, calls of tools, and how the vote stands. */
import { send } from "./api.js";
import { isVote, merged } from "./ballot.js";
import { eventsOf } from "./events.js";
import { STRINGS } from "./strings.js";

/** @typedef {import("./conversations.js").Turn} Turn */
/** @typedef {{turn: (change: (turn: Turn) => Turn) => void, status: (words: string) => void}} Told */

/**
 * The turn after one more event of the stream. Pure. @param {Turn} turn @param {any} event @returns {Turn}
 */
export function afterEvent(turn, event) {
  let next = turn;
  for (const choice of event.choices ?? []) {
    const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? {};
    if (content) next = { ...next, content: next.content + content };
    if (reasoning) next = { ...next, reasoning: (next.reasoning ?? "") + reasoning };
    for (const call of calls ?? []) next = { ...next, tool_calls: withCall(next.tool_calls ?? [], call) };
    if (choice.finish_reason) next = { ...next, reason: choice.finish_reason };
  }
  const told = event.swarm?.ballot ?? event.swarm;
  if (!told) return next;
  const final = event.swarm.ballot === undefined;
  next = { ...next, ballot: merged(next.ballot, { ...told, final }) };
  const winner = told.winner_message;
  if (final && winner && isVote(told)) {
    const words = typeof winner.content === "string" ? winner.content : "";
    next = { ...next, replaced: next.content, content: words };
    if (winner.tool_calls)
      next = {
        ...next,
        tool_calls: winner.tool_calls.map((/** @type {any} */ call) => ({ name: call.function.name, arguments: call.function.arguments })),
      };
  }
  return next;
}

/** @param {any[]} calls @param {any} piece */
function withCall(calls, piece) {
  const at = piece.index ?? calls.length;
  const before = calls[at] ?? { name: "", arguments: "" };
  const after = { name: before.name + (piece.function?.name ?? ""), arguments: before.arguments + (piece.function?.arguments ?? "") };
  return [...calls.slice(0, at), after, ...calls.slice(at + 1)];
}

/** The body of a request. Pure. @param {{model: string, temperature: number | null, votes: number | null, messages: any[]}} asked */
export function bodyOf({ model, temperature, votes, messages }) {
  return {
    model,
    messages,
    stream: true,
    stream_options: { include_usage: true },
    ...(temperature === null ? {} : { temperature }),
    swarm: { progress: true, ...(votes === null ? {} : { votes }) },
  };
}

/**
 * Ask. Raises ApiError, or what the stream says went wrong. @param {{model: string, temperature: number | null, votes: number | null, messages: any[]}} asked
 * @param {AbortSignal} signal @param {Told} told
 */
export async function ask(asked, signal, told) {
  const response = await send("POST", "/v1/chat/completions", bodyOf(asked), signal);
  let done = false;
  for await (const { event, data } of eventsOf(response)) {
    if (event === "comment") {
      told.status(data);
      continue;
    }
    if (data === "[DONE]") {
      done = true;
      break;
    }
    const read = JSON.parse(data);
    if (read.error) throw new Error(read.error.message);
    told.turn((turn) => afterEvent(turn, read));
  }
  if (!done) throw new Error(STRINGS.api.brokeOff);
}
