// OpenAI's Agents SDK for Node, over Chat and Responses, with tracing off: nothing but the node is asked.

import { failure, key, left, model, tasks, tell, unknown, url, written } from "./scenario_support.mjs";
import { Agent, OpenAIProvider, Runner, tool } from "@openai/agents";
import { z } from "zod";

const cities = [];
const getWeather = tool({
  name: "get_weather",
  description: "Weather of a city",
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    cities.push(city);
    return "sunny, 21 degrees";
  },
});
const agent = written({ Agent }, 1);
const reporter = new Agent({ name: "reporter", model, tools: [getWeather] });
const describer = new Agent({ name: "describer", model, outputType: z.object({ city: z.string(), degrees: z.number() }) });
const stranger = written({ Agent }, 1, unknown);

async function conversations(useResponses) {
  const modelProvider = new OpenAIProvider({ baseURL: `${url}/v1`, apiKey: key, useResponses });
  const runner = useResponses
    ? written({ Runner, OpenAIProvider })
    : new Runner({ modelProvider, tracingDisabled: true });
  const streamed = async (who, task) => {
    const result = await runner.run(who, task, { stream: true });
    const pieces = [];
    for await (const piece of result.toTextStream()) pieces.push(piece);
    await result.completed;
    return { pieces, output: result.finalOutput };
  };
  const told = { text: (await runner.run(agent, tasks.text)).finalOutput };
  told.pieces = (await streamed(agent, tasks.text)).pieces;
  told.tool = (await runner.run(reporter, tasks.tool)).finalOutput;
  told.streamedTool = (await streamed(reporter, tasks.tool)).output;
  told.object = (await runner.run(describer, tasks.object)).finalOutput;
  told.streamedObject = (await streamed(describer, tasks.object)).output;
  told.refusal = await failure(() => runner.run(stranger, tasks.text));
  told.streamedRefusal = await failure(() => streamed(stranger, tasks.text));

  const controller = new AbortController();
  const endless = await runner.run(agent, tasks.endless, { stream: true, signal: controller.signal });
  told.left = [await left(endless.toTextStream(), (piece) => piece, () => controller.abort())];
  return told;
}

tell({ apis: { chat: await conversations(false), responses: await conversations(true) }, cities });
