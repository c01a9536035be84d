// @ts-check
/**
 * Talking to the swarm: answers as they come, the vote beside each, several conversations in this browser. What is typed, what is chosen
 * and what runs live outside of the components, so that another screen, or a node that goes, loses none of it.
 */
import { get } from "./api.js";
import { ask } from "./asking.js";
import { Ballot } from "./ballot.js";
import { Button, Confirm, copyText, Dialog, Field, messageOf, NeedsRight, notify, Problem, Search, Spinner, typed } from "./components.js";
import {
  asJson,
  asMarkdown,
  begun,
  fitting,
  forget,
  fromJson,
  heard,
  keepOne,
  messagesOf,
  MOST_KEPT,
  picturesOf,
  readAll,
  readOld,
  renamed,
  takeOver,
  upTo,
  withTurns,
} from "./conversations.js";
import { clean, counted, number, short } from "./format.js";
import { Markdown } from "./markdown.js";
import { allStored, dropPictures, hold, pictureOf, picturesUnkept, readPictures, shrunk, sweepPictures } from "./pictures.js";
import { rights } from "./rights.js";
import { STRINGS } from "./strings.js";
import { batch, html, signal, useEffect, useRef, useState } from "./ui.js";

/** @typedef {import("./conversations.js").Conversation} Conversation */
/** @typedef {import("./conversations.js").Turn} Turn */

const T = STRINGS.chat;
const DRAFT = "swarm.draft";
const MOST_TYPED = 1_000_000; // characters; more is no question, and the node refuses it
const MOST_IMAGES = 8;
const NEAR_END_PX = 80;

const all = signal(stored());
const current = signal(all.value[0] ?? begun("swarm"));
const draft = signal(readDraft());
const images = signal(/** @type {string[]} */ ([]));
/** The answer that comes, or null. @type {import("../vendor/signals.js").Signal<{id: string, stop: () => void, status: string} | null>} */
const running = signal(null);
/** Conversations for which the browser has no room. @type {import("../vendor/signals.js").Signal<Set<string>>} */
const unkept = signal(new Set());
const models = signal(/** @type {any[]} */ ([]));
/** From which turn on a conversation is sent, where its beginning no longer fits. @type {Map<string, number>} */
const sentFrom = new Map();

function stored() {
  try {
    const all = readAll(localStorage);
    const old = readOld(localStorage)
      .filter(({ id }) => !all.some((one) => one.id === id))
      .map((one) => renamed(one, hold));
    void settle(old, [...all, ...old]);
    return [...all, ...old];
  } catch {
    return []; // storage is blocked
  }
}

/** Keep what an earlier version kept as it is kept now, once its pictures are; remove pictures that nothing names. @param {Conversation[]} old @param {Conversation[]} known */
async function settle(old, known) {
  try {
    if (await allStored()) takeOver(localStorage, old);
  } catch {
    unkept.value = new Set(old.map((one) => one.id));
  }
  await sweepPictures(new Set(known.flatMap(picturesOf)));
}

/** Another tab of this browser changed, or removed, what is kept. @param {StorageEvent} event */
function onStorage({ key, newValue, storageArea }) {
  if (storageArea !== localStorage) return;
  const next = heard(all.value, key, newValue);
  const id = running.value?.id;
  const here = all.value.find((one) => one.id === id);
  const told = next.find((one) => one.id === id);
  if (here && told && told !== here) return; // an answer is coming here: its edit will be the newer one
  if (here && !told) running.value?.stop();
  const shown = all.value.some((one) => one.id === current.value.id);
  batch(() => {
    all.value = next;
    if (shown) current.value = next.find((one) => one.id === current.value.id) ?? begun(current.value.model);
  });
}
window.addEventListener("storage", onStorage);

function readDraft() {
  try {
    return sessionStorage.getItem(DRAFT) ?? "";
  } catch {
    return "";
  }
}

/** @param {string} text */
function setDraft(text) {
  draft.value = text;
  try {
    sessionStorage.setItem(DRAFT, text.length > 100_000 ? "" : text);
  } catch {
    // it is kept in the page at least
  }
}

/** Show and keep a conversation. @param {Conversation} conversation @param {boolean} [keep] */
function put(conversation, keep = true) {
  batch(() => {
    if (current.value.id === conversation.id) current.value = conversation;
    all.value = [conversation, ...all.value.filter((one) => one.id !== conversation.id)];
  });
  if (keep) save(conversation.id);
}

