import assert from "node:assert/strict";
import { test } from "node:test";
import { chosen as chosenLines, inSight } from "../../../swarm/gateway/page/static/js/logs.js";
import { found, secondsLeft, suggested } from "../../../swarm/gateway/page/static/js/models.js";
import { everybody } from "../../../swarm/gateway/page/static/js/peers.js";
import { lines, newest } from "../../../swarm/gateway/page/static/js/performance.js";
import { hourOf, orderOf, runsOf, stepOf } from "../../../swarm/gateway/page/static/js/plot.js";
import { qrPath } from "../../../swarm/gateway/page/static/js/qr.js";
import { matching } from "../../../swarm/gateway/page/static/js/requests.js";
import { byDay, limitsOf, onDay } from "../../../swarm/gateway/page/static/js/usage.js";
import { overTime } from "../../../swarm/gateway/page/static/js/votes.js";

const stored = (id, state = "available") => ({
  id,
  name: id,
  state,
  pinned: false,
  size_bytes: 1,
  need_bytes: 2,
  fits: true,
  why: "",
  tokens_per_s: null,
  engine: null,
});

test("models that run come first, with what the node tells of them now", () => {
  const rows = found(
    [stored("b"), stored("a"), stored("c", "ready")],
    [
      { id: "b", state: "loading", pinned: true },
      { id: "new", state: "ready", pinned: false },
    ],
    "",
  );
  assert.deepEqual(
    rows.map((row) => [row.id, row.state, row.pinned]),
    [
      ["b", "loading", true],
      ["new", "ready", false],
      ["a", "available", false],
      ["c", "available", false],
    ],
  );
  assert.deepEqual(
    found([stored("Qwen3:4b"), stored("demo")], [], " qwen ").map((row) => row.id),
    ["Qwen3:4b"],
  );
});

test("what fits is offered, and what is typed whether it fits or not", () => {
  const fit = ["a:1b", "b:2b", "b:70b"].map((id) => ({ ...stored(id), fits: id !== "b:70b" }));
  const names = (word) => suggested(fit, word).map((model) => model.id);
  assert.deepEqual(names(""), ["a:1b", "b:2b"]);
  assert.deepEqual(names(" B:"), ["b:2b", "b:70b"]);
  assert.deepEqual(names("hf:OWNER/REPO/FILE.gguf"), ["a:1b", "b:2b"]);
  assert.equal(suggested(Array(20).fill(fit[0]), "").length, 6);
});

test("time left of a pull", () => {
  assert.equal(secondsLeft({ done_bytes: 50, total_bytes: 150, bytes_per_s: 10 }), 10);
  assert.equal(secondsLeft({ done_bytes: 50, total_bytes: null, bytes_per_s: 10 }), null);
  assert.equal(secondsLeft({ done_bytes: 50, total_bytes: 60, bytes_per_s: 0 }), null);
  assert.equal(secondsLeft({ done_bytes: 70, total_bytes: 60, bytes_per_s: 1 }), 0);
});

test("a code is drawn square by square", () => {
  assert.equal(qrPath(["1101", "0000", "0010"]), "M0 0h2v1h-2zM3 0h1v1h-1zM2 2h1v1h-1z");
});

test("each node is in the list once, members that are away too", () => {
  const node = (id, source) => ({
    id,
    name: id,
    url: `http://${id}`,
    version: "1",
    state: "alive",
    mode: "paired",
    since: null,
    source,
    peers: [{ id: "b", name: "b", state: "alive", rtt_ms: 3 }],
  });
  const rows = everybody([node("a", "own"), node("b", "peer")], {
    mode: "paired",
    nodes: [
      { id: "b", name: "b", state: "alive", addresses: [] },
      { id: "c", name: "c", state: "absent", addresses: ["10.0.0.3"] },
    ],
  });
  assert.deepEqual(
    rows.map((row) => [row.id, row.state, row.rtt_ms, row.member]),
    [
      ["b", "alive", 3, true],
      ["c", "absent", null, true],
    ],
  );
});

test("the busiest are plotted, and the newest figure is the last that there is", () => {
  const series = Array.from({ length: 10 }, (_, at) => ({
    node: "n",
    model: `m${at}`,
    requests: [at],
    errors: [0],
    first_token_ms: [at],
    tokens_per_s: [null],
  }));
  const plotted = lines({ minutes: [0], waiting: [0], series }, "first_token_ms");
  assert.equal(plotted.length, 8);
  assert.deepEqual(plotted[0], { label: "m9 · n", values: [9] });
  assert.equal(newest([1, null, 3, null]), 3);
  assert.equal(newest([null]), null);
});

