import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { askFor, close, giveKey, KEYED, NODES, open, SCREENS, show, withPage } from "./harness.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const GONE = /ERR_(CONNECTION|INCOMPLETE|EMPTY|NETWORK)|Failed to load resource/;

before(open);
after(close);

test("the overview shows who sees whom, and a card for each node", async () => {
  await withPage("", async (page) => {
    for (const { name } of NODES) await page.getByRole("article", { name }).getByText("alive").waitFor();
    assert.equal(await page.locator(".topology g").count(), NODES.length);
    await page.waitForFunction(
      (count) => document.querySelectorAll(".topology line.alive").length === count,
      (NODES.length * (NODES.length - 1)) / 2,
    );
    await page.getByRole("article", { name: NODES[1].name }).getByText("tokens/s").waitFor();
    await page.getByText("open: any node of this network may join").waitFor();
  });
});

test("a question is put to the vote beside its answer, which can be asked again, edited and comes back after a reload", async () => {
  await withPage("#/chat", async (page) => {
    await askFor(page, "What is 17 + 25?");
    await page.locator(".turn.assistant .markdown").getByText("42").first().waitFor();
    const vote = page.locator(".ballot .summary").first();
    assert.match(await vote.innerText(), /consensus\s+\d of \d agree/);
    await vote.click();
    await page.locator(".groups li.leads strong").getByText("42").waitFor();
    assert.ok((await page.locator(".voters li").count()) >= 2);
    await page.getByRole("button", { name: "Answer again" }).click();
    await page.getByRole("button", { name: "Answer again" }).waitFor();
    await page.getByRole("button", { name: "Edit" }).click();
    await page.getByLabel("Edit").fill("What is 3 + 4?");
    await page.getByRole("button", { name: "Ask this" }).click();
    await page.locator(".turn.assistant .markdown").getByText("7").first().waitFor();
    assert.equal(await page.locator(".turn").count(), 2, "what came after an edited question goes");
    await page.getByRole("button", { name: "Answer again" }).waitFor();
    await page.getByLabel("Message", { exact: true }).fill("half typed");
    await page.reload();
    await page.locator(".turn.assistant .markdown").getByText("7").first().waitFor();
    assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "half typed");
  });
});

test("two tabs lose nothing of each other's conversations, and full storage loses nothing that was typed", async () => {
  const dot = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
  const turns = (text, ...images) => [
    { role: "user", content: text, images },
    { role: "assistant", content: "Seen." },
  ];
  const earlier = ["Earlier", "Another"].map((title, at) => {
    return { id: title, title, model: "swarm", system: "", temperature: null, votes: null, turns: turns(title, dot), changed: at };
  });
  await withPage("#/chat", async (one, context) => {
    await one.evaluate((text) => localStorage.setItem("swarm.conversations", text), JSON.stringify(earlier));
    await one.reload();
    const picked = (page, name) => page.locator(".conversations").getByRole("button", { name, exact: true });
    await picked(one, "Earlier").click();
    await one.getByRole("img", { name: "Picture 1" }).waitFor();
    await one.waitForFunction(() => localStorage.getItem("swarm.conversations") === null); // it is taken over
    const other = await context.newPage();
    await other.goto(one.url());
    await picked(other, "Another").click();
    await other.getByRole("img", { name: "Picture 1" }).waitFor();
    for (const [page, question] of [
      [other, "What is 2 + 2?"],
      [one, "What is 1 + 1?"],
    ]) {
      await page.bringToFront(); // the browser draws no others
      await page.getByRole("button", { name: "New conversation" }).click();
      await askFor(page, question);
      for (const name of [question, "Earlier", "Another"]) await picked(page, name).waitFor();
    }
    await picked(one, "What is 2 + 2?").click(); // one conversation in both: the newer edit is shown in both
    await askFor(one, "What is 3 + 3?", 2);
    await other.bringToFront();
    await picked(other, "What is 1 + 1?").waitFor();
    await other.locator(".turn.assistant").getByText("6").first().waitFor();
    await other.getByRole("button", { name: "Delete Earlier" }).click();
    await other.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
    await one.bringToFront();
    await picked(one, "Earlier").waitFor({ state: "detached" });
    const kept = () => one.evaluate(() => Object.entries(localStorage).filter(([key]) => key.startsWith("swarm.conversation")));
    const before = await kept();
    assert.equal(before.length, 3);
    assert.ok(!JSON.stringify(before).includes("data:"), "no picture is in local storage");
    await one.evaluate(() => {
      for (let size = 2 ** 23, at = 0; size >= 1; at += 1) {
        try {
          localStorage.setItem(`filler ${at}`, "x".repeat(size));
        } catch {
          size = Math.floor(size / 2);
        }
      }
    });
    await askFor(one, "What is 4 + 4?", 3);
    await one.getByRole("alert").getByText("no room for more conversations").waitFor();
    await one.getByLabel("Message", { exact: true }).fill("typed while it is full");
    await one.locator(".turn.assistant").getByText("8").first().waitFor();
    assert.equal((await kept()).length, 3, "what was kept stays");
    await one.evaluate(() => {
      for (const key of Object.keys(localStorage)) if (key.startsWith("filler")) localStorage.removeItem(key);
    });
    assert.equal(await one.getByLabel("Message", { exact: true }).inputValue(), "typed while it is full");
    await askFor(one, "What is 5 + 5?", 4);
    await one.getByText("no room for more conversations").waitFor({ state: "detached" });
    await other.bringToFront();
    await other.locator(".turn.assistant").getByText("10").first().waitFor();
  });
});

