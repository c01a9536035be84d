import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ago,
  byName,
  bytes,
  clean,
  clock,
  counted,
  duration,
  ms,
  percent,
  short,
  since,
} from "../../../swarm/gateway/page/static/js/format.js";
import { now, tick } from "../../../swarm/gateway/page/static/js/store.js";
import { ahead, clock as nodeClock } from "../../../swarm/gateway/page/static/js/api.js";
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
    "4.4 GiB",
    "22.4 GiB",
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

test("times are by the node's clock, on every screen", (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: Date.parse("2026-01-01T09:00:00Z") });
  t.after(() => {
    nodeClock.aheadMs = 0;
    tick();
  });
  nodeClock.aheadMs = ahead("Thu, 01 Jan 2026 08:00:00 GMT", Date.now());
  tick();
  assert.equal(now.value, Date.parse("2026-01-01T08:00:00Z"));
  assert.equal(ago("2026-01-01T07:59:18Z"), "42 s ago");
  assert.equal(since("2026-01-01T07:58:00Z"), "2 min");
  assert.equal(since(now.value - 7000), "7 s");
  for (const unknown of [null, "", "nonsense"]) assert.equal(since(unknown), null);
  const at = new Date(2026, 0, 1, 0, 5, 9);
  assert.deepEqual([clock(at.toISOString()), clock(at.getTime(), false), clock("nonsense")], ["00:05:09", "00:05", "–"]);
});

test("names come in the order in which people count", () => {
  assert.deepEqual(["pi10", "Pi2", "pi1", "anna"].sort(byName), ["anna", "pi1", "Pi2", "pi10"]);
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
