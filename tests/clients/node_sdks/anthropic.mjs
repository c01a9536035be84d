// Anthropic's SDK for Node: streams, the tool runner, parsed answers, streams that are left.

import { counted, failure, left, model, tasks, tell, unknown, written } from "./scenario_support.mjs";
import Anthropic from "@anthropic-ai/sdk";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";

const client = written({ Anthropic });
const user = (content) => ({ model, max_tokens: 1000, messages: [{ role: "user", content }] });
const words = (event) => (event.type === "content_block_delta" ? event.delta.text : undefined);

const cities = [];
const tools = [
  betaZodTool({
    name: "get_weather",
    description: "Weather of a city",
    inputSchema: z.object({ city: z.string() }),
    run: ({ city }) => {
      cities.push(city);
      return "sunny, 21 degrees";
    },
  }),
];
const told = { pieces: [] };

const whole = await client.messages.create(user(tasks.text));
told.text = whole.content.map((block) => block.text).join("");
told.usage = whole.usage;

const stream = client.messages.stream(user(tasks.text));
stream.on("text", (piece) => told.pieces.push(piece));
told.helped = await stream.finalText();

const last = await client.beta.messages.toolRunner({ ...user(tasks.tool), tools });
told.tool = last.content.map((block) => block.text).join("");
told.streamedTool = "";
for await (const turn of client.beta.messages.toolRunner({ ...user(tasks.tool), tools, stream: true })) {
  const message = await turn.finalMessage();
  told.streamedTool = message.content.map((block) => block.text).join("");
}

const format = zodOutputFormat(z.object({ city: z.string(), degrees: z.number() }));
const object = { ...user(tasks.object), output_config: { format } };
told.object = (await client.messages.parse(object)).parsed_output;
told.streamedObject = (await client.messages.stream(object).finalMessage()).parsed_output;

const nobody = { ...user(tasks.text), model: unknown };
told.refusal = await failure(() => client.messages.create(nobody));
told.streamedRefusal = await failure(() => client.messages.stream(nobody).finalText());

const tokens = (await client.messages.countTokens({ model, messages: user(tasks.text).messages })).input_tokens;
const models = [];
for await (const each of client.models.list()) models.push(each.id);

const raw = await client.messages.create({ ...user(tasks.endless), stream: true });
told.left = [await left(raw, words, () => raw.controller.abort())];
const helper = client.messages.stream(user(tasks.endless));
told.left.push(await left(helper, words, () => helper.abort()));
const thread = client.beta.messages.thread({ ...user(tasks.text), unsupportedRequestBehavior: "continue_unthreaded" });
const turns = [await thread.send(), await thread.send({ role: "user", content: tasks.thought })];
const threaded = turns.map((turn) => turn.content.at(-1).text);
const voted = [(await client.messages.create({ ...user(tasks.text), swarm: { votes: 3 } })).swarm.wanted];
const busy = await counted(async () => (await client.messages.create(user(tasks.busy))).content[0].text);
tell({ apis: { messages: told }, cities, models, tokens, threaded, voted, busy });
