// What the scenarios of clients share. Import it first: it counts every request of the process from then on.
// Usage: node SCENARIO.mjs '{"url": ..., "key": ..., "model": ..., "unknown": ..., "endless": ..., "tasks": {...}, "settings": {...}}'

import { requests } from "./requests.mjs";

const say = console.log;
console.log = console.info = console.warn = console.dir = console.error; // stdout is for what the scenario tells

// `endless`: what the model says to tasks.endless before it says nothing more.
export const { url, key, model, unknown, endless, tasks, settings } = JSON.parse(process.argv[2]);

// What a line of the client's settings in clients.toml makes, as users are told to write it, for the model `name`.
// `names` are those that the line uses.
export function written(names, line = 0, name = model) {
  const expression = settings[name][line].replace(/^const \w+ = /, "");
  return new Function(...Object.keys(names), `return ${expression}`)(...Object.values(names));
}

// What `action` throws: its class, those above it, what it and the answer's body say, and how many requests it took.
export async function failure(action) {
  const before = requests.length;
  try {
    await action();
    return null;
  } catch (error) {
    const kinds = [];
    for (let kind = Object.getPrototypeOf(error); kind && kind !== Object.prototype; kind = Object.getPrototypeOf(kind)) {
      kinds.push(kind.constructor.name);
    }
    const status = error.status ?? error.status_code ?? error.statusCode ?? null;
    const told = { kinds, status, message: error.message, body: error.responseBody ?? null };
    return { ...told, requests: requests.length - before };
  }
}

// What `action` gives, and how many requests it took: a node without a free slot is asked again when it says.
export async function counted(action) {
  const before = requests.length;
  const given = await action();
  return [given, requests.length - before];
}

// Reads `stream` until the model has said all that it will ever say, then calls `leave`, and reads on to the end.
// `words` gives the text of an event, undefined for others.
export async function left(stream, words, leave) {
  let said = "";
  const thrown = await failure(async () => {
    for await (const event of stream) {
      const before = said;
      said += words(event) ?? "";
      if (said === endless && before !== said) leave();
    }
  });
  return { said, kinds: thrown?.kinds ?? null };
}

// One line on stdout, with every address that was asked; then the process lives on until its stdin ends, so that what
// it left in mid-stream is left by the client, not by the end of its process.
export function tell(told) {
  say(JSON.stringify({ ...told, requests }));
  process.stdin.resume();
  process.stdin.on("end", () => process.exit(0));
}
