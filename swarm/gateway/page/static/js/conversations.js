// @ts-check
/** Conversations and what is done to them: pure functions, and the place in this browser where they are kept. */

import { STRINGS } from "./strings.js";

/**
 * @typedef {{role: "user" | "assistant", content: string, images?: string[], reasoning?: string, tool_calls?: any[], ballot?: any, replaced?: string, problem?: string, stopped?: boolean, reason?: string}} Turn
 * @typedef {{id: string, title: string, model: string, system: string, temperature: number | null, votes: number | null, turns: Turn[], changed: number}} Conversation
 */

const KEY = "swarm.conversations";
export const MOST_KEPT = 200;
const TITLE_CHARS = 60;

/** @param {string} model @returns {Conversation} */
export function begun(model) {
  return { id: newId(), title: "", model, system: "", temperature: null, votes: null, turns: [], changed: Date.now() };
}

/** Also where the page did not come over TLS, where browsers have no randomUUID. */
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(36).padStart(2, "0")).join("");
}

/** @param {Conversation} conversation @param {Turn[]} turns @returns {Conversation} */
export function withTurns(conversation, turns) {
  const first = turns.find((turn) => turn.role === "user")?.content ?? "";
  const title = conversation.title || first.replace(/\s+/g, " ").trim().slice(0, TITLE_CHARS);
  return { ...conversation, title, turns, changed: Date.now() };
}

/** The turns before the question at `at`, and that question: what is asked again or edited. @param {Turn[]} turns @param {number} at */
export function upTo(turns, at) {
  let question = at;
  while (question > 0 && turns[question]?.role !== "user") question -= 1;
  return { before: turns.slice(0, question), question: turns[question] };
}

/** The messages of a request; turns without words say nothing. `from`: earlier turns are left out. @param {Conversation} conversation @param {number} [from] */
export function messagesOf(conversation, from = 0) {
  /** @type {any[]} */
  const messages = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  for (const turn of conversation.turns.slice(from)) {
    if (turn.images?.length) {
      const images = turn.images.map((url) => ({ type: "image_url", image_url: { url } }));
      messages.push({ role: turn.role, content: [{ type: "text", text: turn.content }, ...images] });
    } else if (turn.content) messages.push({ role: turn.role, content: turn.content });
  }
  return messages;
}

/**
 * The first turn that is still sent where `tokens` are too many for `context`: the oldest are left out, by their share of all
 * characters, with a fifth of the context free for the answer. Always an own question first. @param {Turn[]} turns @param {number} tokens @param {number} context
 */
export function fitting(turns, tokens, context) {
  const chars = turns.map((turn) => turn.content.length + 12);
  const all = chars.reduce((sum, count) => sum + count, 0);
  const allowed = (all * context * 0.8) / Math.max(1, tokens);
  let from = 0;
  let left = all;
  while (from < turns.length - 1 && (left > allowed || turns[from]?.role !== "user")) {
    left -= chars[from] ?? 0;
    from += 1;
  }
  return from;
}

/** @param {Conversation} conversation */
export function asMarkdown(conversation) {
  const parts = [`# ${conversation.title || conversation.id}`];
  if (conversation.system) parts.push(`> ${conversation.system.replaceAll("\n", "\n> ")}`);
  for (const turn of conversation.turns) parts.push(`## ${turn.role}`, turn.content);
  return `${parts.join("\n\n")}\n`;
}

/** @param {Conversation} conversation */
export function asJson(conversation) {
  const { title, model, system, temperature, votes, turns } = conversation;
  return JSON.stringify({ title, model, system, temperature, votes, messages: turns }, null, 2);
}

/** A conversation from what `asJson` or `swarm chat`'s /save wrote. Raises Error for anything else. @param {string} text @returns {Conversation} */
export function fromJson(text) {
  const read = JSON.parse(text);
  if (!Array.isArray(read?.messages)) throw new Error(STRINGS.chat.noMessages);
  const turns = read.messages
    .filter((/** @type {any} */ one) => (one?.role === "user" || one?.role === "assistant") && typeof one.content === "string")
    .map((/** @type {any} */ one) => ({ ...one }));
  const number = (/** @type {unknown} */ value) => (typeof value === "number" ? value : null);
  return {
    ...begun(typeof read.model === "string" ? read.model : "swarm"),
    title: typeof read.title === "string" ? read.title.slice(0, 200) : "",
    system: typeof read.system === "string" ? read.system : "",
    temperature: number(read.temperature),
    votes: number(read.votes),
    turns,
  };
}

/** What is kept in this browser; nothing where it cannot be read. @param {Storage} storage @returns {Conversation[]} */
export function readAll(storage) {
  try {
    const read = JSON.parse(storage.getItem(KEY) ?? "[]");
    return Array.isArray(read) ? read.filter((one) => Array.isArray(one?.turns) && typeof one.id === "string") : [];
  } catch {
    return [];
  }
}

/** Keep them, the newest first. @param {Storage} storage @param {Conversation[]} all @returns {boolean} false where the browser has no room */
export function keepAll(storage, all) {
  const kept = [...all]
    .filter((one) => one.turns.length > 0)
    .sort((one, other) => other.changed - one.changed)
    .slice(0, MOST_KEPT);
  try {
    storage.setItem(KEY, JSON.stringify(kept));
    return true;
  } catch {
    return false;
  }
}
