// Runs the documentation page's script on a document, with just as much of a browser as it uses, and prints what it does:
// node docs_page.js page.js openapi.json
"use strict";
const { readFileSync } = require("node:fs");
const [script, document_file] = process.argv.slice(2);

class Element {
  constructor(name) {
    Object.assign(this, { name, children: [], attributes: {}, listeners: {}, value: "", own: "" });
  }
  setAttribute(key, value) {
    this.attributes[key] = value;
    if (key === "value") this.value = value;
    if (key === "id") byId[value] = this;
  }
  append(...parts) {
    this.children.push(...parts);
  }
  replaceChildren(...parts) {
    this.children = parts;
  }
  addEventListener(name, listener) {
    this.listeners[name] = listener;
  }
  set textContent(text) {
    this.own = text;
  }
  get textContent() {
    return this.own + this.children.map((part) => (part instanceof Element ? part.textContent : part)).join(" ");
  }
  all(name) {
    const inside = this.children.filter((part) => part instanceof Element).flatMap((part) => part.all(name));
    return this.name === name ? [this, ...inside] : inside;
  }
}

const byId = { about: new Element("p"), key: new Element("input"), operations: new Element("main") };
const sent = [];
let loaded = false; // what is asked first is the document; all else the reader sends
byId.key.value = "sk-a";
globalThis.document = { createElement: (name) => new Element(name), getElementById: (id) => byId[id] || null };
globalThis.location = { hash: "" };
globalThis.fetch = async (path, options) => {
  if (!loaded) {
    loaded = true;
    return { json: async () => JSON.parse(readFileSync(document_file, "utf8")) };
  }
  if (path === "/swarm/v1/page" && !options.method) return { ok: true, json: async () => ({ token: "t" }) };
  sent.push([path, options]);
  return { status: 200, statusText: "OK", body: new Blob(['{"said":"<b>yes</b>"}']).stream() };
};

(async () => {
  (0, eval)(readFileSync(script, "utf8"));
  await new Promise((done) => setTimeout(done, 0));
  const operations = byId.operations.all("details");
  for (const operation of operations) operation.listeners.toggle();
  for (const operation of operations) operation.all("button")[0].listeners.click();
  const outs = operations.map((operation) => operation.all("pre")[0]);
  for (let turn = 0; turn < 1000 && !outs.every((out) => out.textContent.endsWith(" ms")); turn++)
    await new Promise((done) => setTimeout(done, 1));
  const shown = operations.map((operation) => operation.textContent);
  console.log(JSON.stringify({ about: byId.about.textContent, shown, sent, outs: outs.map((out) => out.textContent) }));
})();
