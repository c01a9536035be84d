// The AI SDK, 6 or 7, with its packages for Chat, Messages and Responses.

import { key, model, tell, unknown, url } from "./scenario_support.mjs";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { cities, conversations } from "./conversations.mjs";

const baseURL = `${url}/v1`;
const chat = createOpenAICompatible({ name: "swarm", baseURL, apiKey: key, supportsStructuredOutputs: true });
const messages = createAnthropic({ baseURL, apiKey: key });
const { responses } = createOpenAI({ baseURL, apiKey: key });

const apis = {};
for (const [api, made] of Object.entries({ chat, messages, responses })) {
  apis[api] = await conversations(made(model), made(unknown));
}
tell({ apis, cities });
