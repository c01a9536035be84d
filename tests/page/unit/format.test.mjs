import assert from "node:assert/strict";
import { test } from "node:test";
import { ago, bytes, clean, counted, duration, ms, percent, short } from "../../../swarm/gateway/page/static/js/format.js";
import { placeOf } from "../../../swarm/gateway/page/static/js/places.js";
import { backOff } from "../../../swarm/gateway/page/static/js/back_off.js";

test("figures", () => {
  const told = [
    bytes(null),
    bytes(0),
    bytes(999),
    bytes(4_700_000_000),
    bytes(24e9),
    ms(0.42),
    ms(12),
    ms(1234),
    duration(59),
    duration(200),
    duration(9000),
    duration(3e6),
    percent(0.804),
    counted(1, ["vote", "votes"]),
    counted(1200, ["vote", "votes"]),
  ];
  assert.deepEqual(told, [
    "–",
    "0 B",
    "999 B",
    "4.7 GB",
    "24 GB",
    "0.4 ms",
    "12 ms",
    "1.2 s",
    "59 s",
    "3 min",
    "2.5 h",
    "34 d",
    "80 %",
    "1 vote",
    "1,200 votes",
  ]);
  assert.equal(ago("2026-01-01T00:00:00Z", Date.parse("2026-01-01T00:00:42Z")), "42 s ago");
  assert.equal(ago("nonsense"), "–");
});

test("names of others turn no words around them, and draw nothing", () => {
  assert.equal(clean("a\u202eb\u001b[31mc\u0000\u200f"), "a\ufffdb\ufffd[31mc\ufffd\ufffd");
  assert.equal(clean("<img src=x onerror=alert(1)>"), "<img src=x onerror=alert(1)>");
  assert.equal(short("x".repeat(300), 10), `${"x".repeat(9)}…`);
  assert.equal(clean(undefined), "");
});

test("places", () => {
  assert.deepEqual(placeOf(""), { name: "overview", rest: [] });
  assert.deepEqual(placeOf("#/votes/a%2Fb/c"), { name: "votes", rest: ["a/b", "c"] });
  assert.deepEqual(placeOf("#/votes/%zz"), { name: "votes", rest: ["%zz"] });
  assert.deepEqual(placeOf("#/constructor"), { name: "overview", rest: [] });
});

test("a page that comes back waits longer each time, and never with all others at once", () => {
  const first = backOff(1, 0);
  assert.ok(first > 0 && first < backOff(1, 1));
  assert.ok(backOff(99, 1) <= 4000 && backOff(99, 0) >= 2000);
});
