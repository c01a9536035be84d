// @ts-check
/**
 * What the page knows of the swarm: the parts of `GET /v1/events`, each a signal, and how the connection stands.
 * A screen that is shown asks for the parts that it needs (`useParts`); a page that nobody looks at asks for nothing.
 */
import { ApiError, clock, send } from "./api.js";
import { askedParts, backOff, canResume } from "./back_off.js";
import { eventsOf } from "./events.js";
import { rights } from "./rights.js";
import { STRINGS } from "./strings.js";
import { batch, effect, signal, useEffect } from "./ui.js";

/** @typedef {import("./types.js").PartName} PartName */

const SILENT_MS = 25_000; // the node says something every ten seconds
const LEFT_MS = 10_000; // a part that no screen shows is read on so long: who comes back needs no snapshot

/** @type {{[part: string]: import("../vendor/signals.js").Signal<Map<string, any>>}} */
export const parts = Object.fromEntries(
  ["view", "node", "vote", "finding", "request", "usage", "log", "pull"].map((name) => [name, signal(new Map())]),
);

const nodeTime = () => Date.now() + clock.aheadMs;

/** The time by the node's clock, in milliseconds, each second while somebody looks: "gone for 12 s" goes on. */
export const now = signal(nodeTime());

export function tick() {
  now.value = nodeTime();
}

/** `since` by the node's clock. `state`: connecting, open, lost (`since`, `why`), refused (it wants a key), or hidden while nobody looks. */
export const connection = signal({ state: "connecting", since: nodeTime(), why: "" });

/** @type {Map<PartName, number>} */
const wanted = new Map();
/** @type {AbortController | null} */
let running = null;
let lastId = "";
/** @type {string[]} */
let readParts = [];

/** @returns {PartName[]} */
const asks = () => askedParts(wanted.keys(), rights.peek()?.may.manage ?? false);

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
    const asked = asks();
    if (!canResume(readParts, asked)) lastId = "";
    readParts = asked;
    let silent = 0;
    let stalled = false;
    const heard = () => {
      clearTimeout(silent);
      silent = setTimeout(() => {
        stalled = true;
        controller.abort();
      }, SILENT_MS);
    };
    try {
      heard();
      /** @type {Record<string, string>} */
      const more = lastId === "" ? {} : { "Last-Event-ID": lastId };
      const response = await send("GET", `/v1/events?parts=${asked.join(",")}`, undefined, controller.signal, more);
      tries = 0;
      if (connection.value.state !== "open") become("open");
      for await (const { event, id, data } of eventsOf(response, heard)) {
        if (event !== "snapshot" && event !== "changes") continue;
        apply(event, JSON.parse(data), asked);
        lastId = id;
      }
      throw new ApiError(STRINGS.api.ended, 0);
    } catch (error) {
      if (controller.signal.aborted && !stalled) continue; // other parts are wanted now, or the page is hidden
      const refused = error instanceof ApiError && (error.status === 401 || error.status === 403);
      const state = refused ? "refused" : "lost";
      if (connection.value.state !== state)
        become(state, stalled ? STRINGS.api.silent : error instanceof Error ? error.message : String(error));
      tries += 1;
      running = new AbortController(); // `restart` ends the wait
      if (looked) await sleep(refused ? null : backOff(tries), running.signal); // only another key helps who is refused
    } finally {
      clearTimeout(silent);
    }
  }
  listening = false;
  running = null;
}

/** @param {number | null} wait milliseconds; null: until `signal` @param {AbortSignal} signal ends it */
function sleep(wait, signal) {
  return new Promise((done) => {
    const timer = wait === null ? 0 : setTimeout(done, wait);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      done(undefined);
    });
  });
}

/** @param {string} state @param {string} [why] */
function become(state, why = "") {
  connection.value = { state, since: nodeTime(), why };
}

/** Begin, once. Ends while the page is hidden, and goes on where it was. */
export function start() {
  looked = !document.hidden;
  if (looked) void listen();
  effect(() => {
    void rights.value?.may.manage;
    followWishes();
  });
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

/** Ask anew where other parts are wanted than are read. */
function followWishes() {
  if (listening && asks().join() !== readParts.join()) restart();
}

/** Ask for parts while the component is shown. @param {PartName[]} names */
export function useParts(names) {
  useEffect(() => {
    for (const name of names) wanted.set(name, (wanted.get(name) ?? 0) + 1);
    followWishes();
    return () => {
      for (const name of names) {
        const left = (wanted.get(name) ?? 1) - 1;
        if (left > 0) wanted.set(name, left);
        else wanted.delete(name);
      }
      setTimeout(followWishes, LEFT_MS);
    };
  }, []);
}
