// Genkit with its plugin for servers that are compatible with OpenAI's, over Chat.

import { failure, key, left, model, tasks, tell, unknown, url, written } from "./scenario_support.mjs";
import { compatOaiModelRef, defineCompatOpenAIModel, openAICompatible } from "@genkit-ai/compat-oai";
import { genkit, z } from "genkit";

// Genkit asks for a form only of models that are said to have it; of others it asks for JSON in words.
const supports = { tools: true, systemRole: true, output: ["text", "json"], constrained: "all" };
const served = (client) =>
  [model, unknown].map((name) => {
    const modelRef = compatOaiModelRef({ name, info: { supports }, namespace: "swarm" });
    return defineCompatOpenAIModel({ name, client, modelRef, pluginOptions: { name: "swarm" } });
  });
const plugin = openAICompatible({ name: "swarm", apiKey: key, baseURL: `${url}/v1`, initializer: served });
const ai = genkit({ plugins: [plugin] });
const asked = (prompt, more = {}) => ({ model: `swarm/${model}`, prompt, ...more });
const cities = [];
const getWeather = ai.defineTool(
  {
    name: "get_weather",
    description: "Weather of a city",
    inputSchema: z.object({ city: z.string() }),
    outputSchema: z.string(),
  },
  async ({ city }) => {
    cities.push(city);
    return "sunny, 21 degrees";
  },
);
const output = { schema: z.object({ city: z.string(), degrees: z.number() }) };

async function streamed(request) {
  const { stream, response } = ai.generateStream(request);
  const pieces = [];
  for await (const chunk of stream) pieces.push(chunk.text);
  return { pieces, answer: await response };
}

const plain = written({ genkit, openAICompatible });
const told = { text: (await plain.generate(asked(tasks.text))).text };
told.pieces = (await streamed(asked(tasks.text))).pieces;
told.tool = (await ai.generate(asked(tasks.tool, { tools: [getWeather] }))).text;
told.streamedTool = (await streamed(asked(tasks.tool, { tools: [getWeather] }))).answer.text;
told.object = (await ai.generate(asked(tasks.object, { output }))).output;
told.streamedObject = (await streamed(asked(tasks.object, { output }))).answer.output;
told.refusal = await failure(() => ai.generate(asked(tasks.text, { model: `swarm/${unknown}` })));
told.streamedRefusal = await failure(() => streamed(asked(tasks.text, { model: `swarm/${unknown}` })));
const controller = new AbortController();
const endless = ai.generateStream(asked(tasks.endless, { abortSignal: controller.signal }));
endless.response.catch(() => {});
told.left = [await left(endless.stream, (chunk) => chunk.text, () => controller.abort())];
tell({ apis: { chat: told }, cities });
