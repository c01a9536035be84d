import assert from "node:assert/strict";
import { test } from "node:test";
import { EventReader } from "../../../swarm/gateway/page/static/js/events.js";

const STREAM =
  'event: snapshot\nid: ab-1\ndata: {}\n\n: still here\n\nevent: changes\r\nid: ab-2\r\ndata: 1\r\ndata: 2\r\n\r\ndata:{"x": "ü€😀"}\n\ndata: cut';
const EVENTS = [
  { event: "snapshot", id: "ab-1", data: "{}" },
  { event: "comment", id: "", data: "still here" },
  { event: "changes", id: "ab-2", data: "1\n2" },
  { event: "message", id: "", data: '{"x": "ü€😀"}' },
];

test("events are the same however the stream is split", () => {
  for (let first = 0; first <= STREAM.length; first += 1) {
    for (const second of [first, first + 1, first + 7]) {
      const reader = new EventReader();
      const read = [STREAM.slice(0, first), STREAM.slice(first, second), STREAM.slice(second)].flatMap((piece) => reader.feed(piece));
      assert.deepEqual(read, EVENTS, `split at ${first} and ${second}`);
    }
  }
});
