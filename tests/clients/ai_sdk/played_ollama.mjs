// The AI SDK 7 with ollama-ai-provider-v2, at Ollama's API.

import { model, tell, unknown, written } from "./scenario_support.mjs";
import { createOllama } from "ollama-ai-provider-v2";
import { cities, conversations } from "./conversations.mjs";

const ollama = (name) => written({ createOllama }, 0, name);
tell({ apis: { ollama: await conversations(ollama(model), ollama(unknown)) }, cities });
