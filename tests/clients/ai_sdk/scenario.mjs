// What opencode does through the AI SDK: stream a text, run a tool to the end, fill an object; over Chat, Messages and
// Responses, each with its own package. One JSON line says how.
// Usage: node scenario.mjs BASE_URL

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = process.argv[2];
const provider = createOpenAICompatible({ name: "swarm", baseURL, includeUsage: true });
const apis = {
  chat: provider("demo"),
  messages: createAnthropic({ baseURL, apiKey: "any" })("demo"),
  responses: createOpenAI({ baseURL, apiKey: "any" }).responses("demo"),
};
const shared = { temperature: 0, maxOutputTokens: 100, maxRetries: 0 };

const asked = [];
const get_weather = tool({
  description: "Weather of a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    asked.push(city);
    return { temperature: 21, condition: "sunny" };
  },
});
const weather = (model) => ({
  ...shared,
  model,
  prompt: "What is the weather in Paris?",
  tools: { get_weather },
  stopWhen: stepCountIs(3),
});

async function streamedText(model) {
  const result = streamText({ ...shared, model, prompt: "What is the capital of France?" });
  const pieces = [];
  for await (const piece of result.textStream) pieces.push(piece);
  return { text: pieces.join(""), whole: await result.text, reason: await result.finishReason, usage: await result.usage };
}

async function streamedTools(model) {
  const before = asked.length;
  const result = streamText(weather(model));
  const kinds = new Set();
  for await (const part of result.fullStream) kinds.add(part.type);
  return loop(await result.steps, await result.text, asked.slice(before), [...kinds]);
}

async function wholeTools(model) {
  const before = asked.length;
  const result = await generateText(weather(model));
  return loop(result.steps, result.text, asked.slice(before), []);
}

function loop(steps, text, cities, kinds) {
  return { reasons: steps.map((step) => step.finishReason), cities, text, kinds };
}

async function refusal() {
  try {
    await generateText({ ...shared, model: provider("no-such-model"), prompt: "hello" });
    return null;
  } catch (error) {
    return { status: error.statusCode, message: error.message, retryable: error.isRetryable };
  }
}

const told = { refusal: await refusal() };
for (const [api, model] of Object.entries(apis)) {
  told[api] = {
    text: await streamedText(model),
    streamed: await streamedTools(model),
    whole: await wholeTools(model),
  };
}
console.log(JSON.stringify(told));
