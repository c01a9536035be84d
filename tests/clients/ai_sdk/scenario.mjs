// What opencode does through the AI SDK: stream a text, run a tool to the end, fill an object. One JSON line says how.
// Usage: node scenario.mjs BASE_URL

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAICompatible({ name: "swarm", baseURL: process.argv[2], includeUsage: true });
const shared = { model: provider("demo"), temperature: 0, maxOutputTokens: 100, maxRetries: 0 };

const asked = [];
const get_weather = tool({
  description: "Weather of a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    asked.push(city);
    return { temperature: 21, condition: "sunny" };
  },
});
const weather = {
  ...shared,
  prompt: "What is the weather in Paris?",
  tools: { get_weather },
  stopWhen: stepCountIs(3),
};

async function streamedText() {
  const result = streamText({ ...shared, prompt: "What is the capital of France?" });
  const pieces = [];
  for await (const piece of result.textStream) pieces.push(piece);
  return { text: pieces.join(""), whole: await result.text, reason: await result.finishReason, usage: await result.usage };
}

async function streamedTools() {
  const before = asked.length;
  const result = streamText(weather);
  const kinds = new Set();
  for await (const part of result.fullStream) kinds.add(part.type);
  return loop(await result.steps, await result.text, asked.slice(before), [...kinds]);
}

async function wholeTools() {
  const before = asked.length;
  const result = await generateText(weather);
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

console.log(
  JSON.stringify({
    text: await streamedText(),
    streamed: await streamedTools(),
    whole: await wholeTools(),
    refusal: await refusal(),
  }),
);