/** Keep a conversation as it is now: the newest edit of it. Those that had no room before are tried again. @param {string} [id] */
function save(id) {
  const edited = all.value.find((one) => one.id === id);
  if (edited) put({ ...edited, changed: Math.max(Date.now(), edited.changed + 1) }, false);
  const without = new Set(unkept.value);
  if (edited?.turns.length) without.add(edited.id);
  const most = all.value.filter((one) => one.turns.length > 0);
  for (const one of most) if (without.has(one.id) && keeps(one)) without.delete(one.id);
  unkept.value = new Set(most.map((one) => one.id).filter((one) => without.has(one)));
  for (const one of most.slice(MOST_KEPT)) remove(one);
}

/** @param {Conversation} conversation @returns {boolean} whether it is kept */
function keeps(conversation) {
  try {
    return keepOne(localStorage, conversation);
  } catch {
    return false; // storage is blocked
  }
}

/** @param {Conversation} conversation */
function remove(conversation) {
  if (running.value?.id === conversation.id) running.value.stop();
  all.value = all.value.filter((one) => one.id !== conversation.id);
  if (current.value.id === conversation.id) current.value = begun(conversation.model);
  void dropPictures(picturesOf(conversation));
  try {
    forget(localStorage, conversation.id);
  } catch {
    // storage is blocked
  }
}

/** @param {string} id @param {(turn: Turn) => Turn} change */
function changeLast(id, change) {
  const conversation = all.value.find((one) => one.id === id);
  const turns = [...(conversation?.turns ?? [])];
  const last = turns.pop();
  if (conversation && last) put({ ...conversation, turns: [...turns, change(last)] }, false);
}

/** Ask the question that is last in a conversation. @param {Conversation} conversation */
async function answer(conversation) {
  const controller = new AbortController();
  const { id } = conversation;
  running.value = { id, stop: () => controller.abort(), status: "" };
  const from = sentFrom.get(id) ?? 0;
  put({ ...conversation, turns: [...conversation.turns, { role: "assistant", content: "" }] });
  try {
    const messages = messagesOf(conversation, await readPictures(picturesOf(conversation)), from);
    await ask({ ...conversation, messages }, controller.signal, {
      turn: (change) => changeLast(id, change),
      status: (status) => {
        if (running.value?.id === id) running.value = { ...running.value, status };
      },
    });
  } catch (error) {
    const stopped = controller.signal.aborted;
    changeLast(id, (turn) => ({
      ...turn,
      ...(stopped ? { stopped } : { problem: messageOf(error) }),
      ...(turn.ballot?.final === false ? { ballot: { ...turn.ballot, final: true, outcome: stopped ? "cancelled" : "failed" } } : {}),
    }));
  } finally {
    running.value = null;
    save(id);
  }
}

/** @param {string} text @param {string[]} pictures */
function send(text, pictures) {
  const before = current.value;
  const question = /** @type {Turn} */ ({ role: "user", content: text, ...(pictures.length ? { images: pictures.map(hold) } : {}) });
  void answer(withTurns(before, [...before.turns, question]));
}

/** Ask a question anew, as it was or edited; what came after it goes. @param {number} at @param {string} [text] */
function again(at, text) {
  const conversation = current.value;
  const { before, question } = upTo(conversation.turns, at);
  if (question) void answer(withTurns(conversation, [...before, { ...question, content: text ?? question.content }]));
}

async function readModels() {
  try {
    models.value = (await get("/v1/models")).data ?? [];
  } catch {
    // the connection says it
  }
}

/** What the chosen model can. */
const chosenModel = () => models.value.find((model) => model.id === current.value.model);
const sees = () => (chosenModel()?.modalities?.input ?? []).includes("image");

export function Screen() {
  const [listed, setListed] = useState(false);
  useEffect(() => {
    void readModels();
  }, []);
  return html`<div class="chat">
    <aside class=${`conversations ${listed ? "shown" : ""}`} aria-label=${T.conversations}><${Conversations} onChoose=${() => setListed(false)} /></aside>
    <section class="talk" aria-label=${T.title}>
      <${Head} onList=${() => setListed(!listed)} listed=${listed} />
      <${NeedsRight} right="ask" />
      ${unkept.value.size > 0 && html`<${Problem} message=${T.unkept} />`}
      ${picturesUnkept.value && html`<${Problem} message=${T.picturesUnkept} />`}
      <${Turns} />
      <${Composer} />
    </section>
  </div>`;
}