test("a conversation that is longer than the context, and ten megabytes pasted, are each said", async () => {
  const messages = Array.from({ length: 8 }, (_, at) => {
    return { role: at % 2 ? "assistant" : "user", content: `${at} ${"many words ".repeat(150)}` };
  });
  await withPage(
    "#/chat",
    async (page) => {
      await page.getByRole("button", { name: "Settings" }).click();
      const file = { name: "long.json", mimeType: "application/json", buffer: Buffer.from(JSON.stringify({ model: "demo", messages })) };
      await page.locator('dialog input[type="file"]').setInputFiles(file);
      await page.getByLabel("Message", { exact: true }).fill("What is 17 + 25?");
      await page.getByRole("button", { name: "Send" }).click();
      const note = page.getByText(/tokens are more than the .* that this model holds\. Without the first \d messages it fits\./);
      await note.waitFor();
      const left = Number(/first (\d)/.exec(await note.textContent())[1]);
      await page.getByRole("button", { name: "Leave them out and ask again" }).click();
      await page.locator(".turn.assistant").last().getByRole("button", { name: "Answer again" }).waitFor();
      await note.waitFor({ state: "detached" });
      assert.equal(await page.locator(".turn.unsent").count(), left);
      await page.getByText("Left out: no longer fits the context").first().waitFor();
      const message = page.getByLabel("Message", { exact: true });
      await message.fill("half typed");
      await message.evaluate((box) => {
        const clipboardData = new DataTransfer();
        clipboardData.setData("text/plain", "x".repeat(10_000_000));
        box.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
      });
      await page.getByText("10,000,010 characters are more than a message can have (1,000,000): shorten it").waitFor();
      assert.equal(await message.inputValue(), "half typed");
    },
    { forgiven: /the server responded with a status of 400/ },
  );
});

test("votes that were held are listed, and one opens in full", async () => {
  await withPage("#/votes", async (page) => {
    await page.getByRole("cell", { name: "consensus" }).first().waitFor();
    const agreements = await page.locator("tbody .bar").count(); // not every vote came to an end
    const dots = await page.getByRole("figure").filter({ hasText: "Agreement over time" }).locator(".dots.look1").getAttribute("d");
    assert.equal(dots.split("M").length - 1, agreements);
    await page.getByLabel("Outcome").selectOption("consensus");
    await page.getByLabel("Find a model, a voter or an id").fill("nobody has this name");
    await page.getByText("No vote matches.").waitFor();
    assert.equal(await page.getByRole("figure").count(), 0);
    await page.getByLabel("Find a model, a voter or an id").fill("");
    await page.getByRole("link", { name: "swarm" }).first().click();
    await page.locator(".groups li").first().waitFor();
    await page.getByText("Held by").waitFor();
  });
});

