// The AI SDK, 6 or 7, with its packages for Chat, Messages and Responses.

import { key, model, tell, unknown, url, written } from "./scenario_support.mjs";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { cities, conversations } from "./conversations.mjs";

const more = { baseURL: `${url}/v1`, apiKey: key };
const made = {
  chat: (name) => written({ createOpenAICompatible }, 0, name),
  messages: createAnthropic(more),
  responses: createOpenAI(more).responses,
};
const apis = {};
for (const [api, named] of Object.entries(made)) apis[api] = await conversations(named(model), named(unknown));
tell({ apis, cities });
