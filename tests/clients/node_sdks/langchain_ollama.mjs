// LangChain's ChatOllama, at Ollama's API.

import { key, model, tell, unknown, url, written } from "./scenario_support.mjs";
import { ChatOllama, OllamaEmbeddings } from "@langchain/ollama";
import { cities, conversations } from "./chains.mjs";

const shared = { baseUrl: url, headers: { Authorization: `Bearer ${key}` } };
const chat = (name) => written({ ChatOllama }, 0, name);
const vectors = await new OllamaEmbeddings({ model, ...shared }).embedDocuments(["a", "b"]);
const used = chat(model);
// A signal ends its stream for the reader, but not the connection: that takes the client's own abort().
const apis = { ollama: await conversations(used, chat(unknown), () => used.client.abort()) };
tell({ apis, cities, vectors: vectors.map((each) => each.length) });
