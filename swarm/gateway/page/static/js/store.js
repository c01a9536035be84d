// @ts-check
/**
 * What the page knows of the swarm: the parts of `GET /v1/events`, each a signal, and how the connection stands.
 * A screen that is shown asks for the parts that it needs (`useParts`); a page that nobody looks at asks for nothing.
 */
import { ApiError, send } from "./api.js";
import { backOff } from "./back_off.js";
import { eventsOf } from "./events.js";
import { batch, signal, useEffect } from "./ui.js";

/** @typedef {import("./types.js").PartName} PartName */

const REFUSED_TRIES = 99; // the longest wait: only a key helps
const FOR_ALL = /** @type {PartName[]} */ (["view", "node", "finding"]);

/** @type {{[part: string]: import("../vendor/signals.js").Signal<Map<string, any>>}} */
export const parts = Object.fromEntries(
  ["view", "node", "vote", "finding", "request", "usage", "log", "pull"].map((name) => [name, signal(new Map())]),
);

/** `state`: connecting, open, lost (`since`, `why`), refused (it wants a key), or hidden while nobody looks. */
export const connection = signal({ state: "connecting", since: Date.now(), why: "" });

/** @type {Map<PartName, number>} */
const wanted = new Map();
/** @type {AbortController | null} */
let running = null;
let lastId = "";
let readParts = "";

/** @param {"snapshot" | "changes"} kind @param {Record<string, Record<string, unknown>>} told @param {string[]} asked */
export function apply(kind, told, asked) {
  batch(() => {
    for (const name of kind === "snapshot" ? asked : Object.keys(told)) {
      const part = parts[name];
      if (part === undefined) continue;
      const next = new Map(kind === "snapshot" ? [] : part.value);
      for (const [key, value] of Object.entries(told[name] ?? {})) {
        next.delete(key);
        if (value !== null) next.set(key, value);
      }
      part.value = next;
    }
  });
}

/** Whether the page is looked at; only then somebody listens. */
let looked = true;
let listening = false;

async function listen() {
  if (listening) return;
  listening = true;
  let tries = 0;
  while (looked) {
    const controller = new AbortController();
    running = controller;
    const asked = [...new Set([...FOR_ALL, ...wanted.keys()])].sort();
    const query = asked.join(",");
    if (query !== readParts) lastId = "";
    readParts = query;
    try {
      /** @type {Record<string, string>} */
      const more = lastId === "" ? {} : { "Last-Event-ID": lastId };
      const response = await send("GET", `/v1/events?parts=${query}`, undefined, controller.signal, more);
      for await (const { event, id, data } of eventsOf(response)) {
        if (event !== "snapshot" && event !== "changes") continue;
        tries = 0;
        lastId = id;
        apply(event, JSON.parse(data), asked);
        if (connection.value.state !== "open") become("open");
      }
      throw new ApiError("the connection ended", 0);
    } catch (error) {
      if (controller.signal.aborted) continue; // other parts are wanted now, or the page is hidden
      const refused = error instanceof ApiError && (error.status === 401 || error.status === 403);
      const state = refused ? "refused" : "lost";
      if (connection.value.state !== state) become(state, error instanceof Error ? error.message : String(error));
      tries = refused ? REFUSED_TRIES : tries + 1;
      await sleep(backOff(tries), controller.signal);
    }
  }
  listening = false;
  running = null;
}

/** @param {number} wait milliseconds @param {AbortSignal} signal ends it */
function sleep(wait, signal) {
  return new Promise((done) => {
    const timer = setTimeout(done, wait);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      done(undefined);
    });
  });
}

/** @param {string} state @param {string} [why] */
function become(state, why = "") {
  connection.value = { state, since: Date.now(), why };
}

/** Begin, once. Ends while the page is hidden, and goes on where it was. */
export function start() {
  looked = !document.hidden;
  if (looked) void listen();
  document.addEventListener("visibilitychange", () => {
    looked = !document.hidden;
    become(looked ? "connecting" : "hidden");
    running?.abort();
    if (looked) void listen();
  });
}

/** Ask anew, with another key or for other parts. */
export function restart() {
  running?.abort();
}

/** Ask for parts while the component is shown. @param {PartName[]} names */
export function useParts(names) {
  useEffect(() => {
    for (const name of names) wanted.set(name, (wanted.get(name) ?? 0) + 1);
    if (names.some((name) => !readParts.split(",").includes(name))) restart();
    return () => {
      for (const name of names) {
        const left = (wanted.get(name) ?? 1) - 1;
        if (left > 0) wanted.set(name, left);
        else wanted.delete(name);
      }
    };
  }, []);
}
