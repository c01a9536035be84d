// The AI SDK, 6 or 7, with its packages for Chat, Messages and Responses.

import { key, model, tasks, tell, unknown, url, written } from "./scenario_support.mjs";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText } from "ai";
import { cities, conversations } from "./conversations.mjs";

const more = { baseURL: `${url}/v1`, apiKey: key };
const made = {
  chat: (name) => written({ createOpenAICompatible }, 0, name),
  messages: createAnthropic(more),
  responses: createOpenAI(more).responses,
};
const apis = {};
for (const [api, named] of Object.entries(made)) apis[api] = await conversations(named(model), named(unknown));
// The provider's name, then fields for the body.
const providerOptions = { swarm: { swarm: { votes: 3 } } };
const include = { responseBody: true }; // else 7 keeps none
const answer = await generateText({ model: made.chat(model), prompt: tasks.text, providerOptions, include });
tell({ apis, cities, voted: [answer.response.body.swarm.wanted] });
