import assert from "node:assert/strict";
import { test } from "node:test";
import { CROWD, cutInside, layOut, linksOf, NARROW, WIDTH } from "../../../swarm/gateway/page/static/js/topology.js";

const named = (count) => Array.from({ length: count }, (_, at) => `n${String(at).padStart(2, "0")}`);

test("all nodes stand inside, none on another, on a phone, too", () => {
  for (const width of [WIDTH, NARROW]) {
    for (let count = 1; count <= 40; count += 1) {
      const { height, places } = layOut(named(count), "n00", width);
      assert.equal(places.size, count);
      const all = [...places.values()];
      for (const { x, y } of all) assert.ok(x >= 30 && x <= width - 30 && y >= 20 && y <= height - 20, `${count}: ${x} ${y} of ${height}`);
      for (const one of all)
        for (const other of all) assert.ok(one === other || Math.hypot(one.x - other.x, one.y - other.y) > 40, `${count} in ${width}`);
    }
  }
});

test("the same nodes stand at the same places, in whatever order they are told", () => {
  assert.deepEqual(layOut(["b", "a", "c"], "a"), layOut(["c", "a", "b"], "a"));
});

test("of a crowd this node is first, and names keep what they differ in", () => {
  const { places } = layOut(named(20), "n07");
  assert.deepEqual([places.get("n07").side, places.get("n00").side, places.get("n19").side], [-1, -1, 1]);
  assert.ok([...places.values()].every((place) => place.y >= places.get("n07").y));
  assert.equal(layOut(named(CROWD), "n00").places.get("n01").side, 0);
  assert.equal(cutInside("machine-03-in-the-cellar", 10), "mach…ellar");
  assert.equal(cutInside("kitchen", 10), "kitchen");
});

test("a line for each two, the worse opinion counts, and nobody unknown is joined", () => {
  const node = (id, peers) => ({
    id,
    name: id,
    models: [],
    peers: peers.map(([peer, state, rtt_ms]) => ({ id: peer, name: peer, state, rtt_ms })),
  });
  const links = linksOf([
    node("a", [
      ["b", "alive", 2],
      ["x", "alive", 1],
    ]),
    node("b", [
      ["a", "suspect", null],
      ["b", "alive", 0],
    ]),
  ]);
  assert.deepEqual(links, [{ from: "a", to: "b", state: "suspect", rtt_ms: 2, lends: false }]);
});

test("a line to whoever has a part of a model, whichever of the two is told of first", () => {
  const node = (id, nodes = []) => ({
    id: `id-${id}`,
    name: id,
    models: [{ id: "m", nodes }],
    peers: ["a", "b", "c"].map((peer) => ({ id: `id-${peer}`, name: peer, state: "alive", rtt_ms: 1 })),
  });
  const lending = (nodes) =>
    linksOf(nodes)
      .filter((link) => link.lends)
      .map((link) => `${link.from} ${link.to}`);
  assert.deepEqual(lending([node("a"), node("b"), node("c")]), []);
  assert.deepEqual(lending([node("a", ["a", "b"]), node("b"), node("c")]), ["id-a id-b"]);
  assert.deepEqual(lending([node("a"), node("b", ["b", "a", "gone"]), node("c")]), ["id-a id-b"]);
});
