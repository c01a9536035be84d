import assert from "node:assert/strict";
import { test } from "node:test";
import {
  asJson,
  asMarkdown,
  begun,
  fitting,
  forget,
  fromJson,
  heard,
  keepOne,
  messagesOf,
  picturesOf,
  readAll,
  readOld,
  renamed,
  takeOver,
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
    get length() {
      return kept.size;
    },
    key: (at) => [...kept.keys()][at] ?? null,
    getItem: (name) => kept.get(name) ?? null,
    setItem: (name, text) => {
      const others = [...kept].filter(([other]) => other !== name);
      if (others.reduce((sum, [other, one]) => sum + other.length + one.length, name.length + text.length) > room)
        throw new DOMException("full", "QuotaExceededError");
      kept.set(name, text);
    },
    removeItem: (name) => kept.delete(name),
  };
}

const urlOf = (name) => (name.startsWith("data:") ? name : null);

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
  const messages = messagesOf({ ...withTurns(begun("swarm"), TURNS), system: "Be brief." }, urlOf);
  assert.deepEqual(
    messages.map((one) => one.role),
    ["system", "user", "assistant", "user"],
  );
  assert.equal(messages[3].content[1].image_url.url, "data:image/png;base64,AA==");
  assert.equal(messagesOf(withTurns(begun("swarm"), TURNS), () => null)[2].content, "And 3?", "a picture that is gone is not sent");
});

test("what goes out comes back, also to another browser", () => {
  const conversation = { ...withTurns(begun("demo"), TURNS), system: "s", temperature: 0.5, votes: 3 };
  const named = renamed(conversation, () => "picture:1-a");
  assert.deepEqual(picturesOf(named), ["picture:1-a"]);
  const read = fromJson(asJson(named, () => "data:image/png;base64,AA=="));
  assert.deepEqual({ ...read, id: "", changed: 0 }, { ...conversation, id: "", changed: 0 });
  assert.ok(asMarkdown(conversation).includes("## assistant\n\n4"));
  for (const text of ["", "{}", "[]", "null", '{"messages": 1}']) assert.throws(() => fromJson(text));
  assert.deepEqual(fromJson('{"messages": [{"role": "tool", "content": "x"}, null, {"role": "user", "content": 1}]}').turns, []);
});

test("each is kept for itself; storage that is full or spoilt breaks nothing", () => {
  const [one, other] = [7, 8].map((changed) => ({ ...withTurns(begun("demo"), TURNS), changed }));
  const roomy = storage(1e6);
  for (const conversation of [one, other]) assert.ok(keepOne(roomy, conversation));
  assert.deepEqual(readAll(roomy), [other, one], "the newest first");
  for (const [name, text] of [
    ["swarm.conversation.x", "{nonsense"],
    ["swarm.conversation.y", "[]"],
    ["swarm.draft", "x"],
  ])
    roomy.setItem(name, text);
  assert.deepEqual(readAll(roomy), [other, one]);
  forget(roomy, other.id);
  assert.deepEqual(readAll(roomy), [one]);
  const full = storage(500);
  assert.equal(keepOne(full, one), true);
  assert.equal(keepOne(full, other), false);
  assert.deepEqual(readAll(full), [one], "what was kept stays");
});

test("of two tabs the newer edit of a conversation wins, and nothing of another is lost", () => {
  const [one, other] = [5, 3].map((changed) => ({ ...withTurns(begun("demo"), TURNS), changed }));
  const all = [one, other];
  const told = (conversation) => heard(all, `swarm.conversation.${conversation.id}`, JSON.stringify(conversation));
  const edited = { ...other, title: "edited there", changed: 9 };
  assert.deepEqual(told(edited), [edited, one]);
  assert.equal(told({ ...one, title: "an older edit", changed: 4 }), all);
  const begunThere = { ...withTurns(begun("demo"), TURNS), changed: 4 };
  assert.deepEqual(told(begunThere), [one, begunThere, other]);
  assert.deepEqual(heard(all, `swarm.conversation.${one.id}`, null), [other], "removed there");
  assert.deepEqual(heard(all, null, null), [], "all removed");
  for (const [key, text] of [
    ["swarm.draft", "x"],
    ["swarm.conversation.unknown", null],
    [`swarm.conversation.${one.id}`, "{nonsense"],
    [`swarm.conversation.${one.id}`, JSON.stringify(edited)],
  ])
    assert.equal(heard(all, key, text), all);
});

test("what earlier versions kept in one value is taken over, or stays as it was", () => {
  const [one, other, known] = [1, 2, 3].map((changed) => ({ ...withTurns(begun("demo"), TURNS), changed }));
  const text = JSON.stringify([one, other, known, { id: "no conversation" }]);
  const roomy = storage(1e6);
  roomy.setItem("swarm.conversations", text);
  const edited = { ...known, title: "edited since" };
  keepOne(roomy, edited);
  const old = readOld(roomy);
  assert.deepEqual(old, [one, other, known]);
  takeOver(roomy, old);
  assert.deepEqual(readAll(roomy), [edited, other, one]);
  assert.deepEqual(readOld(roomy), []);
  takeOver(roomy, old); // by another tab
  assert.equal(readAll(roomy).length, 3);
  const full = storage(text.length + 30);
  full.setItem("swarm.conversations", text);
  takeOver(full, [one, { ...other, system: "x".repeat(text.length) }]);
  assert.equal(full.getItem("swarm.conversations"), text);
  assert.deepEqual(readAll(full), []);
  full.setItem("swarm.conversations", "{nonsense");
  assert.deepEqual(readOld(full), []);
});

test("what no longer fits is left out from the oldest, and a question comes first", () => {
  const turns = Array.from({ length: 20 }, (_, at) => ({ role: at % 2 ? "assistant" : "user", content: "x".repeat(400) }));
  assert.equal(fitting(turns, 1000, 4000), 0);
  const from = fitting(turns, 4000, 2000);
  assert.ok(from >= 10 && from < 19);
  assert.equal(turns[from].role, "user");
  assert.equal(fitting([{ role: "user", content: "x" }], 9000, 10), 0);
});
