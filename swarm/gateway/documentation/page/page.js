// Shows /openapi.json and sends what its reader writes to this node. Everything is put in as text, nothing as HTML.
"use strict";

const SHOWN_CHARS = 200000; // of an answer: a browser struggles with more in one element

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function resolve(api, schema) {
  if (!schema || !schema.$ref) return schema || {};
  return api.components.schemas[schema.$ref.split("/").pop()] || {};
}

function typeOf(schema) {
  if (!schema || schema === true) return "any";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf || schema.oneOf) return (schema.anyOf || schema.oneOf).map(typeOf).join(" | ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return typeOf(schema.items) + "[]";
  return (schema.type || "any") + bounds(schema);
}

function bounds(schema) {
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const high = schema.maximum ?? schema.exclusiveMaximum;
  return low === undefined && high === undefined ? "" : ` ${low ?? ""}..${high ?? ""}`;
}

// One table for the schema, and one for each that it refers to.
function tables(api, schema, seen = new Set()) {
  const made = [];
  const queue = [schema];
  while (queue.length) {
    const next = queue.shift();
    const name = next.$ref ? next.$ref.split("/").pop() : next.title || "";
    if (seen.has(name)) continue;
    seen.add(name);
    const resolved = resolve(api, next);
    if (resolved.properties) made.push(element("h3", {}, name), table(resolved));
    queue.push(...references(resolved));
  }
  return made;
}

function references(value) {
  if (!value || typeof value !== "object") return [];
  if (typeof value.$ref === "string") return [value];
  return Object.values(value).flatMap(references);
}

function table(schema) {
  const required = new Set(schema.required || []);
  const rows = Object.entries(schema.properties).map(([name, property]) =>
    element("tr", {}, element("td", {}, name + (required.has(name) ? " *" : "")), element("td", {}, typeOf(property))),
  );
  return element("table", {}, ...rows);
}

function json(content) {
  return content && content["application/json"];
}

function responses(api, operation) {
  const rows = Object.entries(operation.responses).map(([status, response]) => {
    const kinds = Object.entries(response.content || {}).map(([media, { schema }]) =>
      media === "application/json" ? typeOf(schema) : media,
    );
    return element(
      "tr", {}, element("td", {}, status), element("td", {}, kinds.join(", ")), element("td", {}, response.description),
    );
  });
  return element("table", {}, ...rows);
}

const MANAGED = /^\/swarm\/|^(\/v1)?\/models\/(load|unload|pin)$/;

// What a page of this node sends with whatever changes something; null for who may change nothing.
async function pageToken(headers) {
  const response = await fetch("/swarm/v1/page", { headers, credentials: "omit" });
  return response.ok ? (await response.json()).token : null;
}

async function send(method, path, body, out) {
  out.textContent = "...";
  const key = document.getElementById("key").value.trim();
  const headers = {};
  if (key) headers["Authorization"] = `Bearer ${key}`;
  if (body !== null) headers["Content-Type"] = "application/json";
  const began = performance.now();
  try {
    const token = method === "post" && MANAGED.test(path) ? await pageToken(headers) : null;
    if (token) headers["X-Swarm-Page"] = token;
    const response = await fetch(path, { method: method.toUpperCase(), headers, body, credentials: "omit" });
    const head = `${response.status} ${response.statusText}\n\n`;
    let text = "";
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let step = await reader.read(); !step.done; step = await reader.read()) {
      text = (text + step.value).slice(0, SHOWN_CHARS);
      out.textContent = head + text;
    }
    out.textContent = `${head}${pretty(text)}\n\n${Math.round(performance.now() - began)} ms`;
  } catch (error) {
    out.textContent = String(error);
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function trial(method, path, operation) {
  const out = element("pre", { hidden: "" });
  const inputs = (operation.parameters || []).map((parameter) => {
    const input = element("input", { name: parameter.name, placeholder: parameter.name, value: "swarm" });
    return { name: parameter.name, input };
  });
  const content = operation.requestBody && json(operation.requestBody.content);
  const area = content && element("textarea", { spellcheck: "false", "aria-label": "body" });
  if (area) area.value = JSON.stringify(content.example || {}, null, 2);
  const button = element("button", { type: "button" }, "Send");
  button.addEventListener("click", () => {
    out.hidden = false;
    let target = path;
    for (const { name, input } of inputs) target = target.replace(`{${name}}`, encodeURIComponent(input.value));
    send(method, target, area ? area.value : null, out);
  });
  return [element("h3", {}, "Try it"), ...inputs.map(({ input }) => input), ...(area ? [area] : []), button, out];
}

function section(api, method, path, operation) {
  const made = element("details", { class: "operation", id: operation.operationId });
  made.append(
    element(
      "summary", {}, element("span", { class: "method" }, method), " ", element("code", {}, path),
      element("span", { class: "summary" }, operation.summary),
    ),
  );
  // Filled when it is opened first.
  made.addEventListener("toggle", () => {
    if (made.children.length > 1) return;
    made.append(...trial(method, path, operation));
    const body = operation.requestBody && json(operation.requestBody.content);
    if (body) made.append(element("h3", {}, "Body (* required)"), ...tables(api, body.schema));
    made.append(element("h3", {}, "Answers"), responses(api, operation));
    const answer = json(operation.responses["200"].content);
    if (answer) made.append(...tables(api, answer.schema));
  });
  return made;
}

function show(api) {
  document.getElementById("about").textContent = `Version ${api.info.version}. ${api.info.description}`;
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags[0];
      if (!groups.has(tag)) groups.set(tag, [element("h2", {}, tag)]);
      groups.get(tag).push(section(api, method, path, operation));
    }
  }
  document.getElementById("operations").replaceChildren(...[...groups.values()].flat());
  const wanted = document.getElementById(location.hash.slice(1));
  if (wanted) wanted.open = true;
}

fetch("/openapi.json", { credentials: "omit" })
  .then((response) => response.json())
  .then(show)
  .catch((error) => document.getElementById("operations").replaceChildren(String(error)));
