// @ts-check
/** What this page may do on its node, and how it gets more: a key, or the link that `swarm page` prints. */
import { ApiError, currentKey, get, post, setKey, setOwner, setPageToken } from "./api.js";
import { signal } from "./ui.js";

/** @typedef {import("./types.js").PageRights} PageRights */

/** @type {import("../vendor/signals.js").Signal<PageRights | null>} null: not known yet */
export const rights = signal(null);

/** Ask the node again. Raises ApiError where it does not answer. */
export async function refreshRights() {
  const found = /** @type {PageRights} */ (await get("/swarm/v1/page"));
  setPageToken(found.token);
  rights.value = found;
}

/** Use a key from now on; "" for none. @param {string} key @returns {Promise<boolean>} whether the node takes it */
export async function useApiKey(key) {
  const before = currentKey();
  setKey(key === "" ? null : key);
  await refreshRights();
  if (rights.value?.may.ask) return true;
  setKey(before); // a wrong one is not kept
  await refreshRights();
  return false;
}

/** Redeem the link of `swarm page`, if the page was opened by one, and take its secret out of the address. @returns {Promise<string | null>} what is wrong with it, "" for nothing; null: there was none */
export async function redeemLink() {
  const token = /^#owner=([\w-]+)$/.exec(location.hash)?.[1];
  if (token === undefined) return null;
  history.replaceState(null, "", location.pathname); // before anything can fail: it is a secret
  try {
    const opened = /** @type {import("./types.js").OwnerSession} */ (await post("/swarm/v1/page/owner", { token }));
    setOwner(opened.session);
    return "";
  } catch (error) {
    return error instanceof ApiError ? error.message : String(error);
  }
}

/** Be no owner any more. */
export async function endOwner() {
  try {
    await post("/swarm/v1/page/owner/end");
  } finally {
    setOwner(null);
    await refreshRights();
  }
}
