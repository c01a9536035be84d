import assert from "node:assert/strict";
import { test } from "node:test";
import { ahead, hasKey, headers, setKey } from "../../../swarm/gateway/page/static/js/api.js";
import { askedParts, canResume } from "../../../swarm/gateway/page/static/js/back_off.js";

test("parts of managers are asked for by managers only, so that nobody loses the others", () => {
  assert.deepEqual(askedParts(["log", "vote"], false), ["finding", "node", "view", "vote"]);
  assert.deepEqual(askedParts(["log", "vote", "node"], true), ["finding", "log", "node", "view", "vote"]);
});

test("fewer parts go on from the last event, new ones need a snapshot", () => {
  assert.ok(canResume(["node", "view", "vote"], ["node", "view"]));
  assert.ok(!canResume(["node", "view"], ["node", "view", "vote"]));
  assert.ok(!canResume([], ["node"]));
});

test("a browser that stores nothing keeps the key in memory", () => {
  const storage = Object.getOwnPropertyDescriptor(globalThis, "sessionStorage");
  const refuse = () => {
    throw new Error("QuotaExceededError");
  };
  Object.defineProperty(globalThis, "sessionStorage", {
    configurable: true,
    value: { getItem: refuse, setItem: refuse, removeItem: refuse },
  });
  try {
    assert.equal(hasKey(), false);
    setKey("k");
    assert.deepEqual(headers(), { Authorization: "Bearer k" });
    setKey(null);
    assert.deepEqual(headers(), {});
  } finally {
    if (storage) Object.defineProperty(globalThis, "sessionStorage", storage);
    else Reflect.deleteProperty(globalThis, "sessionStorage");
  }
});

test("a clock that is off is told by the node's date; a second's rounding is none", () => {
  const at = Date.parse("2026-01-01T00:00:00Z");
  assert.equal(ahead("Thu, 01 Jan 2026 00:01:00 GMT", at), 60_000);
  assert.equal(ahead("Thu, 01 Jan 2026 00:00:01 GMT", at), 0);
  assert.equal(ahead("no date", at), 0);
  assert.equal(ahead(null, at), 0);
});
