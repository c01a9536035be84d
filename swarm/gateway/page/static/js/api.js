// @ts-check
/**
 * Asking the node. A key and the owner's session are kept in this tab only: in sessionStorage, so that they outlive a reload, or
 * where the browser allows none, in memory.
 */

import { STRINGS } from "./strings.js";

const T = STRINGS.api;
const KEY = "swarm.key";
const OWNER = "swarm.owner";

/** What went wrong, in the node's own words. `status` 0: it did not answer. */
export class ApiError extends Error {
  /** @param {string} message @param {number} status @param {number | null} retryAfterS */
  constructor(message, status, retryAfterS = null) {
    super(message);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

/** @type {{csrf: string | null}} */
const page = { csrf: null };

/** @param {string | null} token What the node gave this page; sent with whatever changes something. */
export function setPageToken(token) {
  page.csrf = token;
}

/** @type {Map<string, string>} what the browser would not store */
const unstored = new Map();

/** @param {string} name @param {string | null} value */
function keep(name, value) {
  unstored.delete(name);
  try {
    if (value === null) sessionStorage.removeItem(name);
    else sessionStorage.setItem(name, value);
  } catch {
    if (value !== null) unstored.set(name, value); // blocked, or full
  }
}

/** @param {string} name @returns {string | null} */
function kept(name) {
  const value = unstored.get(name);
  if (value !== undefined) return value;
  try {
    return sessionStorage.getItem(name);
  } catch {
    return null;
  }
}

/** @param {string | null} key */
export const setKey = (key) => keep(KEY, key);
/** @param {string | null} session */
export const setOwner = (session) => keep(OWNER, session);
export const currentKey = () => kept(KEY);
export const hasKey = () => kept(KEY) !== null;

/** How far the node's clock is ahead of this computer's, in milliseconds; what it tells of instants is by its own. */
export const clock = { aheadMs: 0 };

/** @param {string | null} date an HTTP date, in whole seconds @param {number} now milliseconds @returns {number} 0 for less than two seconds */
export function ahead(date, now) {
  const apart = date === null ? 0 : Date.parse(date) - now;
  return Math.abs(apart) > 2000 ? apart : 0; // NaN is not
}

/** What is done when the node takes this page's key no longer. */
let refused = () => {};

/** @param {() => void} call */
export function onRefused(call) {
  refused = call;
}

/** Headers of every request of the page. @returns {Record<string, string>} */
export function headers() {
  const key = kept(KEY);
  const owner = kept(OWNER);
  return {
    ...(key === null ? {} : { Authorization: `Bearer ${key}` }),
    ...(owner === null ? {} : { "X-Swarm-Owner": owner }),
    ...(page.csrf === null ? {} : { "X-Swarm-Page": page.csrf }),
  };
}

/**
 * Send a request. Raises ApiError for whatever is no success.
 * @param {string} method @param {string} path @param {unknown} [body] @param {AbortSignal} [signal]
 * @param {Record<string, string>} [more] headers
 * @returns {Promise<Response>}
 */
export async function send(method, path, body, signal, more = {}) {
  /** @type {RequestInit} */
  const init = { method, headers: { ...headers(), ...more }, cache: "no-store", signal: signal ?? null };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { ...headers(), ...more, "Content-Type": "application/json" };
  }
  let response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(T.noAnswer, 0);
  }
  clock.aheadMs = ahead(response.headers.get("Date"), Date.now());
  if (response.ok) return response;
  if (response.status === 401) refused();
  const after = Number(response.headers.get("Retry-After"));
  throw new ApiError(await problem(response), response.status, after > 0 ? after : null);
}

/** The node's own words for what went wrong. @param {Response} response */
async function problem(response) {
  try {
    const said = await response.json();
    return String(said.error.message);
  } catch {
    return T.status(response.status);
  }
}

/** @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
export const get = async (path, signal) => (await send("GET", path, undefined, signal)).json();
/** @param {string} path @param {unknown} [body] @param {AbortSignal} [signal] @returns {Promise<any>} */
export const post = async (path, body, signal) => (await send("POST", path, body ?? {}, signal)).json();