const UNKNOWN = /Failed to load resource/; // what the browser says of a page that has no key yet

/** Ask the node with keys, in place of a client of somebody's. */
function askKeyed(who, body, headers = {}, path = "/v1/chat/completions") {
  return fetch(KEYED.url + path, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${KEYED.keys[who]}`, ...headers },
    body: JSON.stringify({ model: "demo", temperature: 0, swarm: { strategy: "single" }, ...body }),
  });
}

test("what each key uses is shown with its limits, and what was refused beyond them, in the log, too", async () => {
  const keyed = { node: KEYED, forgiven: UNKNOWN };
  await withPage(
    "#/requests/usage",
    async (page) => {
      await giveKey(page, KEYED.keys.ben);
      const anna = page.getByRole("row", { name: /anna/ }).first();
      await anna.getByText("0 of 2 requests in the last minute").waitFor();
      const messages = [{ role: "user", content: "What is 17 + 25?" }];
      const replies = [];
      for (let count = 0; count < 3; count += 1) replies.push(await askKeyed("anna", { messages }));
      assert.deepEqual(
        replies.map((reply) => reply.status),
        [200, 200, 429],
      );
      assert.ok(Number(replies[2].headers.get("retry-after")) > 0);
      await anna.getByText("2 of 2 requests in the last minute: used up").waitFor();
      assert.deepEqual(
        await anna
          .locator(".end")
          .allInnerTexts()
          .then((cells) => cells.slice(0, 2)),
        ["2", "1"],
      );
      await page.getByText("What the file of keys may hold").click();
      await page.getByText("requests_a_minute=60").waitFor();
      await page.getByLabel("Key").selectOption("anna");
      await page.getByText("The same in figures").click();
      assert.equal(await page.getByRole("region", { name: "Day by day" }).getByRole("row").count(), 2, "a head and today");

      await show(page, "requests/logs");
      const lines = page.getByRole("listbox", { name: "Log lines" });
      await lines.getByText("429 rate_limit_exceeded").waitFor();
      await page.getByLabel("Level").selectOption("errors");
      await page
        .getByText("No line matches.")
        .waitFor()
        .catch(async () => assert.fail(`the node logs errors: ${(await page.getByRole("option").allInnerTexts()).join("\n")}`));
      await page.getByLabel("Level").selectOption("all");
      await page.getByRole("button", { name: "Pause" }).click();
      const before = await page.getByRole("option").count();
      await askKeyed("anna", { messages });
      await page.getByRole("button", { name: "Follow (1 new)" }).waitFor();
      assert.equal(await page.getByRole("option").count(), before);
      await page.getByRole("button", { name: "Follow (1 new)" }).click();
      await lines.getByText("429 rate_limit_exceeded").nth(1).waitFor();
      await lines.focus();
      await page.keyboard.press("End");
      await page.keyboard.press("Enter");
      const line = page.getByRole("dialog");
      await line.getByText("swarm.gateway").waitFor();
      await line.getByRole("button", { name: "Find all of this request" }).click();
      await page.getByText(/^1 of \d+ lines/).waitFor();
    },
    keyed,
  );
});

test("who may not manage is told how to, and asks for nothing that is not told", async () => {
  await withPage("", async (page, context) => {
    const asked = [];
    page.on("request", (request) => asked.push(request.url()));
    await context.route("**/swarm/v1/page", async (route) => {
      const response = await route.fetch();
      const told = await response.json();
      await route.fulfill({ response, json: { ...told, may: { ...told.may, manage: false }, how: { ...told.how, manage: "type this" } } });
    });
    await page.reload();
    for (const screen of ["requests", "requests/logs", "requests/usage"]) {
      await show(page, screen);
      await page.getByText("type this").waitFor();
      assert.equal(await page.locator("main").getByRole("searchbox").count(), 0);
    }
    for (const url of asked.filter((one) => one.includes("parts="))) assert.doesNotMatch(url, /request|usage|log|pull/);
  });
});

test("a request in progress says whose it is, which model it asks and how far it is, and is ended", async () => {
  await withPage(
    "#/requests",
    async (page) => {
      await giveKey(page, KEYED.keys.ben);
      await page.getByText("Nothing runs.").waitFor();
      // at temperature 0 the model goes on with this until its context is full; four of it take all that answers here
      const endless = { n: 4, stream: true, messages: [{ role: "user", content: "Is 1 prime? yes or no" }] };
      const ids = ["first", "second", "third", "last"];
      const told = ids.map((id) => askKeyed("ben", endless, { "x-request-id": id }).then((reply) => reply.text()));
      const row = page.getByRole("row", { name: /^last/ });
      for (const name of ["ben", "demo", "waiting"]) await row.getByRole("cell", { name, exact: true }).waitFor();
      await page
        .getByRole("row", { name: /running [\d,]+/ })
        .first()
        .waitFor();
      await row.getByRole("button", { name: "End it" }).click();
      await page.getByRole("dialog").getByRole("button", { name: "End it" }).click();
      await row.waitFor({ state: "detached" });
      assert.match(await told[3], /cancelled/);
      for (const id of ids.slice(0, 3)) await askKeyed("ben", {}, {}, `/swarm/v1/requests/${id}/cancel`);
      await page.getByText("Nothing runs.").waitFor();
      await Promise.all(told);
    },
    { node: KEYED, forgiven: UNKNOWN },
  );
});

test("an answer is stopped by the keyboard alone, and says so", async () => {
  await withPage("#/chat", async (page, context) => {
    let asked = () => undefined;
    const held = new Promise((resolve) => {
      asked = resolve;
    });
    await context.route("**/v1/chat/completions", () => asked()); // answered by nobody
    const message = page.getByLabel("Message", { exact: true });
    await message.waitFor();
    while (!(await message.evaluate((box) => box === document.activeElement))) await page.keyboard.press("Tab");
    await page.keyboard.type("Are you there?");
    await page.keyboard.press("Enter");
    await held;
    await page.keyboard.press("Escape");
    await page.getByText("Stopped.").waitFor();
  });
});

test("hostile names and answers stay text", async () => {
  const hostile = '<img src=x onerror="window.hacked=1">\u202e\u001b[31m<script>window.hacked=1</script>';
  await withPage("#/chat", async (page, context) => {
    const chunk = (choices, more = {}) => `data: ${JSON.stringify({ choices, ...more })}\n\n`;
    const candidates = [0, 1].map((group) => ({
      voter: hostile + group,
      model: hostile,
      group,
      weight: 1,
      tokens: 1,
      ms: 1,
      answer: hostile,
    }));
    const body =
      chunk([
        {
          index: 0,
          delta: {
            content: `${hostile}\n\n[a](javascript:alert(1)) ![b](http://elsewhere.test/x.png)\n\n\`\`\`${hostile}\n${hostile}\n\`\`\``,
          },
        },
      ]) +
      chunk([{ index: 0, delta: {}, finish_reason: "stop" }], {
        swarm: { strategy: "majority", outcome: "consensus", kind: hostile, votes: 2, asked: 2, winner: hostile, candidates },
      }) +
      "data: [DONE]\n\n";
    await context.route("**/v1/chat/completions", (route) => route.fulfill({ contentType: "text/event-stream", body }));
    const node = {
      id: "x",
      name: hostile,
      url: "javascript:alert(1)",
      version: hostile,
      mode: "open",
      status: hostile,
      source: "peer",
      age_s: 0,
      state: "alive",
      since: null,
      why: hostile,
      hardware: { cpu: hostile, cores: 1, ram_bytes: 1, gpu: null, vram_bytes: null },
      memory: [{ pool: hostile, total_bytes: 1, free_bytes: 1, weights_bytes: 0, kv_bytes: 0, lent_bytes: 0 }],
      models: [
        {
          id: hostile,
          engine: hostile,
          slots: 1,
          slots_free: 1,
          waiting: 0,
          problem: hostile,
          state: "ready",
          reason: null,
          pinned: false,
          size_bytes: 1,
          taken_bytes: 1,
          loading: null,
          computation: null,
          nodes: [hostile, hostile],
        },
      ],
      loadable: 0,
      tokens_per_s: 0,
      running: 0,
      waiting: 0,
      peers: [{ id: "y", name: hostile, state: "alive", rtt_ms: 1 }],
      lending: {
        total_bytes: 2,
        free_bytes: 1,
        build: hostile,
        draining: false,
        lent: [{ node: hostile, model: hostile, bytes: 1, pool: hostile }],
        problem: hostile,
      },
    };
    const log = Object.fromEntries(
      Array.from({ length: 1000 }, (_, at) => [
        at + 1,
        { number: at + 1, at: "2026-01-31T12:00:00.000Z", level: "error", logger: hostile, request_id: hostile, text: hostile },
      ]),
    );
    const request = {
      r: { id: hostile, path: hostile, from: "client", key: hostile, model: hostile, state: "running", tokens: 1, running_s: 1 },
    };
    const usage = { u: { key: hostile, limits: { requests_a_minute: null, tokens_a_day: null }, last_minute: null, days: [] } };
    const events = `event: snapshot\nid: x-1\ndata: ${JSON.stringify({ node: { x: { ...node, source: "own" }, y: { ...node, id: "y" } }, finding: { f: { id: "f", level: "problem", node: null, what: hostile, remedy: hostile } }, log, request, usage })}\n\n`;
    await context.route("**/v1/events**", (route) => route.fulfill({ contentType: "text/event-stream", body: events }));
    await context.route("**/swarm/v1/models**", async (route) => {
      const response = await route.fetch();
      const told = await response.json();
      await route.fulfill({
        response,
        json: { ...told, data: told.data.map((one, at) => ({ ...one, id: `${hostile}${at}`, name: hostile, why: hostile })) },
      });
    });
    await page.reload(); // the node's own stream was open already
    await askFor(page, hostile);
    await page.locator(".ballot .summary").first().click();
    for (const screen of ["chat", "overview", "models", "requests", "requests/logs", "requests/usage"]) {
      await show(page, screen);
      await page.locator("main").getByText("onerror").filter({ visible: true }).first().waitFor();
      assert.equal(await page.evaluate(() => window.hacked), undefined);
      assert.deepEqual(
        await page.locator("main").evaluate((main) => [...main.querySelectorAll("img,script,iframe,style")].map((one) => one.outerHTML)),
        [],
      );
      const links = await page.locator("main a").evaluateAll((all) => all.map((one) => one.getAttribute("href")));
      for (const link of links) assert.match(link, /^(#|https?:)/);
      assert.ok(!(await page.locator("main").innerText()).includes("\u202e"));
    }
    await show(page, "requests/logs");
    const drawn = page.getByRole("option");
    assert.equal(await drawn.last().getAttribute("aria-setsize"), "1000");
    assert.equal(await drawn.last().getAttribute("aria-posinset"), "1000", "the newest are followed");
    assert.ok((await drawn.count()) < 60, "of a thousand only those in sight are drawn");
    await page.getByRole("listbox").focus();
    await page.keyboard.press("Home");
    await page.locator('[aria-posinset="1"][aria-selected="true"]').waitFor();
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").getByText("onerror").first().waitFor();
    assert.equal(await page.evaluate(() => window.hacked), undefined);
  });
});

