// LangChain's ChatOpenAI, over Chat and Responses.

import { key, model, tell, unknown, url } from "./scenario_support.mjs";
import { ChatOpenAI } from "@langchain/openai";
import { cities, conversations } from "./chains.mjs";

const apis = {};
for (const [api, useResponsesApi] of Object.entries({ chat: false, responses: true })) {
  const chat = (name) =>
    new ChatOpenAI({ model: name, apiKey: key, configuration: { baseURL: `${url}/v1` }, useResponsesApi });
  apis[api] = await conversations(chat(model), chat(unknown));
}
tell({ apis, cities });