test("requests: the longest first, found by key and model, too", () => {
  const rows = [
    { id: "a", path: "/v1/x", from: "client", key: "anna", model: "demo", running_s: 1 },
    { id: "b", path: "/v1/y", from: "node", key: null, model: null, running_s: 2 },
  ];
  const ids = (word) => matching(rows, word).map((row) => row.id);
  assert.deepEqual(ids(""), ["b", "a"]);
  for (const word of ["X", " Anna", "demo"]) assert.deepEqual(ids(word), ["a"]);
  assert.deepEqual(ids("null"), []);
});

test("a plot's axis is round, and a line is broken where nothing was measured", () => {
  assert.deepEqual([1, 7, 12, 99, 1500, 0.3].map(stepOf), [0.25, 2, 5, 25, 500, 0.1]);
  const runs = runsOf([0, 0.25, 0.5, 1], [1, 2, null, 4], 4);
  assert.deepEqual(
    runs.map((run) => run.length),
    [2, 1],
  );
  assert.equal(runs[1][0], "472,8");
  assert.deepEqual(runsOf([0], [null], 1), []);
});

test("the axis of an hour goes by time, that of an order from one to the next", () => {
  assert.deepEqual(hourOf([1800, 3600]).at, [0.5, 1]);
  const noon = Date.parse("2026-01-31T12:00:00Z") / 1000;
  assert.deepEqual(orderOf([noon, noon + 1]).at, [0.25, 0.75]);
  assert.match(orderOf([noon, noon + 1]).marks.join(), /^\d\d:00,\d\d:00,\d\d:00$/);
  assert.deepEqual(orderOf([noon, noon + 1, noon + 200_000]).marks, ["2026-01-31", "2026-01-31", "2026-02-02"]);
  assert.deepEqual(orderOf([]).at, []);
});

test("votes over time: what has ended, the oldest first, with the mean of ten", () => {
  const vote = (at, agreement) => ({ began: `2026-01-31T12:00:${String(at).padStart(2, "0")}Z`, agreement, total_completion_tokens: at });
  const { agreed, means, tokens } = overTime([vote(30, null), vote(2, 0.5), vote(1, 1)]);
  assert.deepEqual(
    [agreed, means, tokens],
    [
      [100, 50],
      [100, 75],
      [1, 2],
    ],
  );
  const many = overTime(Array.from({ length: 20 }, (_, at) => vote(at, at < 10 ? 0 : 1)));
  assert.deepEqual([many.means[9], many.means[14], many.means[19]], [0, 50, 100]);
});

test("log lines of a level and above, found by words, logger and request; only those in sight are drawn", () => {
  const line = (number, level, text, request_id = null) => ({ number, level, text, logger: "swarm.x", request_id });
  const lines = [line(1, "info", "Ready"), line(2, "warning", "slow", "mine"), line(3, "critical", "gone")];
  const numbers = (level, text) => chosenLines(lines, level, text).map((one) => one.number);
  assert.deepEqual(numbers("info", ""), [1, 2, 3]);
  assert.deepEqual(numbers("warning", ""), [2, 3]);
  assert.deepEqual(numbers("info", " MINE"), [2]);
  assert.deepEqual(numbers("info", "swarm.x rea"), []);
  assert.deepEqual(numbers("info", "null"), []);
  assert.deepEqual(inSight(1000, { top: 2800, high: 280, row: 28 }), [92, 118]);
  assert.deepEqual(inSight(1000, { top: 0, high: 280, row: 28 }), [0, 18]);
  assert.deepEqual(inSight(3, { top: 2800, high: 280, row: 28 }), [0, 3]);
});

test("usage: days without any are none, limits have what is used of them", () => {
  const day = (name, requests, refused = 0) => ({
    day: name,
    requests,
    refused,
    prompt_tokens: requests * 10,
    completion_tokens: requests,
  });
  const limits = { requests_a_minute: 3, tokens_a_day: 100 };
  const anna = { key: "anna", limits, last_minute: 2, days: [day("2026-03-02", 5, 1), day("2026-02-20", 1)] };
  const ben = { key: "ben", limits: { requests_a_minute: null, tokens_a_day: null }, last_minute: null, days: [day("2026-03-02", 2)] };
  assert.equal(onDay(ben, "2026-03-01").requests, 0);
  assert.deepEqual(limitsOf(anna, "2026-03-02"), [
    { what: "requests", used: 2, most: 3 },
    { what: "tokens", used: 55, most: 100 },
  ]);
  assert.equal(limitsOf(anna, "2026-03-03")[1].used, 0);
  assert.deepEqual(limitsOf(ben, "2026-03-02"), []);
  const sums = byDay([anna, ben], "2026-03-02");
  assert.equal(sums.days.length, 11);
  assert.deepEqual([sums.days[0], sums.days.at(-1)], ["2026-02-20", "2026-03-02"]);
  assert.deepEqual([sums.requests[0], sums.requests.at(-1), sums.refused.at(-1), sums.prompt.at(-1)], [1, 7, 1, 70]);
  assert.equal(byDay([ben], "2026-03-02").days.length, 7);
  assert.equal(byDay([], "2026-03-02").requests.length, 7);
});
