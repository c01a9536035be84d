// @ts-check
/**
 * What the page knows of the swarm: the parts of `GET /v1/events`, each a signal, and how the connection stands.
 * A screen that is shown asks for the parts that it needs (`useParts`); a page that nobody looks at asks for nothing.
 */
import { eventsOf } from "./events.js";
import { send } from "./api.js";
import { batch, signal, useEffect } from "./ui.js";

/** @typedef {import("./types.js").PartName} PartName */

const BACK_OFF_MS = [250, 500, 1000, 2000, 4000];
const FOR_ALL = /** @type {PartName[]} */ (["view", "node", "finding"]);

/** @type {{[part: string]: import("../vendor/signals.js").Signal<Map<string, any>>}} */
export const parts = Object.fromEntries(
  ["view", "node", "vote", "finding", "request", "usage", "log", "pull"].map((name) => [name, signal(new Map())]),
);

/** `state`: connecting, open, lost (`since`, `why`), or hidden while nobody looks. */
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

async function listen() {
  for (let tries = 0; ; tries += 1) {
    const controller = new AbortController();
    running = controller;
    const asked = [...new Set([...FOR_ALL, ...wanted.keys()])].sort();
    const query = asked.join(",");
    if (query !== readParts) lastId = "";
    readParts = query;
    try {
      const response = await sendFrom(query, controller.signal);
      for await (const { event, id, data } of eventsOf(response)) {
        if (event !== "snapshot" && event !== "changes") continue;
        tries = 0;
        lastId = id;
        apply(event, JSON.parse(data), asked);
        if (connection.value.state !== "open") connection.value = { state: "open", since: Date.now(), why: "" };
      }
      throw new Error("the node ended the connection");
    } catch (error) {
      if (controller.signal.aborted) {
        if (document.hidden) return;
        tries = -1; // other parts are wanted now
        continue;
      }
      if (connection.value.state !== "lost")
        connection.value = { state: "lost", since: Date.now(), why: error instanceof Error ? error.message : String(error) };
      await new Promise((done) => setTimeout(done, BACK_OFF_MS[Math.min(tries, BACK_OFF_MS.length - 1)]));
      if (document.hidden) return;
    }
  }
}

/** @param {string} query @param {AbortSignal} abort */
async function sendFrom(query, abort) {
  return send("GET", `/v1/events?parts=${query}`, undefined, abort, lastId ? { "Last-Event-ID": lastId } : {});
}

/** Begin, once. Ends while the page is hidden, and goes on where it was. */
export function start() {
  void listen();
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      running?.abort();
      connection.value = { state: "hidden", since: Date.now(), why: "" };
    } else {
      connection.value = { state: "connecting", since: Date.now(), why: "" };
      void listen();
    }
  });
}

/** Ask for parts while the component is shown. @param {PartName[]} names */
export function useParts(names) {
  useEffect(() => {
    for (const name of names) wanted.set(name, (wanted.get(name) ?? 0) + 1);
    running?.abort();
    return () => {
      for (const name of names) {
        const left = (wanted.get(name) ?? 1) - 1;
        if (left > 0) wanted.set(name, left);
        else wanted.delete(name);
      }
    };
  }, []);
}
