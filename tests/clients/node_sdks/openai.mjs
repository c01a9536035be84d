// OpenAI's SDK for Node, over Chat and Responses, with its own helpers: runTools, Zod formats, streams that are left.

import { counted, failure, left, model, tasks, tell, unknown, written } from "./scenario_support.mjs";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = written({ OpenAI });
const user = (content) => ({ model, messages: [{ role: "user", content }] });
const input = (content) => ({ model, input: content });
const City = z.object({ city: z.string(), degrees: z.number() });
const Asked = z.object({ city: z.string() });

const cities = [];
const getWeather = ({ city }) => {
  cities.push(city);
  return "sunny, 21 degrees";
};
const about = { name: "get_weather", description: "Weather of a city", parameters: Asked };

async function chat() {
  const told = { pieces: [] };
  const whole = await client.chat.completions.create(user(tasks.text));
  told.text = whole.choices[0].message.content;
  told.usage = whole.usage;

  const stream = await client.chat.completions.create({ ...user(tasks.text), stream: true });
  for await (const chunk of stream) told.pieces.push(chunk.choices[0]?.delta.content ?? "");
  const helped = client.chat.completions.stream(user(tasks.text));
  told.helped = await helped.finalContent();

  const tools = [zodFunction({ ...about, function: getWeather })];
  told.tool = await client.chat.completions.runTools({ ...user(tasks.tool), tools }).finalContent();
  const streamed = client.chat.completions.runTools({ ...user(tasks.tool), tools, stream: true });
  told.streamedTool = await streamed.finalContent();

  const format = { ...user(tasks.object), response_format: zodResponseFormat(City, "city") };
  told.object = (await client.chat.completions.parse(format)).choices[0].message.parsed;
  const parsed = await client.chat.completions.stream(format).finalChatCompletion();
  told.streamedObject = parsed.choices[0].message.parsed;

  const nobody = { ...user(tasks.text), model: unknown };
  told.refusal = await failure(() => client.chat.completions.create(nobody));
  told.streamedRefusal = await failure(() => client.chat.completions.create({ ...nobody, stream: true }));

  const raw = await client.chat.completions.create({ ...user(tasks.endless), stream: true });
  told.left = [await left(raw, (chunk) => chunk.choices[0]?.delta.content, () => raw.controller.abort())];
  const runner = client.chat.completions.stream(user(tasks.endless));
  told.left.push(await left(runner, (chunk) => chunk.choices[0]?.delta.content, () => runner.abort()));
  return told;
}

async function responses() {
  const told = { pieces: [] };
  const whole = await client.responses.create(input(tasks.text));
  told.text = whole.output_text;
  told.usage = whole.usage;

  const stream = await client.responses.create({ ...input(tasks.text), stream: true });
  for await (const event of stream) if (event.type === "response.output_text.delta") told.pieces.push(event.delta);
  told.helped = (await client.responses.stream(input(tasks.text)).finalResponse()).output_text;

  const tools = [zodResponsesFunction(about)];
  told.tool = await loop((history) => client.responses.parse({ ...history, tools }));
  told.streamedTool = await loop((history) => client.responses.stream({ ...history, tools }).finalResponse());

  const format = { ...input(tasks.object), text: { format: zodTextFormat(City, "city") } };
  told.object = (await client.responses.parse(format)).output_parsed;
  told.streamedObject = (await client.responses.stream(format).finalResponse()).output_parsed;

  const nobody = { ...input(tasks.text), model: unknown };
  told.refusal = await failure(() => client.responses.create(nobody));
  told.streamedRefusal = await failure(() => client.responses.create({ ...nobody, stream: true }));

  const words = (event) => (event.type === "response.output_text.delta" ? event.delta : undefined);
  const raw = await client.responses.create({ ...input(tasks.endless), stream: true });
  told.left = [await left(raw, words, () => raw.controller.abort())];
  const runner = client.responses.stream(input(tasks.endless));
  told.left.push(await left(runner, words, () => runner.abort()));
  return told;
}

// As OpenAI's documents show it: the answer's items and the tool's output go back, until there are no more calls.
async function loop(ask) {
  let items = [{ role: "user", content: tasks.tool }];
  for (;;) {
    const answer = await ask(input(items));
    const calls = answer.output.filter((item) => item.type === "function_call");
    if (calls.length === 0) return answer.output_text;
    const results = calls.map((call) => {
      const output = getWeather(call.parsed_arguments);
      return { type: "function_call_output", call_id: call.call_id, output };
    });
    items = [...items, ...answer.output, ...results];
  }
}

const models = [];
for await (const each of client.models.list()) models.push(each.id);
const { data } = await client.embeddings.create({ model, input: ["a", "b"] });
const vectors = data.map((each) => each.embedding.length);
const swarm = { votes: 3 };
const voted = [
  (await client.chat.completions.create({ ...user(tasks.text), swarm })).swarm.wanted,
  (await client.responses.create({ ...input(tasks.text), swarm })).swarm.wanted,
];
const answer = () => client.chat.completions.create(user(tasks.busy));
const busy = await counted(async () => (await answer()).choices[0].message.content);
tell({ apis: { chat: await chat(), responses: await responses() }, cities, models, vectors, voted, busy });
