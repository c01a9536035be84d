// The AI SDK 7 with ollama-ai-provider-v2, at Ollama's API.

import { key, model, tell, unknown, url } from "./scenario_support.mjs";
import { createOllama } from "ollama-ai-provider-v2";
import { cities, conversations } from "./conversations.mjs";

const ollama = createOllama({ baseURL: `${url}/api`, headers: { Authorization: `Bearer ${key}` } });
tell({ apis: { ollama: await conversations(ollama(model), ollama(unknown)) }, cities });
