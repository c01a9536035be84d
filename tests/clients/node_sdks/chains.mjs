// What a chat model of LangChain does: alone, with a schema, and in LangChain's own agent.

import { failure, left, tasks } from "./scenario_support.mjs";
import { createAgent, tool } from "langchain";
import { z } from "zod";

export const cities = [];
const getWeather = tool(
  ({ city }) => {
    cities.push(city);
    return "sunny, 21 degrees";
  },
  { name: "get_weather", description: "Weather of a city", schema: z.object({ city: z.string() }) },
);
const City = z.object({ city: z.string(), degrees: z.number() });
const words = (message) => message.text;

// `model` for everything but what `nobody` is asked for. `letGo` is what ends a stream's connection besides its signal.
export async function conversations(model, nobody, letGo = () => {}) {
  const told = { pieces: [] };
  told.text = words(await model.invoke(tasks.text));
  for await (const chunk of await model.stream(tasks.text)) told.pieces.push(words(chunk));

  const agent = createAgent({ model, tools: [getWeather] });
  const asked = { messages: [{ role: "user", content: tasks.tool }] };
  told.tool = words((await agent.invoke(asked)).messages.at(-1));
  told.streamedTool = "";
  for await (const [chunk, { langgraph_node: place }] of await agent.stream(asked, { streamMode: "messages" })) {
    if (place === "model_request") told.streamedTool += words(chunk);
  }

  const describing = model.withStructuredOutput(City);
  told.object = await describing.invoke(tasks.object);
  for await (const object of await describing.stream(tasks.object)) told.streamedObject = object;

  told.refusal = await failure(() => nobody.invoke(tasks.text));
  told.streamedRefusal = await failure(() => nobody.stream(tasks.text));

  const controller = new AbortController();
  const endless = await model.stream(tasks.endless, { signal: controller.signal });
  told.left = [await left(endless, words, () => controller.abort())];
  letGo();
  return told;
}
