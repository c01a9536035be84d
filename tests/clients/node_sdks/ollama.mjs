// The `ollama` package at Ollama's API: chat and generate, tools by hand as its documents have it, and what else it calls.

import { failure, left, model, tasks, tell, unknown, url, written } from "./scenario_support.mjs";
import { Ollama } from "ollama";
import { z } from "zod";

const ollama = () => written({ Ollama });
const client = ollama();
const user = (content) => ({ model, messages: [{ role: "user", content }] });
const format = z.toJSONSchema(z.object({ city: z.string(), degrees: z.number() }));

const cities = [];
const get_weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Weather of a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

async function collected(stream, words) {
  const pieces = [];
  for await (const part of stream) pieces.push(words(part));
  return pieces;
}

// `ask` gives the assistant's message for a history.
async function loop(ask) {
  const messages = [{ role: "user", content: tasks.tool }];
  for (;;) {
    const message = await ask({ model, messages, tools: [get_weather] });
    messages.push(message);
    if (!message.tool_calls?.length) return message.content;
    for (const call of message.tool_calls) {
      cities.push(call.function.arguments.city);
      messages.push({ role: "tool", tool_name: call.function.name, content: "sunny, 21 degrees" });
    }
  }
}

async function streamedMessage(request) {
  const message = { role: "assistant", content: "", tool_calls: [] };
  for await (const part of await client.chat({ ...request, stream: true })) {
    message.content += part.message.content;
    message.tool_calls.push(...(part.message.tool_calls ?? []));
  }
  return message;
}

// Leaves one stream by its own abort(), and one by the client's, which ends all that it has.
async function leaving(start, words) {
  const one = ollama();
  const first = await start(one);
  const all = ollama();
  const second = await start(all);
  return [await left(first, words, () => first.abort()), await left(second, words, () => all.abort())];
}

async function chat() {
  const words = (part) => part.message.content;
  const told = { text: words(await client.chat(user(tasks.text))) };
  told.pieces = await collected(await client.chat({ ...user(tasks.text), stream: true }), words);
  told.tool = await loop(async (request) => (await client.chat(request)).message);
  told.streamedTool = await loop(streamedMessage);
  const object = { ...user(tasks.object), format };
  told.object = JSON.parse(words(await client.chat(object)));
  told.streamedObject = JSON.parse((await collected(await client.chat({ ...object, stream: true }), words)).join(""));
  const nobody = { ...user(tasks.text), model: unknown };
  told.refusal = await failure(() => client.chat(nobody));
  told.streamedRefusal = await failure(() => client.chat({ ...nobody, stream: true }));
  told.left = await leaving((one) => one.chat({ ...user(tasks.endless), stream: true }), words);
  return told;
}

const words = (part) => part.response;
const prompt = (text) => ({ model, prompt: text });
const whole = await client.generate(prompt(tasks.text));
const thought = (await client.chat({ ...user(tasks.thought), think: true })).message;
const generated = {
  text: words(whole),
  reason: whole.done_reason,
  pieces: (await collected(await client.generate({ ...prompt(tasks.text), stream: true }), words)).join(""),
  object: JSON.parse(words(await client.generate({ ...prompt(tasks.object), format }))),
  left: (await leaving((one) => one.generate({ ...prompt(tasks.endless), stream: true }), words)).map((each) => each.said),
};
const embedded = (await client.embed({ model, input: ["a", "b"] })).embeddings.map((each) => each.length);
const models = (await client.list()).models.map((each) => each.name);
const running = (await client.ps()).models.map((each) => each.name);
const shown = (await client.show({ model })).capabilities;
const { version } = await client.version();
const refused = async (action) => (await failure(action)).status;
const refusals = {
  create: await refused(() => client.create({ model: "mine", from: model, system: "be brief" })),
  delete: await refused(() => client.delete({ model })),
  withoutKey: await refused(() => new Ollama({ host: url }).chat(user(tasks.text))),
};
const voted = [(await client.chat({ ...user(tasks.text), swarm: { votes: 3 } })).swarm.wanted];
const apis = { ollama: await chat() };
const told = { thought: [thought.thinking, thought.content], generated, embedded, running, shown, version, refusals };
tell({ apis, cities, models, voted, ...told });
