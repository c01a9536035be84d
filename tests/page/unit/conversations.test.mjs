import assert from "node:assert/strict";
import { test } from "node:test";
import {
  asJson,
  asMarkdown,
  begun,
  fitting,
  fromJson,
  keepAll,
  MOST_KEPT,
  messagesOf,
  readAll,
  upTo,
  withTurns,
} from "../../../swarm/gateway/page/static/js/conversations.js";

const TURNS = [
  { role: "user", content: "What is 2 + 2?" },
  { role: "assistant", content: "4" },
  { role: "user", content: "And 3?", images: ["data:image/png;base64,AA=="] },
  { role: "assistant", content: "", problem: "cut" },
];

/** A browser's storage with so much room. */
function storage(room) {
  const kept = new Map();
  return {
    getItem: (name) => kept.get(name) ?? null,
    setItem: (name, text) => {
      if (text.length > room) throw new DOMException("full", "QuotaExceededError");
      kept.set(name, text);
    },
  };
}

test("a title is the first question's, and stays", () => {
  const first = withTurns(begun("swarm"), TURNS);
  assert.equal(first.title, "What is 2 + 2?");
  assert.equal(withTurns(first, [{ role: "user", content: "other" }]).title, "What is 2 + 2?");
});

test("asking again takes the question before an answer, and what came before that", () => {
  assert.deepEqual(upTo(TURNS, 3), { before: TURNS.slice(0, 2), question: TURNS[2] });
  assert.deepEqual(upTo(TURNS, 0), { before: [], question: TURNS[0] });
});

test("messages have the system prompt first, images as parts, and no empty answers", () => {
  const messages = messagesOf({ ...withTurns(begun("swarm"), TURNS), system: "Be brief." });
  assert.deepEqual(
    messages.map((one) => one.role),
    ["system", "user", "assistant", "user"],
  );
  assert.equal(messages[3].content[1].image_url.url, "data:image/png;base64,AA==");
});

test("what goes out comes back, also to another browser", () => {
  const conversation = { ...withTurns(begun("demo"), TURNS), system: "s", temperature: 0.5, votes: 3 };
  const read = fromJson(asJson(conversation));
  assert.deepEqual({ ...read, id: "", changed: 0 }, { ...conversation, id: "", changed: 0 });
  assert.ok(asMarkdown(conversation).includes("## assistant\n\n4"));
  for (const text of ["", "{}", "[]", "null", '{"messages": 1}']) assert.throws(() => fromJson(text));
  assert.deepEqual(fromJson('{"messages": [{"role": "tool", "content": "x"}, null, {"role": "user", "content": 1}]}').turns, []);
});

test("storage that is full or spoilt is said, and breaks nothing", () => {
  const conversation = withTurns(begun("demo"), TURNS);
  const roomy = storage(1e6);
  assert.equal(keepAll(roomy, [conversation, begun("empty")]), true);
  assert.deepEqual(readAll(roomy), [conversation]);
  assert.equal(keepAll(storage(10), [conversation]), false);
  const spoilt = storage(1e6);
  spoilt.setItem("swarm.conversations", "{nonsense");
  assert.deepEqual(readAll(spoilt), []);
  const many = Array.from({ length: MOST_KEPT + 5 }, (_, at) => ({ ...conversation, id: String(at), changed: at }));
  keepAll(roomy, many);
  assert.equal(readAll(roomy).length, MOST_KEPT);
  assert.equal(readAll(roomy)[0].id, String(MOST_KEPT + 4));
});

test("what no longer fits is left out from the oldest, and a question comes first", () => {
  const turns = Array.from({ length: 20 }, (_, at) => ({ role: at % 2 ? "assistant" : "user", content: "x".repeat(400) }));
  assert.equal(fitting(turns, 1000, 4000), 0);
  const from = fitting(turns, 4000, 2000);
  assert.ok(from >= 10 && from < 19);
  assert.equal(turns[from].role, "user");
  assert.equal(fitting([{ role: "user", content: "x" }], 9000, 10), 0);
});
