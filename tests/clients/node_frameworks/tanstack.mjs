// TanStack AI with its adapter for servers that are compatible with OpenAI's, over Chat and Responses.

import { failure, key, left, model, tasks, tell, unknown, url, written } from "./scenario_support.mjs";
import { chat, toolDefinition } from "@tanstack/ai";
import { openaiCompatible } from "@tanstack/ai-openai/compatible";
import { z } from "zod";

const cities = [];
const getWeather = toolDefinition({
  name: "get_weather",
  description: "Weather of a city",
  inputSchema: z.object({ city: z.string() }),
  outputSchema: z.string(),
}).server(async ({ city }) => {
  cities.push(city);
  return "sunny, 21 degrees";
});
const outputSchema = z.object({ city: z.string(), degrees: z.number() });
const words = (event) => (event.type === "TEXT_MESSAGE_CONTENT" ? event.delta : undefined);

async function pieces(stream) {
  const told = [];
  for await (const event of stream) {
    if (event.type === "RUN_ERROR") throw Object.assign(new Error(event.message), event);
    told.push(words(event) ?? "");
  }
  return told;
}

async function conversations(responding) {
  const more = { name: "swarm", baseURL: `${url}/v1`, apiKey: key, models: [model, unknown], api: "responses" };
  const place = (name) => (responding ? openaiCompatible(more)(name) : written({ openaiCompatible }, 0, name));
  const asked = (content, more = {}) => ({ adapter: place(model), messages: [{ role: "user", content }], ...more });
  const told = { text: await chat(asked(tasks.text, { stream: false })) };
  told.pieces = await pieces(chat(asked(tasks.text)));
  told.tool = await chat(asked(tasks.tool, { stream: false, tools: [getWeather] }));
  told.streamedTool = (await pieces(chat(asked(tasks.tool, { tools: [getWeather] })))).join("");
  told.object = await chat(asked(tasks.object, { outputSchema }));
  for await (const event of chat(asked(tasks.object, { outputSchema, stream: true }))) {
    if (event.name === "structured-output.complete") told.streamedObject = event.value.object;
  }
  const nobody = (more) => ({ ...asked(tasks.text, more), adapter: place(unknown) });
  told.refusal = await failure(() => chat(nobody({ stream: false })));
  told.streamedRefusal = await failure(() => pieces(chat(nobody())));
  const abortController = new AbortController();
  told.left = [await left(chat(asked(tasks.endless, { abortController })), words, () => abortController.abort())];
  return told;
}

tell({ apis: { chat: await conversations(false), responses: await conversations(true) }, cities });