/** @param {{onChoose: () => void}} props */
function Conversations({ onChoose }) {
  const [wanted, setWanted] = useState("");
  const [doomed, setDoomed] = useState(/** @type {Conversation | null} */ (null));
  const words = wanted.toLowerCase();
  const shown = all.value.filter(
    (one) =>
      one.turns.length && (!words || `${one.title} ${one.turns.map((turn) => turn.content).join(" ")}`.toLowerCase().includes(words)),
  );
  const choose = (/** @type {Conversation} */ conversation) => {
    current.value = conversation;
    onChoose();
  };
  return html`<div class="stack">
    <${Button} kind="main" onClick=${() => choose(begun(current.value.model))}>${T.start}<//>
    ${all.value.length > 8 && html`<${Search} label=${T.find} value=${wanted} onText=${setWanted} />`}
    <ul>
      ${shown.map(
        (one) => html`<li key=${one.id} class="row">
          <button type="button" class="pick" aria-current=${one.id === current.value.id ? "true" : undefined} onClick=${() => choose(one)}>${short(one.title, 60) || T.untitled}</button>
          <${Button} kind="quiet icon" label=${T.remove(short(one.title, 40))} onClick=${() => setDoomed(one)}>✕<//>
        </li>`,
      )}
    </ul>
    ${
      doomed &&
      html`<${Confirm} title=${T.removeTitle} what=${T.removeWhat(short(doomed.title, 60))} action=${T.removeIt} danger=${true} onClose=${() => setDoomed(null)} onConfirm=${async () => {
        remove(doomed);
        save();
      }} />`
    }
  </div>`;
}

/** @param {{onList: () => void, listed: boolean}} props */
function Head({ onList, listed }) {
  const [settings, setSettings] = useState(false);
  const conversation = current.value;
  const known = models.value.some((model) => model.id === conversation.model);
  const set = (/** @type {Partial<Conversation>} */ change) => put({ ...current.value, ...change });
  return html`<div class="row chat-head">
    <span class="only-phone"><${Button} expanded=${listed} onClick=${onList}>${T.conversations}<//></span>
    <select aria-label=${T.model} value=${conversation.model} onChange=${typed((model) => set({ model }))} onFocus=${readModels}>
      ${!known && html`<option value=${conversation.model}>${clean(conversation.model)}</option>`}
      ${models.value.map((model) => html`<option key=${model.id} value=${model.id}>${short(model.id, 60)}${model.state && model.state !== "ready" ? ` (${STRINGS.states[model.state] ?? model.state})` : ""}</option>`)}
    </select>
    <${Button} onClick=${() => setSettings(true)}>${T.settings}<//>
    ${settings && html`<${Settings} onClose=${() => setSettings(false)} set=${set} />`}
  </div>`;
}

/** @param {{onClose: () => void, set: (change: Partial<Conversation>) => void}} props */
function Settings({ onClose, set }) {
  const conversation = current.value;
  const numberOf = (/** @type {string} */ text) => (text === "" ? null : Number(text));
  const save = (/** @type {string} */ text, /** @type {string} */ name, /** @type {string} */ type) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const name = (conversation.title || T.untitled).replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
  const load = async (/** @type {any} */ event) => {
    try {
      current.value = renamed(fromJson(await event.target.files[0].text()), hold);
      put(current.value);
      onClose();
    } catch (error) {
      notify(T.notRead(messageOf(error)));
    }
  };
  return html`<${Dialog} title=${T.settings} onClose=${onClose}>
    <div class="stack">
      <${Field} label=${T.system}>${(/** @type {string} */ id) => html`<textarea id=${id} rows="4" value=${conversation.system} onInput=${typed((system) => set({ system }))}></textarea>`}<//>
      <${Field} label=${T.temperature} hint=${T.temperatureHint}>${(/** @type {string} */ id) => html`<input id=${id} type="number" min="0" max="2" step="0.1" value=${conversation.temperature ?? ""} onInput=${typed((text) => set({ temperature: numberOf(text) }))} />`}<//>
      <${Field} label=${T.votes} hint=${T.votesHint}>${(/** @type {string} */ id) => html`<input id=${id} type="number" min="1" max="32" step="1" value=${conversation.votes ?? ""} onInput=${typed((text) => set({ votes: numberOf(text) }))} />`}<//>
      <div class="row">
        <${Button} onClick=${() => save(asMarkdown(conversation), `${name}.md`, "text/markdown")}>${T.exportMarkdown}<//>
        <${Button} onClick=${async () => save(asJson(conversation, await readPictures(picturesOf(conversation))), `${name}.json`, "application/json")}>${T.exportJson}<//>
        <label class="button">${T.import}<input type="file" accept=".json,application/json" class="unseen" onChange=${load} /></label>
      </div>
      <p class="soft">${T.kept(MOST_KEPT)}</p>
    </div>
  <//>`;
}

