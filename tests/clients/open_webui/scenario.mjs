// Open WebUI as a person uses it, in Chromium: node scenario.mjs CHROMIUM URL TOKEN TASK
// The task is {"model", "text", "until", "stop"}: ask it of that model, wait for these words, say what is shown; and
// with `stop` press the button that ends the answer, and wait until it has ended.
import { chromium } from "playwright-core";

const [executablePath, url, token, task] = process.argv.slice(2);
const { model, text, until, stop } = JSON.parse(task);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage();
page.setDefaultTimeout(25_000);
await page.addInitScript((known) => localStorage.setItem("token", known), token);
try {
  await page.goto(new URL(`/?models=${encodeURIComponent(model)}`, url).href);
  await page.getByRole("button", { name: `Selected model: ${model}` }).waitFor();
  await page.locator("#chat-input").click();
  await page.keyboard.type(text);
  await page.locator("#send-message-button:enabled").click();
  const words = page.getByText(until).last();
  await words.waitFor();
  console.log(await words.innerText());
  if (stop) {
    const button = page.getByRole("button", { name: "Stop", exact: true });
    await button.click();
    await button.waitFor({ state: "detached" });
  }
} catch (error) {
  console.log(`${error}\nThe page says: ${await page.locator("body").innerText()}`);
  process.exitCode = 1;
} finally {
  await browser.close();
}
