// Strands Agents, over Chat and Responses.

import { failure, key, left, model, tasks, tell, unknown, url, written } from "./scenario_support.mjs";
import { Agent, tool } from "@strands-agents/sdk";
import { OpenAIModel } from "@strands-agents/sdk/models/openai";
import { z } from "zod";

const cities = [];
const getWeather = tool({
  name: "get_weather",
  description: "Weather of a city",
  inputSchema: z.object({ city: z.string() }),
  callback: ({ city }) => {
    cities.push(city);
    return "sunny, 21 degrees";
  },
});
const structuredOutputSchema = z.object({ city: z.string(), degrees: z.number() });
const said = (result) => result.lastMessage.content.map((block) => block.text ?? "").join("");

function words(event) {
  const inner = event.type === "modelStreamUpdateEvent" ? event.event : event;
  return inner.type === "modelContentBlockDeltaEvent" ? inner.delta.text : undefined;
}

async function pieces(stream) {
  const told = [];
  for await (const event of stream) told.push(words(event) ?? "");
  return told;
}

async function conversations(api) {
  const agent = (name, more = {}) => {
    const responding = { api, modelId: name, apiKey: key, clientConfig: { baseURL: `${url}/v1` } };
    const place = api === "chat" ? written({ OpenAIModel }, 0, name) : new OpenAIModel(responding);
    return new Agent({ model: place, printer: false, ...more });
  };
  const told = { text: said(await agent(model).invoke(tasks.text)) };
  told.pieces = await pieces(agent(model).stream(tasks.text));
  told.tool = said(await agent(model, { tools: [getWeather] }).invoke(tasks.tool));
  told.streamedTool = (await pieces(agent(model, { tools: [getWeather] }).stream(tasks.tool))).join("");
  told.object = (await agent(model, { structuredOutputSchema }).invoke(tasks.object)).structuredOutput;
  for await (const event of agent(model, { structuredOutputSchema }).stream(tasks.object)) {
    if (event.type === "agentResultEvent") told.streamedObject = event.result.structuredOutput;
  }
  told.refusal = await failure(() => agent(unknown).invoke(tasks.text));
  told.streamedRefusal = await failure(() => pieces(agent(unknown).stream(tasks.text)));
  const leaving = agent(model);
  told.left = [await left(leaving.stream(tasks.endless), words, () => leaving.cancel())];
  return told;
}

tell({ apis: { chat: await conversations("chat"), responses: await conversations("responses") }, cities });
