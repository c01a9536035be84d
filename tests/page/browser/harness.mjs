/** A page in a real browser, and what every page must keep: nothing from elsewhere, no error on its console. */
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

/** The nodes that the test was given: [{name, url, pid, link}]. */
export const NODES = JSON.parse(process.env.SWARM_PAGE_NODES);
/** One more, alone, that wants a key: {..., keys: {anna, ben}}. */
export const KEYED = JSON.parse(process.env.SWARM_PAGE_KEYED);
export const SCREENS = ["overview", "chat", "votes", "models", "requests", "requests/logs", "requests/usage", "peers", "performance"];
export const PATIENCE_MS = 30_000; // what takes a moment alone takes longer beside other tests on two cores

const OTHERS = /ERR_NETWORK_CHANGED/; // tests beside these make network interfaces, at which Chromium drops its connections

let browser;

/** Begin and end with the file's tests. */
export async function open() {
  const root = process.getuid?.() === 0;
  browser = await chromium.launch({ executablePath: process.env.SWARM_CHROMIUM, args: root ? ["--no-sandbox"] : [] });
}

export async function close() {
  await browser.close();
}

/**
 * Run `steps` with a page of a node. At its end: every request stayed with that node, and nothing failed that was not `forgiven`, an
 * expression for what the browser itself says of a node that a test ends.
 */
export async function withPage(path, steps, { node = NODES[0], forgiven = null, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  const elsewhere = [];
  const said = [];
  await context.route("**/*", (route) => {
    const { origin, protocol } = new URL(route.request().url());
    if (origin === node.url || protocol === "data:" || protocol === "blob:") return route.fallback();
    elsewhere.push(route.request().url());
    return route.abort();
  });
  const page = await context.newPage();
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) said.push(message.text());
  });
  page.on("pageerror", (error) => said.push(String(error)));
  try {
    await page.goto(`${node.url}/${path}`);
    await steps(page, context);
  } finally {
    await context.unrouteAll({ behavior: "ignoreErrors" }); // what is on its way when the steps end is nobody's
    await context.close();
  }
  assert.deepEqual(elsewhere, [], "every request stays with the node");
  assert.deepEqual(
    said.filter((text) => !forgiven?.test(text) && !OTHERS.test(text)),
    [],
    "the console has no errors",
  );
}

/** Go to a screen, and wait until it is the one that is shown, with all that it asks for. */
export async function show(page, screen) {
  await page.evaluate((name) => {
    location.hash = `#/${name}`;
  }, screen);
  const [name] = screen.split("/");
  await page.locator(`header nav a[href="#/${name}"][aria-current="page"]`).waitFor();
  if (screen !== name) await page.locator(`.tabs a[href="#/${screen}"][aria-current="page"]`).waitFor();
  await page.locator('main[aria-busy="false"] > :nth-child(2)').waitFor();
  await page.waitForFunction(() => document.querySelector(".spinner") === null);
}

/** Ask in the chat, and wait for the answer that is the `count`th there. */
export async function askFor(page, question, count = 1) {
  await page.getByLabel("Message", { exact: true }).fill(question);
  await page.getByRole("button", { name: "Send" }).click();
  await page
    .getByRole("button", { name: "Answer again" })
    .nth(count - 1)
    .waitFor();
}

/** Give the key that the page asks for. */
export async function giveKey(page, key) {
  await page.getByRole("textbox", { name: "API key" }).fill(key);
  await page.getByRole("button", { name: "Use it" }).click();
  await page.getByRole("dialog").waitFor({ state: "detached" });
}
