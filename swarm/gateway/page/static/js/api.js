// @ts-check
/** Asking the node. A key and the owner's session are kept in this tab only (sessionStorage). */

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

/** @param {string} name @param {string | null} value */
function keep(name, value) {
  if (value === null) sessionStorage.removeItem(name);
  else sessionStorage.setItem(name, value);
}

/** @param {string | null} key */
export const setKey = (key) => keep(KEY, key);
/** @param {string | null} session */
export const setOwner = (session) => keep(OWNER, session);
export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/** Headers of every request of the page. @returns {Record<string, string>} */
export function headers() {
  const key = sessionStorage.getItem(KEY);
  const owner = sessionStorage.getItem(OWNER);
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
    throw new ApiError("the node does not answer", 0);
  }
  if (response.ok) return response;
  const after = Number(response.headers.get("Retry-After"));
  throw new ApiError(await problem(response), response.status, after > 0 ? after : null);
}

/** The node's own words for what went wrong. @param {Response} response */
async function problem(response) {
  try {
    const said = await response.json();
    return String(said.error.message);
  } catch {
    return `the node answered ${response.status}`;
  }
}

/** @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
export const get = async (path, signal) => (await send("GET", path, undefined, signal)).json();
/** @param {string} path @param {unknown} [body] @param {AbortSignal} [signal] @returns {Promise<any>} */
export const post = async (path, body, signal) => (await send("POST", path, body ?? {}, signal)).json();
