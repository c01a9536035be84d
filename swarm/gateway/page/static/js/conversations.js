// @ts-check
/** Conversations and what is done to them: pure functions, and the place in this browser where they are kept. */

import { STRINGS } from "./strings.js";

/**
 * @typedef {{role: "user" | "assistant", content: string, images?: string[], reasoning?: string, tool_calls?: any[], ballot?: any, replaced?: string, problem?: string, stopped?: boolean, reason?: string}} Turn
 * @typedef {{id: string, title: string, model: string, system: string, temperature: number | null, votes: number | null, turns: Turn[], changed: number}} Conversation
 */

const OLD = "swarm.conversations";
const PREFIX = "swarm.conversation.";
export const MOST_KEPT = 200;
const TITLE_CHARS = 60;

/** @param {string} model @returns {Conversation} */
export function begun(model) {
  return { id: newId(), title: "", model, system: "", temperature: null, votes: null, turns: [], changed: Date.now() };
}

/** Also where the page did not come over TLS, where browsers have no randomUUID. */
export function newId() {
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

/** The names of all its pictures. @param {Conversation} conversation */
export const picturesOf = (conversation) => conversation.turns.flatMap((turn) => turn.images ?? []);

/** With its pictures under other names. @param {Conversation} conversation @param {(name: string) => string} name @returns {Conversation} */
export function renamed(conversation, name) {
  return { ...conversation, turns: conversation.turns.map((turn) => (turn.images ? { ...turn, images: turn.images.map(name) } : turn)) };
}

/**
 * The messages of a request; turns without words say nothing. `urlOf`: the data URL of a picture, null for one that is no more.
 * `from`: earlier turns are left out. @param {Conversation} conversation @param {(name: string) => string | null} urlOf @param {number} [from]
 */
export function messagesOf(conversation, urlOf, from = 0) {
  /** @type {any[]} */
  const messages = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  for (const turn of conversation.turns.slice(from)) {
    const urls = (turn.images ?? []).map(urlOf).filter((url) => url !== null);
    if (urls.length) {
      const images = urls.map((url) => ({ type: "image_url", image_url: { url } }));
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

/** With the pictures themselves. @param {Conversation} conversation @param {(name: string) => string | null} urlOf */
export function asJson(conversation, urlOf) {
  const { title, model, system, temperature, votes, turns } = renamed(conversation, (name) => urlOf(name) ?? name);
  return JSON.stringify({ title, model, system, temperature, votes, messages: turns }, null, 2);
}

/** A conversation from what `asJson` or `swarm chat`'s /save wrote. Raises Error for anything else. @param {string} text @returns {Conversation} */
export function fromJson(text) {
  const read = JSON.parse(text);
  if (!Array.isArray(read?.messages)) throw new Error(STRINGS.chat.noMessages);
  const turns = read.messages
    .filter((/** @type {any} */ one) => (one?.role === "user" || one?.role === "assistant") && typeof one.content === "string")
    .map((/** @type {any} */ { images, ...one }) => ({
      ...one,
      ...(Array.isArray(images) ? { images: images.filter((/** @type {unknown} */ image) => typeof image === "string") } : {}),
    }));
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

/** Each is kept for itself, so that two tabs do not overwrite each other's. @param {string} id */
const keyOf = (id) => `${PREFIX}${id}`;

/** @param {string | null} text @returns {Conversation | null} null for what is none */
function conversationOf(text) {
  try {
    const read = JSON.parse(text ?? "null");
    return isConversation(read) ? read : null;
  } catch {
    return null;
  }
}

/** @param {any} read */
const isConversation = (read) => Array.isArray(read?.turns) && typeof read.id === "string" && typeof read.changed === "number";

/** @param {Conversation[]} all */
const newestFirst = (all) => [...all].sort((one, other) => other.changed - one.changed);

/** What is kept in this browser, the newest first; what cannot be read is left out. @param {Storage} storage @returns {Conversation[]} */
export function readAll(storage) {
  const all = [];
  for (let at = 0; at < storage.length; at += 1) {
    const key = storage.key(at);
    const read = key?.startsWith(PREFIX) ? conversationOf(storage.getItem(key)) : null;
    if (read) all.push(read);
  }
  return newestFirst(all);
}

/** @param {Storage} storage @param {Conversation} conversation @returns {boolean} false where the browser has no room */
export function keepOne(storage, conversation) {
  try {
    storage.setItem(keyOf(conversation.id), JSON.stringify(conversation));
    return true;
  } catch {
    return false;
  }
}

/** @param {Storage} storage @param {string} id */
export const forget = (storage, id) => storage.removeItem(keyOf(id));

/**
 * All conversations after another tab changed what is kept: of one that both have the newer edit stays. `key` null: all were removed.
 * @param {Conversation[]} all @param {string | null} key @param {string | null} text @returns {Conversation[]} `all` itself where that is no change
 */
export function heard(all, key, text) {
  if (key === null) return [];
  if (!key.startsWith(PREFIX)) return all;
  const others = all.filter((one) => keyOf(one.id) !== key);
  if (text === null) return others.length === all.length ? all : others;
  const told = conversationOf(text);
  const known = all.find((one) => keyOf(one.id) === key);
  if (told === null || keyOf(told.id) !== key || (known && known.changed > told.changed)) return all;
  return newestFirst([told, ...others]);
}

/** What earlier versions kept, all in one value. @param {Storage} storage @returns {Conversation[]} */
export function readOld(storage) {
  try {
    const read = JSON.parse(storage.getItem(OLD) ?? "[]");
    return Array.isArray(read) ? read.filter(isConversation) : [];
  } catch {
    return [];
  }
}

/**
 * Keep what earlier versions kept one by one, but for what is kept so already. Where there is no room all stays as it was.
 * @param {Storage} storage @param {Conversation[]} old
 */
export function takeOver(storage, old) {
  const text = storage.getItem(OLD);
  if (text === null) return; // another tab was first
  const moved = old.filter((one) => storage.getItem(keyOf(one.id)) === null);
  storage.removeItem(OLD); // the room of both at once may not be there
  if (moved.every((one) => keepOne(storage, one))) return;
  for (const one of moved) forget(storage, one.id);
  storage.setItem(OLD, text);
}
