import assert from "node:assert/strict";
import { test } from "node:test";
import { found, secondsLeft, suggested } from "../../../swarm/gateway/page/static/js/models.js";
import { everybody } from "../../../swarm/gateway/page/static/js/peers.js";
import { lines, newest } from "../../../swarm/gateway/page/static/js/performance.js";
import { runsOf, stepOf } from "../../../swarm/gateway/page/static/js/plot.js";
import { qrPath } from "../../../swarm/gateway/page/static/js/qr.js";
import { matching } from "../../../swarm/gateway/page/static/js/requests.js";

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

test("requests: the longest first", () => {
  const rows = [
    { id: "a", path: "/v1/x", from: "client", running_s: 1 },
    { id: "b", path: "/v1/y", from: "node", running_s: 2 },
  ];
  assert.deepEqual(
    matching(rows, "").map((row) => row.id),
    ["b", "a"],
  );
  assert.deepEqual(
    matching(rows, "X").map((row) => row.id),
    ["a"],
  );
});

test("a plot's axis is round, and a line is broken where nothing was measured", () => {
  assert.deepEqual([1, 7, 12, 99, 1500, 0.3].map(stepOf), [0.25, 2, 5, 25, 500, 0.1]);
  const runs = runsOf([0, 60, 120, 180], [1, 2, null, 4], 4, 180);
  assert.deepEqual(
    runs.map((run) => run.length),
    [2, 1],
  );
  assert.equal(runs[1][0], "472,8");
  assert.deepEqual(runsOf([0], [null], 1, 0), []);
});
