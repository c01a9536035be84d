// What a model does through the AI SDK, 6 or 7: a text, a loop with a tool, an object, an unknown model, and being left.

import { failure, left, tasks } from "./scenario_support.mjs";
import { generateObject, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

export const cities = [];
const get_weather = tool({
  description: "Weather of a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    cities.push(city);
    return "sunny, 21 degrees";
  },
});
const schema = z.object({ city: z.string(), degrees: z.number() });
const silent = { onError: () => {} }; // else it prints what the stream tells, too

// `model` for everything but what `nobody` is asked for.
export async function conversations(model, nobody) {
  const told = {};
  const text = { model, prompt: tasks.text };
  told.text = (await generateText(text)).text;
  told.pieces = await collected(streamText(text).textStream);

  const weather = { model, prompt: tasks.tool, tools: { get_weather }, stopWhen: stepCountIs(3) };
  told.tool = (await generateText(weather)).text;
  told.streamedTool = await streamText(weather).text;

  const object = { model, prompt: tasks.object, output: Output.object({ schema }) };
  told.object = (await generateText(object)).output;
  told.streamedObject = await streamText(object).output;
  told.generatedObject = (await generateObject({ model, prompt: tasks.object, schema })).object;

  told.refusal = await failure(() => generateText({ model: nobody, prompt: tasks.text }));
  told.streamedRefusal = await failure(async () => {
    const { fullStream } = streamText({ model: nobody, prompt: tasks.text, ...silent });
    for await (const part of fullStream) if (part.type === "error") throw part.error;
  });

  const controller = new AbortController();
  const endless = streamText({ model, prompt: tasks.endless, abortSignal: controller.signal, ...silent });
  told.left = [await left(endless.fullStream, (part) => part.text, () => controller.abort())];
  return told;
}

async function collected(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return pieces;
}
