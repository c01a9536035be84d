// @ts-check
/**
 * Markdown as elements. `marked` only reads: what it finds becomes elements here, so no HTML of a model is ever HTML. Pure, but for the
 * colours of code, whose languages are loaded when they are needed.
 */
import { Lexer } from "../vendor/marked.js";
import { Button, copyText, notify } from "./components.js";
import { clean } from "./format.js";
import { STRINGS } from "./strings.js";
import { html, signal } from "./ui.js";

const T = STRINGS.chat;
const DEEPEST = 24; // lists and quotes within each other; what is deeper is shown as it was written
const MOST_COLOURED = 60_000; // characters of code; colouring more takes longer than anybody reads
const SAFE = /^(?:https?:|mailto:)/i;

/** Names that models give languages, and the files that know them. @type {Record<string, string>} */
const LANGUAGES = {
  bash: "bash", sh: "bash", shell: "bash", zsh: "bash", console: "bash", c: "cpp", cpp: "cpp", "c++": "cpp", h: "cpp", diff: "diff", patch: "diff",
  go: "go", golang: "go", js: "javascript", javascript: "javascript", ts: "javascript", typescript: "javascript",
  jsx: "javascript", tsx: "javascript", json: "json", jsonc: "json", py: "python", python: "python", rs: "rust", rust: "rust",
  html: "xml", xml: "xml", svg: "xml", yaml: "yaml", yml: "yaml", toml: "yaml",
}; // biome-ignore format: a table

/** The address if it is one that may be followed, else null. @param {string} address */
export function safeAddress(address) {
  const plain = address.trim();
  return SAFE.test(plain) ? plain : null;
}

/** The blocks of a text. @param {string} text */
export function blocks(text) {
  try {
    return Lexer.lex(text, { gfm: true, breaks: true });
  } catch {
    return [{ type: "paragraph", raw: text, tokens: [{ type: "text", raw: text, text }] }]; // nested too deeply for its reader
  }
}

/** @param {{text: string}} props */
export function Markdown({ text }) {
  return html`<div class="markdown">${blocks(text).map((token, at) => html`<${Block} key=${at} raw=${token.raw} token=${token} />`)}</div>`;
}

/** One block; the same raw text is not drawn again while more of the answer comes. @param {{raw: string, token: any}} props */
function Block({ token }) {
  return element(token, 0);
}

/** @param {any[] | undefined} tokens @param {number} depth */
function elements(tokens, depth) {
  return (tokens ?? []).map((token) => element(token, depth));
}

/** @param {any} token @param {number} depth @returns {any} */
export function element(token, depth = 0) {
  if (depth > DEEPEST) return clean(token.raw);
  const inner = () => elements(token.tokens, depth + 1);
  switch (token.type) {
    case "space":
    case "def":
      return null;
    case "heading":
      return html`<p class=${`heading h${Math.min(token.depth, 4)}`} role="heading" aria-level=${Math.min(6, token.depth + 2)}>${inner()}</p>`;
    case "paragraph":
      return html`<p>${inner()}</p>`;
    case "text":
      return token.tokens ? inner() : clean(unescaped(token.text));
    case "escape":
      return clean(token.text);
    case "strong":
      return html`<strong>${inner()}</strong>`;
    case "em":
      return html`<em>${inner()}</em>`;
    case "del":
      return html`<del>${inner()}</del>`;
    case "codespan":
      return html`<code>${clean(unescaped(token.text))}</code>`;
    case "br":
      return html`<br />`;
    case "hr":
      return html`<hr />`;
    case "blockquote":
      return html`<blockquote>${inner()}</blockquote>`;
    case "code":
      return html`<${Code} text=${token.text} language=${token.lang ?? ""} />`;
    case "list":
      return token.ordered ? html`<ol start=${token.start || 1}>${items(token, depth)}</ol>` : html`<ul>${items(token, depth)}</ul>`;
    case "link":
      return link(token.href, inner(), token.raw);
    case "image":
      return link(token.href, clean(token.text || token.href), token.raw);
    case "table":
      return table(token, depth);
    default:
      return clean(token.raw); // HTML among others: as it was written
  }
}

/** @param {any} list @param {number} depth */
function items(list, depth) {
  return list.items.map(
    (/** @type {any} */ item) =>
      html`<li>${item.task && html`<input type="checkbox" disabled checked=${item.checked} aria-label=${item.checked ? T.taskDone : T.taskOpen} />`}${elements(item.tokens, depth + 1)}</li>`,
  );
}

/** @param {string} address @param {any} inner @param {string} raw */
function link(address, inner, raw) {
  const safe = safeAddress(address);
  return safe === null ? clean(raw) : html`<a href=${safe} target="_blank" rel="noreferrer noopener">${inner}</a>`;
}

/** @param {any} token @param {number} depth */
function table(token, depth) {
  const cell = (/** @type {any} */ one) => elements(one.tokens, depth + 1);
  const side = (/** @type {number} */ at) => (token.align[at] === "right" ? "end" : "");
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${T.table}><table>
    <thead><tr>${token.header.map((/** @type {any} */ one, /** @type {number} */ at) => html`<th class=${side(at)}>${cell(one)}</th>`)}</tr></thead>
    <tbody>${token.rows.map((/** @type {any[]} */ row) => html`<tr>${row.map((one, at) => html`<td class=${side(at)}>${cell(one)}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

/** `marked` escapes some texts for HTML, which they do not become here. @param {string} text */
function unescaped(text) {
  return text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&quot;", '"').replaceAll("&#39;", "'").replaceAll("&amp;", "&");
}

/** @type {import("../vendor/signals.js").Signal<number>} counts the languages that are there */
const loaded = signal(0);
/** @type {any} */
let colours = null;
const asked = new Set();

/** @param {string} file */
async function load(file) {
  if (asked.has(file)) return;
  asked.add(file);
  const [core, language] = await Promise.all([import("../vendor/highlight.js"), import(`../vendor/languages/${file}.js`)]);
  colours = core.default;
  colours.registerLanguage(file, language.default);
  loaded.value += 1;
}

/** @param {{text: string, language: string}} props */
function Code({ text, language }) {
  const file = LANGUAGES[language.trim().split(/\s/)[0]?.toLowerCase() ?? ""];
  const coloured = file !== undefined && text.length <= MOST_COLOURED && loaded.value >= 0 && colours?.getLanguage(file);
  if (file !== undefined && !coloured) void load(file);
  const copy = async () => notify((await copyText(text)) ? STRINGS.components.copied : STRINGS.components.notCopied);
  return html`<figure class="code">
    <figcaption><span>${clean(language) || T.code}</span><${Button} kind="quiet" onClick=${copy}>${STRINGS.components.copy}<//></figcaption>
    <pre tabindex="0"><code>${coloured ? painted(colours.highlight(text, { language: file })._emitter.rootNode) : clean(text)}</code></pre>
  </figure>`;
}

/** The colours of a piece of code as elements: `highlight.js` keeps what it found as a tree. @param {any} node @returns {any} */
function painted(node) {
  if (typeof node === "string") return clean(node);
  const inner = node.children.map(painted);
  const name = String(node.scope ?? node.kind ?? "").replace(/[^\w.-]/g, "");
  return name ? html`<span class=${`hl-${name.split(".")[0]}`}>${inner}</span>` : inner;
}
