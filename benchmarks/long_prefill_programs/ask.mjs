// One question by an SDK with its own defaults. Prints one JSON line: {"text"} or {"error"}.
// node ask.mjs openai|openai-responses|anthropic|ollama|ai-sdk stream|whole URL FOLDER_OF_PACKAGES

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [sdk, how, url, folder] = process.argv.slice(2);
const streams = how === "stream";
const messages = [{ role: "user", content: "What is the capital of France?" }];
const model = "swarm";
const packages = createRequire(`${folder}/`);
const load = async (name) => import(pathToFileURL(packages.resolve(name)).href);

const ask = {
  async openai() {
    const { default: OpenAI } = await load("openai");
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
    const answer = await client.chat.completions.create({ model, messages, stream: streams });
    if (!streams) return answer.choices[0].message.content;
    let text = "";
    for await (const chunk of answer) text += chunk.choices[0]?.delta?.content ?? "";
    return text;
  },
  async "openai-responses"() {
    const { default: OpenAI } = await load("openai");
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
    const answer = await client.responses.create({ model, input: messages, stream: streams });
    if (!streams) return answer.output_text;
    let text = "";
    for await (const event of answer) if (event.type === "response.output_text.delta") text += event.delta;
    return text;
  },
  async anthropic() {
    const { default: Anthropic } = await load("@anthropic-ai/sdk");
    const client = new Anthropic({ baseURL: url, apiKey: "none" });
    const asked = { model, messages, max_tokens: 1024 };
    const answer = streams ? await client.messages.stream(asked).finalMessage() : await client.messages.create(asked);
    return answer.content.map((block) => block.text ?? "").join("");
  },
  async ollama() {
    const { Ollama } = await load("ollama");
    const client = new Ollama({ host: url });
    const answer = await client.chat({ model, messages, stream: streams });
    if (!streams) return answer.message.content;
    let text = "";
    for await (const part of answer) text += part.message.content;
    return text;
  },
  async "ai-sdk"() {
    const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
    const { generateText, streamText } = await load("ai");
    const chosen = createOpenAICompatible({ name: "swarm", baseURL: `${url}/v1`, apiKey: "none" })(model);
    if (!streams) return (await generateText({ model: chosen, messages })).text;
    let failure;
    const result = streamText({ model: chosen, messages, onError: ({ error }) => (failure = error) });
    let text = "";
    for await (const piece of result.textStream) text += piece;
    if (failure) throw failure;
    return text;
  },
};

try {
  console.log(JSON.stringify({ text: await ask[sdk]() }));
} catch (error) {
  const cause = error.cause ? ` (${error.cause.code ?? error.cause.name}: ${error.cause.message})` : "";
  console.log(JSON.stringify({ error: `${error.name}: ${error.message}${cause}` }));
}