function Turns() {
  const { turns, id } = current.value;
  const list = /** @type {{current: HTMLElement | null}} */ (useRef(null));
  const follows = useRef(true);
  const last = turns[turns.length - 1];
  useEffect(() => {
    const shown = list.current;
    if (shown && follows.current) shown.scrollTop = shown.scrollHeight;
  }, [turns.length, last?.content.length, last?.ballot, id]);
  const onScroll = () => {
    const shown = list.current;
    if (shown) follows.current = shown.scrollHeight - shown.scrollTop - shown.clientHeight < NEAR_END_PX;
  };
  const from = sentFrom.get(id) ?? 0;
  return html`<div class="turns" ref=${list} onScroll=${onScroll} tabindex="0" role="log" aria-label=${T.log} aria-live="off">
    ${turns.length === 0 && html`<${Welcome} />`}
    ${turns.map((turn, at) => html`<${OneTurn} key=${`${id} ${at}`} turn=${turn} at=${at} last=${at === turns.length - 1} unsent=${at < from} />`)}
    <p class="unseen" role="status">${running.value?.id === id ? T.answering : last?.role === "assistant" ? T.answered : ""}</p>
  </div>`;
}

function Welcome() {
  return html`<div class="welcome stack">
    <h3>${T.welcome(short(rights.value?.node ?? "", 40))}</h3>
    <p class="soft">${T.welcomeMore}</p>
    <div class="row">${T.examples.map((example) => html`<${Button} onClick=${() => send(example, [])}>${example}<//>`)}</div>
  </div>`;
}

/** @param {{name: string, at: number}} props */
function Picture({ name, at }) {
  useEffect(() => {
    void readPictures([name]);
  }, [name]);
  const url = pictureOf(name);
  if (url === null) return html`<p class="soft">${T.pictureGone(at)}</p>`;
  return url && html`<img class="picture" src=${url} alt=${T.picture(at)} />`;
}

/** @param {{turn: Turn, at: number, last: boolean, unsent: boolean}} props */
function OneTurn({ turn, at, last, unsent }) {
  const [edited, setEdited] = useState(/** @type {string | null} */ (null));
  const busy = running.value !== null;
  const comes = last && busy && running.value?.id === current.value.id;
  const copy = async () => notify((await copyText(turn.content)) ? STRINGS.components.copied : STRINGS.components.notCopied);
  if (turn.role === "user") {
    return html`<article class=${`turn user ${unsent ? "unsent" : ""}`} aria-label=${T.you}>
      ${unsent && html`<small>${T.unsent}</small>`}
      ${edited === null ? html`<p class="said">${clean(turn.content)}</p>` : html`<textarea aria-label=${T.edit} rows="4" value=${edited} onInput=${typed(setEdited)}></textarea>`}
      ${turn.images?.map((name, number) => html`<${Picture} key=${name} name=${name} at=${number + 1} />`)}
      <div class="row actions">
        ${
          edited === null
            ? html`<${Button} kind="quiet" disabled=${busy} onClick=${() => setEdited(turn.content)}>${T.edit}<//><${Button} kind="quiet" onClick=${copy}>${STRINGS.components.copy}<//>`
            : html`<${Button} kind="main" disabled=${busy || !edited.trim()} onClick=${() => {
                again(at, edited);
                setEdited(null);
              }}>${T.resend}<//><${Button} onClick=${() => setEdited(null)}>${STRINGS.components.cancel}<//>`
        }
      </div>
    </article>`;
  }
  return html`<article class=${`turn assistant ${unsent ? "unsent" : ""}`} aria-label=${T.swarm} aria-busy=${comes || undefined}>
    ${turn.reasoning && html`<details class="thinking"><summary>${T.thinking}</summary><p class="said">${clean(turn.reasoning)}</p></details>`}
    ${turn.replaced !== undefined && html`<details class="replaced"><summary>${T.replaced(short(turn.ballot?.winner ?? "", 40))}</summary><del class="said">${clean(turn.replaced)}</del></details>`}
    ${turn.content ? html`<${Markdown} text=${turn.content} />` : comes && html`<${Spinner} label=${clean(running.value?.status || T.waiting)} />`}
    ${turn.tool_calls?.map((call) => html`<figure class="code"><figcaption>${T.call(short(call.name, 60))}</figcaption><pre tabindex="0">${clean(call.arguments)}</pre></figure>`)}
    ${turn.reason === "length" && html`<p class="soft">${T.cut}</p>`}
    ${turn.stopped && html`<p class="soft">${T.stopped}</p>`}
    <${Problem} message=${turn.problem ?? ""} retry=${busy ? undefined : () => again(at)} />
    ${turn.problem && html`<${TooLong} problem=${turn.problem} at=${at} />`}
    ${turn.ballot && html`<${Ballot} ballot=${turn.ballot} folded=${true} />`}
    ${!comes && html`<div class="row actions"><${Button} kind="quiet" disabled=${busy} onClick=${() => again(at)}>${T.regenerate}<//><${Button} kind="quiet" onClick=${copy}>${STRINGS.components.copy}<//></div>`}
  </article>`;
}

/** A conversation that is longer than the context: which turns would fit, and leaving out the others. @param {{problem: string, at: number}} props */
function TooLong({ problem, at }) {
  const sizes = /has (?:at least )?([\d,]+) tokens and the context holds ([\d,]+)/
    .exec(problem)
    ?.slice(1)
    .map((digits) => Number(digits.replaceAll(",", "")));
  const conversation = current.value;
  const [tokens, context] = sizes ?? [];
  if (tokens === undefined || context === undefined) return null;
  const sent = sentFrom.get(conversation.id) ?? 0;
  const from = sent + fitting(conversation.turns.slice(sent, at), tokens, context);
  if (from === sent) return null;
  return html`<p class="note">${T.tooLong(number(tokens), number(context), counted(from, T.turns))} <${Button} disabled=${running.value !== null} onClick=${() => {
    sentFrom.set(conversation.id, from);
    again(at);
  }}>${T.leaveOut}<//></p>`;
}