test("models are loaded and unloaded", async () => {
  await withPage("#/models", async (page) => {
    const row = page.getByRole("row", { name: /demo:c/ });
    await row.getByRole("button", { name: "Load", exact: true }).click();
    await row.getByText("ready").waitFor();
    await row.getByRole("button", { name: "Unload" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Unload" }).click();
    await row.getByText("on disk").waitFor();
  });
});

for (const colorScheme of ["light", "dark"]) {
  test(`no screen has a serious problem for those who do not see it, ${colorScheme}`, async () => {
    await withPage(
      "#/chat",
      async (page) => {
        await askFor(page, "What is 2 + 2?");
        await page.evaluate(AXE);
        for (const screen of SCREENS) {
          await show(page, screen);
          const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
          const serious = violations.filter((one) => ["serious", "critical"].includes(one.impact));
          assert.deepEqual(
            serious.map((one) => `${screen}: ${one.id}: ${one.nodes.map((node) => node.html).slice(0, 3)}`),
            [],
          );
        }
      },
      { colorScheme, reducedMotion: "reduce" },
    );
  });
}

test("on a phone no screen is wider than it", async () => {
  await withPage(
    "#/chat",
    async (page) => {
      await askFor(page, "What is 12 + 30?");
      await page.locator(".ballot .summary").first().click();
      for (const screen of SCREENS) {
        await show(page, screen);
        const width = await page.evaluate(() => Math.max(document.scrollingElement.scrollWidth, document.body.scrollWidth));
        assert.ok(width <= 390, `${screen} is ${width} wide`);
      }
    },
    { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true },
  );
});

test("the owner's link opens once, and invites; the other nodes join, and one is put out", async () => {
  const [inviter, ...joiners] = NODES;
  await withPage(`#${new URL(inviter.link).hash.slice(1)}`, async (page) => {
    await page.getByRole("button", { name: "owner" }).waitFor();
    assert.ok(!page.url().includes("owner="), "the secret leaves the address");
    await page.goto(`${inviter.url}/#/peers`);
    await page.getByRole("button", { name: "Invite" }).click();
    await page.getByLabel("For how many machines").fill("2");
    await page.getByRole("button", { name: "Close the swarm and make a code" }).click();
    await page.locator("svg.qr").waitFor();
    const code = (await page.locator("dialog code").innerText()).replace("swarm join ", "");
    for (const joiner of joiners)
      await withPage(
        `#${new URL(joiner.link).hash.slice(1)}`,
        async (other) => {
          await other.getByRole("button", { name: "owner" }).waitFor();
          await other.goto(`${joiner.url}/#/peers`);
          await other.getByRole("button", { name: "Join another swarm" }).click();
          await other.getByLabel("Code").fill(code);
          await other.getByRole("dialog").getByRole("button", { name: "Join another swarm" }).click();
          await other.getByText("This swarm is paired").waitFor();
        },
        { node: joiner },
      );
    await page.getByRole("button", { name: "Close", exact: true }).click();
    await page.getByText("This swarm is paired").waitFor();
    const rowOf = ({ name }) => page.getByRole("row", { name: new RegExp(name) });
    for (const joiner of joiners) await rowOf(joiner).getByText("alive").waitFor();
    const { name } = joiners[1];
    await rowOf(joiners[1]).getByRole("button", { name: "Put out" }).click();
    await page.getByLabel(`Type its name to confirm: ${name}`).fill(name);
    await page.getByRole("dialog").getByRole("button", { name: "Put out" }).click();
    await page.getByRole("listitem").filter({ hasText: name }).getByText(`by ${inviter.name}`).waitFor();
  });
  await withPage(
    `#${new URL(inviter.link).hash.slice(1)}`,
    async (page) => {
      await page.getByText("The link did not open").waitFor();
    },
    { forgiven: GONE },
  );
});

test("a page that nobody looks at reads nothing, and goes on where it was", async () => {
  await withPage("", async (page) => {
    const looked = (hidden) =>
      page.evaluate((value) => {
        Object.defineProperty(document, "hidden", { configurable: true, value });
        document.dispatchEvent(new Event("visibilitychange"));
      }, hidden);
    const isStream = (request) => request.url().includes("/v1/events");
    await page.getByRole("article", { name: NODES[1].name }).getByText("alive").waitFor();
    const ended = page.waitForEvent("requestfailed", isStream);
    await looked(true);
    await ended;
    await page.getByText("paused").waitFor();
    const again = page.waitForRequest(isStream);
    await looked(false);
    assert.match((await again).headers()["last-event-id"], /^\w+-\d+$/);
    await page.getByText("paused").waitFor({ state: "detached" });
  });
});

test("a node that goes is said on the page of another within three seconds", async (t) => {
  await withPage("", async (page) => {
    const card = page.getByRole("article", { name: NODES[1].name });
    await card.getByText("alive").waitFor();
    const began = Date.now();
    process.kill(NODES[1].pid, "SIGKILL");
    await card.getByText("gone", { exact: true }).waitFor();
    t.diagnostic(`the card of a node that was killed changed after ${Date.now() - began} ms`);
  });
});

test("a node that does not answer is said, what is typed stays, and the page comes back by itself", async () => {
  await withPage(
    "#/chat",
    async (page, context) => {
      const events = "**/v1/events**";
      await context.route(events, (route) => route.abort());
      await page.reload();
      await page.getByText("This node does not answer").waitFor();
      await page.getByLabel("Message", { exact: true }).fill("not sent yet");
      await context.unroute(events);
      await page.getByRole("status").getByText("live").waitFor();
      await page.getByText("This node does not answer").waitFor({ state: "detached" });
      assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "not sent yet");
    },
    { forgiven: GONE },
  );
});

test("a key that is wrong or ended is said, with what to do", async () => {
  await withPage(
    "#/chat",
    async (page) => {
      await page.getByRole("textbox", { name: "API key" }).fill("sk-nobody");
      await page.getByRole("button", { name: "Use it" }).click();
      await page.getByRole("alert").getByText("The node does not know this key").waitFor();
      await giveKey(page, KEYED.keys.ben);
      await page.getByRole("status").getByText("live").waitFor();
      await page.evaluate(() => sessionStorage.setItem("swarm.key", "sk-ended"));
      await page.getByLabel("Message", { exact: true }).fill("Do you know me?");
      await page.getByRole("button", { name: "Send" }).click();
      await page.getByRole("alert").getByText("this node does not know that API key").waitFor();
      await page.getByLabel("Message", { exact: true }).fill("typed meanwhile");
      await page.getByRole("button", { name: "Use another key" }).click();
      await giveKey(page, KEYED.keys.ben);
      await page.getByRole("button", { name: "Use another key" }).waitFor({ state: "detached" });
      await page.getByRole("button", { name: "Try again" }).click();
      await page.getByRole("button", { name: "Try again" }).waitFor({ state: "detached" });
      await page.getByRole("button", { name: "Answer again" }).waitFor();
      assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "typed meanwhile");
    },
    { node: KEYED, forgiven: UNKNOWN },
  );
});

test("a node that ends while its page is open is said, and so is a question that nobody can answer", async () => {
  await withPage(
    "#/chat",
    async (page) => {
      await page.getByRole("status").getByText("live").waitFor();
      await page.getByLabel("Message", { exact: true }).waitFor();
      process.kill(NODES[2].pid, "SIGKILL");
      await page.getByText("This node does not answer").waitFor();
      await page.getByLabel("Message", { exact: true }).fill("Are you there?");
      await page.getByRole("button", { name: "Send" }).click();
      await page.getByRole("alert").getByText("the node does not answer").waitFor();
      await page.getByRole("button", { name: "Try again" }).waitFor();
      await page.getByRole("link", { name: "Votes", exact: true }).click();
      await page.getByRole("alert").getByText("this screen could not be loaded").waitFor();
    },
    { node: NODES[2], forgiven: GONE },
  );
});
