import assert from "node:assert/strict";
import { test } from "node:test";
import { afterEvent, bodyOf } from "../../../swarm/gateway/page/static/js/asking.js";
import { groupsOf, inOneLine, isVote, merged, stillOut } from "../../../swarm/gateway/page/static/js/ballot.js";

const voter = (name, group, weight = 1) => ({ voter: name, model: "demo", group, weight, tokens: 3, ms: 20, answer: `answer ${group}` });

test("equal answers stand together, the winner's first though it is not the heaviest, and who abstained last", () => {
  const groups = groupsOf([voter("a", 1), voter("n", null), voter("b", 0, 1), voter("c", 1, 0.5)]);
  assert.deepEqual(
    groups.map(({ id, weight, answer, voters }) => [id, weight, answer, voters.length]),
    [
      [0, 1, "answer 0", 1],
      [1, 1.5, "answer 1", 2],
      [null, 0, "answer null", 1],
    ],
  );
});

// What three nodes said of one vote, as it came; recorded from real ones.
const RECORDED = [
  {
    choices: [],
    swarm: {
      ballot: {
        strategy: "auto",
        kind: "text",
        outcome: "degraded",
        votes: 0,
        asked: 3,
        wanted: 5,
        candidates: [],
        stopped_by: null,
        elapsed_ms: 1,
        final: false,
        out: [
          { node: "kitchen", model: "demo", seats: 1 },
          { node: "study", model: "demo:b", seats: 2 },
        ],
      },
    },
  },
  { choices: [{ index: 0, delta: { role: "assistant", content: "" }, finish_reason: null }] },
  {
    choices: [],
    swarm: {
      ballot: {
        strategy: "auto",
        kind: "number",
        outcome: "degraded",
        votes: 1,
        asked: 3,
        wanted: 5,
        candidates: [{ voter: "Calypso@kitchen", model: "demo", group: 0, weight: 1, tokens: 15, ms: 9, answer: "42" }],
        final: false,
        elapsed_ms: 11,
        out: [{ node: "study", model: "demo:b", seats: 1 }],
      },
    },
  },
  { choices: [{ index: 0, delta: { content: "17+25=42\nAnswer: 42" }, finish_reason: null }] },
  {
    choices: [{ index: 0, delta: {}, finish_reason: "stop" }],
    swarm: {
      strategy: "auto",
      kind: "number",
      outcome: "consensus",
      votes: 2,
      asked: 3,
      wanted: 5,
      stopped_by: "unbeatable_lead",
      winner: "Calypso@kitchen",
      elapsed_ms: 19,
      candidates: [
        { voter: "Calypso@kitchen", model: "demo", group: 0, weight: 1, tokens: 15, ms: 9 },
        { voter: "Thor@attic", model: "demo:c", group: 0, weight: 1, tokens: 15, ms: 15 },
      ],
    },
  },
];

test("a vote is followed from its first voter to its end, and keeps the short answers that only its progress tells", () => {
  const seen = [];
  let turn = { role: "assistant", content: "" };
  for (const event of RECORDED) {
    turn = afterEvent(turn, event);
    seen.push(inOneLine(turn.ballot));
  }
  assert.deepEqual(seen, [
    "0 of 3 have answered · 1 ms",
    "0 of 3 have answered · 1 ms",
    "1 of 3 have answered, 1 alike · 11 ms",
    "1 of 3 have answered, 1 alike · 11 ms",
    "2 of 2 agree · Calypso@kitchen · 19 ms",
  ]);
  assert.equal(turn.content, "17+25=42\nAnswer: 42");
  assert.equal(turn.reason, "stop");
  assert.equal(turn.ballot.final, true);
  assert.deepEqual(
    turn.ballot.candidates.map((one) => one.answer),
    ["42", undefined],
  );
  assert.deepEqual(stillOut(turn.ballot), []);
  assert.deepEqual(stillOut(RECORDED[0].swarm.ballot), ["kitchen (demo)", "study (demo:b × 2)"]);
});

test("an overruled leader is replaced by the winner, and shown as replaced", () => {
  const before = { role: "assistant", content: "Paris" };
  const after = afterEvent(before, {
    choices: [],
    swarm: {
      strategy: "majority",
      asked: 3,
      votes: 3,
      outcome: "consensus",
      confirmed: false,
      winner: "Zeus@x",
      winner_message: { role: "assistant", content: "Rome" },
      candidates: [],
    },
  });
  assert.deepEqual([after.content, after.replaced], ["Rome", "Paris"]);
});

test("one answer is no vote, and says why it is one", () => {
  const single = {
    strategy: "auto",
    outcome: "single",
    asked: 1,
    votes: 1,
    why: "prose",
    winner: "Zeus@kitchen",
    elapsed_ms: 1500,
    final: true,
  };
  assert.equal(isVote(single), false);
  assert.equal(inOneLine(single), "Zeus@kitchen · prose: its answers cannot be counted · 1.5 s");
  const small = [0, 1, 1].map((group, at) => ({ voter: `v${at}@kitchen`, group, weight: 1 }));
  const ended = { final: true, outcome: "plurality", stopped_by: "strongest", elapsed_ms: 12 };
  const decided = { ...ended, asked: 3, votes: 3, winner: "v0@kitchen", candidates: small };
  assert.equal(inOneLine(decided), "1 of 3 agree · the strongest decides · v0@kitchen · 12 ms");
  assert.equal(isVote(null), false);
});

test("calls of tools come in pieces, thoughts beside the words", () => {
  let turn = { role: "assistant", content: "" };
  const piece = (delta) => ({ choices: [{ index: 0, delta, finish_reason: null }] });
  for (const delta of [
    { reasoning_content: "hm " },
    { reasoning_content: "so" },
    { tool_calls: [{ index: 0, function: { name: "look", arguments: "" } }] },
    { tool_calls: [{ index: 0, function: { arguments: '{"a":' } }] },
    { tool_calls: [{ index: 0, function: { arguments: "1}" } }] },
  ])
    turn = afterEvent(turn, piece(delta));
  assert.equal(turn.reasoning, "hm so");
  assert.deepEqual(turn.tool_calls, [{ name: "look", arguments: '{"a":1}' }]);
});

test("a request says only what was chosen", () => {
  assert.deepEqual(Object.keys(bodyOf({ model: "swarm", temperature: null, votes: null, messages: [] })), [
    "model",
    "messages",
    "stream",
    "stream_options",
    "swarm",
  ]);
  const body = bodyOf({ model: "m", temperature: 0, votes: 3, messages: [] });
  assert.deepEqual([body.temperature, body.swarm], [0, { progress: true, votes: 3 }]);
  assert.deepEqual(merged(null, { outcome: "single" }).candidates, []);
});
