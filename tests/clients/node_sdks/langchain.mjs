// LangChain's ChatOpenAI, over Chat and Responses.

import { key, model, tell, unknown, url, written } from "./scenario_support.mjs";
import { ChatOpenAI } from "@langchain/openai";
import { cities, conversations } from "./chains.mjs";

const asked = (name) => written({ ChatOpenAI }, 0, name);
const responding = (name) =>
  new ChatOpenAI({ model: name, apiKey: key, configuration: { baseURL: `${url}/v1` }, useResponsesApi: true });

const apis = {
  chat: await conversations(asked(model), asked(unknown)),
  responses: await conversations(responding(model), responding(unknown)),
};
tell({ apis, cities });
