// @ts-check
/** Reading server-sent events of a fetch: EventSource can send no key. */

/** @typedef {{event: string, id: string, data: string}} ServerEvent */

/** Cuts text into events, however it is split. A comment is one of the kind `comment`. */
export class EventReader {
  constructor() {
    this.rest = "";
  }

  /** @param {string} text @returns {ServerEvent[]} */
  feed(text) {
    this.rest += text;
    const blocks = this.rest.split(/\r?\n\r?\n/);
    this.rest = blocks.pop() ?? "";
    return blocks.map(eventOf).filter((event) => event !== null);
  }
}

/** @param {string} block @returns {ServerEvent | null} */
function eventOf(block) {
  const found = { event: "message", id: "", data: /** @type {string[]} */ ([]) };
  for (const line of block.split(/\r?\n/)) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") found.data.push(value);
    else if (name === "event") found.event = value;
    else if (name === "id") found.id = value;
  }
  if (found.data.length) return { ...found, data: found.data.join("\n") };
  const comment = block.startsWith(":") ? block.slice(1).trim() : "";
  return comment ? { event: "comment", id: "", data: comment } : null;
}

/**
 * The events of a response, as they come. @param {Response} response @param {() => void} [onBytes] called for whatever comes, comments too
 * @returns {AsyncGenerator<ServerEvent>}
 */
export async function* eventsOf(response, onBytes) {
  if (response.body === null) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const events = new EventReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      onBytes?.();
      yield* events.feed(value);
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