function Composer() {
  const box = /** @type {{current: HTMLTextAreaElement | null}} */ (useRef(null));
  const busy = running.value !== null;
  const phone = matchMedia("(pointer: coarse)").matches;
  useEffect(() => {
    const area = box.current;
    if (!area) return;
    area.style.height = "auto";
    area.style.height = `${Math.min(area.scrollHeight + 2, 260)}px`;
  }, [draft.value]);
  const go = () => {
    const text = draft.value.trim();
    if (busy || (!text && images.value.length === 0)) return;
    send(text, images.value);
    setDraft("");
    images.value = [];
  };
  const type = (/** @type {any} */ event) => {
    const text = event.target.value;
    if (text.length > MOST_TYPED) {
      notify(T.tooMuch(number(text.length), number(MOST_TYPED)));
      event.target.value = draft.value;
      return;
    }
    setDraft(text);
  };
  const add = async (/** @type {File[]} */ files) => {
    for (const file of files.slice(0, MOST_IMAGES - images.value.length)) {
      try {
        images.value = [...images.value, await shrunk(file)];
      } catch {
        notify(T.noPicture(short(file.name, 40)));
      }
    }
  };
  const pasted = (/** @type {ClipboardEvent} */ event) => {
    const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
    const text = event.clipboardData?.getData("text/plain") ?? "";
    if (files.length && sees()) {
      event.preventDefault();
      void add(files);
    } else if (draft.value.length + text.length > MOST_TYPED) {
      event.preventDefault();
      notify(T.tooMuch(number(draft.value.length + text.length), number(MOST_TYPED)));
    }
  };
  return html`<form class="composer" onSubmit=${(/** @type {Event} */ event) => {
    event.preventDefault();
    go();
  }}>
    ${
      images.value.length > 0 &&
      html`<div class="row">${images.value.map(
        (url, at) =>
          html`<span class="attached"><img class="picture" src=${url} alt=${T.picture(at + 1)} /><${Button} kind="quiet icon" label=${T.removePicture(at + 1)} onClick=${() => {
            images.value = images.value.filter((_, other) => other !== at);
          }}>✕<//></span>`,
      )}</div>`
    }
    <textarea ref=${box} rows="1" aria-label=${T.message} placeholder=${T.message} enterkeyhint=${phone ? "enter" : "send"} value=${draft.value} onInput=${type} onPaste=${pasted} onKeyDown=${(
      /** @type {KeyboardEvent} */ event,
    ) => {
      if (event.key === "Enter" && !event.shiftKey && !phone && !event.isComposing) {
        event.preventDefault();
        go();
      } else if (event.key === "Escape") running.value?.stop();
    }}></textarea>
    ${sees() && html`<label class="button icon" title=${T.addPicture}>+<span class="unseen">${T.addPicture}</span><input type="file" accept="image/*" multiple class="unseen" onChange=${(/** @type {any} */ event) => add([...event.target.files])} /></label>`}
    ${busy ? html`<${Button} kind="danger" onClick=${() => running.value?.stop()}>${T.stop}<//>` : html`<${Button} kind="main" type="submit" disabled=${!draft.value.trim() && images.value.length === 0}>${T.send}<//>`}
  </form>`;
}
