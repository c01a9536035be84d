// Mastra's agents, over Chat.

import { failure, key, left, model, tasks, tell, unknown, url, written } from "./scenario_support.mjs";
import { Agent } from "@mastra/core/agent";
import { createTool } from "@mastra/core/tools";
import { z } from "zod";

const cities = [];
const getWeather = createTool({
  id: "get_weather",
  description: "Weather of a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    cities.push(city);
    return "sunny, 21 degrees";
  },
});
const schema = z.object({ city: z.string(), degrees: z.number() });

async function collected(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return pieces;
}

const plain = written({ Agent });
const place = { id: `swarm/${model}`, url: `${url}/v1`, apiKey: key };
const tools = { get_weather: getWeather };
const reporter = new Agent({ id: "asked", name: "asked", instructions: "Be brief.", model: place, tools });
const nobody = written({ Agent }, 0, unknown);
const structuredOutput = { schema };

const told = { text: (await plain.generate(tasks.text)).text };
told.pieces = await collected((await plain.stream(tasks.text)).textStream);
told.tool = (await reporter.generate(tasks.tool)).text;
told.streamedTool = await (await reporter.stream(tasks.tool)).text;
told.object = (await plain.generate(tasks.object, { structuredOutput })).object;
told.streamedObject = await (await plain.stream(tasks.object, { structuredOutput })).object;
told.refusal = await failure(() => nobody.generate(tasks.text));
told.streamedRefusal = await failure(async () => {
  const { fullStream } = await nobody.stream(tasks.text);
  for await (const part of fullStream) if (part.type === "error") throw part.payload.error;
});
const controller = new AbortController();
const endless = await plain.stream(tasks.endless, { abortSignal: controller.signal });
told.left = [await left(endless.textStream, (piece) => piece, () => controller.abort())];
tell({ apis: { chat: told }, cities });
