/** A swarm of twenty nodes with two hundred models each, whose figures change all the time. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { close, open, show, withPage } from "./harness.mjs";

const COUNT = 20;
const MODELS = 200;
const MOST_ELEMENTS = 5000; // what is not seen is not drawn: 3900 models would be 25,000
const BATCHES = 8; // of changes, while the long tasks of the page are watched

before(open);
after(close);

/** The node has one model of its own: its list as long as a full disk's. */
async function fillDisk(context) {
  await context.route("**/swarm/v1/models**", async (route) => {
    const response = await route.fetch();
    const told = await response.json();
    const data = Array.from({ length: MODELS }, (_, at) => ({
      ...told.data[0],
      id: `model-${at}:8b`,
      name: `model-${at}`,
      state: "available",
    }));
    await route.fulfill({ response, json: { ...told, data } });
  });
}

/** Names that stand on others, or outside of the picture. */
const unreadable = (page) =>
  page.locator(".topology").evaluate((picture) => {
    const card = picture.parentElement.getBoundingClientRect();
    const all = [...picture.querySelectorAll("g text")].map((one) => ({ name: one.textContent, box: one.getBoundingClientRect() }));
    const on = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom - 4;
    const outside = all.filter(({ box }) => box.left < card.left || box.right > card.right);
    return [...outside, ...all.filter((one) => all.some((other) => other !== one && on(one.box, other.box)))].map((one) => one.name);
  });

/** The longest tasks of the page in milliseconds, and how often the nodes changed, while BATCHES of changes came. */
const watched = (page) =>
  page.evaluate(async (batches) => {
    const tasks = [];
    const observer = new PerformanceObserver((list) => tasks.push(...list.getEntries().map((one) => Math.round(one.duration))));
    observer.observe({ type: "longtask" });
    const { parts } = await import("/page/js/store.js");
    let seen = -1;
    await new Promise((done) => {
      parts.node.subscribe(() => {
        seen += 1;
        if (seen === batches) done();
      });
    });
    observer.disconnect();
    return { tasks, elements: document.querySelectorAll("*").length };
  }, BATCHES);

test("twenty nodes with two hundred models each are readable, and what changes holds nobody up", async (t) => {
  await withPage("", async (page, context) => {
    await fillDisk(context);
    await page.waitForFunction((count) => document.querySelectorAll("article.card").length === count, COUNT);
    await page.waitForFunction((count) => document.querySelectorAll(".topology g.alive").length === count, COUNT);
    await page.getByRole("article").nth(1).getByText("and 195 more").waitFor();
    assert.deepEqual(await unreadable(page), []);
    const overview = await watched(page);
    assert.ok(overview.elements < MOST_ELEMENTS, `${overview.elements} elements`);
    await page.getByRole("article").nth(1).getByText("and 195 more").click();
    await page.getByRole("article").nth(1).getByLabel("Find a model").fill("phi4:5b");
    assert.equal(await page.getByRole("article").nth(1).getByRole("listitem").count(), 1);
    await page.getByLabel("Find a node").fill("machine-07");
    await page.waitForFunction(() => document.querySelectorAll("article.card").length === 1);
    await show(page, "models");
    await page.getByRole("button", { name: "Show more (101 left)" }).waitFor();
    const models = await watched(page);
    assert.ok(models.elements < MOST_ELEMENTS, `${models.elements} elements`);
    await page.getByLabel("Find a model").fill("model-199");
    await page.waitForFunction(() => document.querySelectorAll("tbody tr").length === 1);
    for (const [screen, { tasks, elements }] of Object.entries({ overview, models }))
      t.diagnostic(`${screen}: ${elements} elements; tasks of over 50 ms in ${BATCHES} changes: ${tasks.join(", ") || "none"}`);
  });
});

test("on a phone, too", async () => {
  await withPage(
    "",
    async (page, context) => {
      await fillDisk(context);
      await page.waitForFunction((count) => document.querySelectorAll(".topology g.alive").length === count, COUNT);
      assert.deepEqual(await unreadable(page), []);
      for (const screen of ["overview", "models", "peers"]) {
        await show(page, screen);
        const width = await page.evaluate(() => Math.max(document.scrollingElement.scrollWidth, document.body.scrollWidth));
        assert.ok(width <= 390, `${screen} is ${width} wide`);
      }
    },
    { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true },
  );
});
