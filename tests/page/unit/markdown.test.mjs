import assert from "node:assert/strict";
import { test } from "node:test";
import { blocks, element, Markdown, safeAddress } from "../../../swarm/gateway/page/static/js/markdown.js";

/** The elements of a text, as an array of [type, attributes, ...children] and texts. */
function tree(node) {
  if (node === null || node === undefined || node === false) return [];
  if (Array.isArray(node)) return node.flatMap(tree);
  if (typeof node !== "object") return [String(node)];
  const { children, ...props } = node.props;
  if (typeof node.type === "function") return node.type.name === "Code" ? [["code-block", props]] : tree(node.type(node.props));
  return [[node.type, props, ...tree(children)]];
}
const read = (text) => tree(Markdown({ text }));
const words = (node) => (typeof node === "string" ? node : node.slice(2).map(words).join(""));
const all = (node, type) =>
  typeof node === "string" ? [] : [...(node[0] === type ? [node] : []), ...node.slice(2).flatMap((one) => all(one, type))];

test("what is Markdown becomes elements", () => {
  const [shown] = read(
    "# T\n\nA **b** *c* ~~d~~ `e<f>` [g](https://x.y)\n\n- [x] one\n- two\n\n1. n\n\n> q\n\n|a|b|\n|-|-:|\n|1|2|\n\n```py\nx < 1\n```",
  );
  for (const type of ["strong", "em", "del", "code", "a", "ul", "ol", "li", "blockquote", "table", "th", "td", "input", "code-block"])
    assert.ok(all(shown, type).length, type);
  assert.equal(words(all(shown, "code")[0]), "e<f>");
  assert.equal(all(shown, "code-block")[0][1].text, "x < 1");
  assert.equal(all(shown, "a")[0][1].rel, "noreferrer noopener");
});

test("hostile Markdown is text", () => {
  for (const hostile of [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "[a](javascript:alert(1))",
    "[a](JaVa\nScript:alert(1))",
    "![a](data:text/html,x)",
    "<a href='javascript:x'>y</a>",
    "[x]: javascript:alert(1)\n\n[x]",
    "<style>*{}</style>",
    "\u202eevil\u001b[31m",
  ]) {
    const shown = read(hostile);
    for (const node of shown) {
      for (const type of ["img", "script", "style", "iframe"]) assert.equal(all(node, type).length, 0, hostile);
      for (const link of all(node, "a")) assert.match(link[1].href, /^(https?:|mailto:)/, hostile);
    }
    assert.ok(!JSON.stringify(shown).includes("\\u202e") && !JSON.stringify(shown).includes("\u202e"), hostile);
  }
  assert.equal(words(read("<img src=x onerror=alert(1)>")[0]), "<img src=x onerror=alert(1)>");
});

test("addresses", () => {
  assert.equal(safeAddress("https://a.b/?c=d"), "https://a.b/?c=d");
  assert.equal(safeAddress("mailto:a@b"), "mailto:a@b");
  for (const bad of ["javascript:x", "java\tscript:x", "data:x", "vbscript:x", "//a.b", "/a", "file:///etc/passwd", ""])
    assert.equal(safeAddress(bad), null);
});

test("nothing is too deep, too long or unfinished", () => {
  for (const text of [
    `${"> ".repeat(500)}x`,
    "*".repeat(20_000),
    "[".repeat(5_000),
    "- ".repeat(400),
    `${"  ".repeat(60)}- x`,
    "```js\nunfinished",
    "|a|b|\n|-",
    "**bold",
    "<div",
    "\0",
    "",
  ]) {
    assert.ok(Array.isArray(read(text)), text.slice(0, 20));
  }
});

test("while an answer comes, what is whole already stays as it is", () => {
  const text = "# One\n\nA *b* c\n\n- x\n- y\n\n```py\nprint(1)\n```\n\nThe end.";
  const whole = blocks(text).map((token) => token.raw);
  for (let at = 1; at <= text.length; at += 1) {
    const soFar = blocks(text.slice(0, at)).map((token) => token.raw);
    assert.equal(soFar.join("").trimEnd(), text.slice(0, at).trimEnd());
  }
  assert.deepEqual(
    blocks(text).map((token) => token.raw),
    whole,
  );
  assert.equal(tree(element({ type: "html", raw: "<b>" }))[0], "<b>");
});
