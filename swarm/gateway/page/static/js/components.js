// @ts-check
/** What all screens are made of. Words come from strings.js; what others say goes through `clean`. */
import { hasKey } from "./api.js";
import { clean } from "./format.js";
import { rights } from "./rights.js";
import { STRINGS } from "./strings.js";
import { html, signal, useEffect, useId, useRef, useState } from "./ui.js";

const T = STRINGS.components;

/** @typedef {any} Children */
/** @typedef {"good" | "warn" | "bad" | "busy" | "idle"} Tone */

/** @param {{onClick?: (event: Event) => unknown, kind?: string, busy?: boolean, disabled?: boolean, title?: string, label?: string, type?: string, pressed?: boolean, expanded?: boolean, children?: Children}} props */
export function Button({ onClick, kind = "", busy = false, disabled = false, title, label, type = "button", pressed, expanded, children }) {
  return html`<button
    type=${type}
    class=${`button ${kind}`}
    disabled=${disabled || busy}
    title=${title}
    aria-label=${label}
    aria-busy=${busy || undefined}
    aria-pressed=${pressed}
    aria-expanded=${expanded}
    onClick=${onClick}
  >${children}</button>`;
}

/** @type {Record<string, Tone>} */
const TONES = {
  ok: "good", alive: "good", ready: "good", done: "good", consensus: "good", single: "good", open: "good",
  loading: "busy", running: "busy", waiting: "busy", draining: "busy", unloading: "busy", plurality: "warn", suspect: "warn",
  warning: "warn", degraded: "warn", undecided: "warn", dead: "bad", failed: "bad", problem: "bad", lost: "bad", error: "bad",
}; // biome-ignore format: a table

/** A state in word, colour and shape. @param {{state: string, words?: string | undefined, tone?: Tone | undefined}} props */
export function Badge({ state, words, tone }) {
  return html`<span class=${`badge ${tone ?? TONES[state] ?? "idle"}`}><i aria-hidden="true"></i>${clean(words ?? STRINGS.states[state] ?? state)}</span>`;
}

/**
 * A bar of parts of a whole, with its figures in words for those who do not see it.
 * @param {{parts: {share: number, tone: string}[], label: string}} props
 */
export function Bar({ parts, label }) {
  return html`<div class="bar" role="img" aria-label=${label} title=${label}>
    ${parts.map(({ share, tone }) => html`<i class=${tone} style=${{ width: `${Math.max(0, Math.min(1, share)) * 100}%` }}></i>`)}
  </div>`;
}

const WINDOW_ROWS = 100;

/**
 * @template Row
 * @typedef {{title: string, end?: boolean, render: (row: Row) => Children}} Column `end`: figures, at the right
 */

/**
 * A table that becomes cards on a phone. Long ones show a hundred rows at a time.
 * @param {{label: string, columns: Column<any>[], rows: any[], rowKey: (row: any) => string, empty?: string}} props
 */
export function Table({ label, columns, rows, rowKey, empty }) {
  const [shown, setShown] = useState(WINDOW_ROWS);
  if (rows.length === 0) return html`<${Empty}>${empty ?? T.nothing}<//>`;
  return html`<div class="table" role="region" aria-label=${label} tabindex="0">
    <table>
      <thead><tr>${columns.map((column) => html`<th scope="col" class=${column.end ? "end" : ""}>${column.title}</th>`)}</tr></thead>
      <tbody>
        ${rows.slice(0, shown).map(
          (row) => html`<tr key=${rowKey(row)}>
            ${columns.map((column) => html`<td class=${column.end ? "end" : ""} data-title=${column.title}>${column.render(row)}</td>`)}
          </tr>`,
        )}
      </tbody>
    </table>
    ${rows.length > shown && html`<${Button} kind="quiet" onClick=${() => setShown(shown + WINDOW_ROWS)}>${T.more(rows.length - shown)}<//>`}
  </div>`;
}

/** @param {{title: string, onClose: () => void, children?: Children, wide?: boolean}} props */
export function Dialog({ title, onClose, children, wide = false }) {
  const box = /** @type {{current: HTMLDialogElement | null}} */ (useRef(null));
  const id = useId();
  useEffect(() => {
    const shown = box.current;
    shown?.showModal();
    return () => shown?.close();
  }, []);
  return html`<dialog ref=${box} class=${wide ? "wide" : ""} aria-labelledby=${id} onCancel=${(/** @type {Event} */ event) => {
    event.preventDefault();
    onClose();
  }}>
    <header><h2 id=${id}>${title}</h2><${Button} kind="quiet icon" label=${T.close} onClick=${onClose}>✕<//></header>
    ${children}
  </dialog>`;
}

/** Ask before something is done. @param {{title: string, what: Children, action: string, onConfirm: () => Promise<unknown>, onClose: () => void, danger?: boolean, ready?: boolean, children?: Children}} props */
export function Confirm({ title, what, action, onConfirm, onClose, danger = false, ready = true, children }) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  const confirm = async () => {
    setBusy(true);
    setProblem("");
    try {
      await onConfirm();
      onClose();
    } catch (error) {
      setProblem(messageOf(error));
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${title} onClose=${onClose}>
    <div class="stack"><p>${what}</p>${children}<${Problem} message=${problem} /></div>
    <footer>
      <${Button} onClick=${onClose}>${T.cancel}<//>
      <${Button} kind=${danger ? "danger" : "main"} busy=${busy} disabled=${!ready} onClick=${confirm}>${action}<//>
    </footer>
  <//>`;
}

/** @param {{children?: Children}} props */
export function Empty({ children }) {
  return html`<p class="empty">${children}</p>`;
}

/** Whether a swarm is open or paired: drawn, since not every system has the sign. @param {{closed: boolean}} props */
export function Lock({ closed }) {
  return html`<svg class="lock" viewBox="0 0 16 16" width="14" height="14" aria-hidden="true">
    <rect x="2.5" y="7" width="11" height="7.5" rx="1.5" fill="currentColor" />
    <path d=${closed ? "M5 7V5a3 3 0 0 1 6 0v2" : "M5 7V4.2a3 3 0 0 1 5.8-1"} fill="none" stroke="currentColor" stroke-width="1.6" />
  </svg>`;
}

/** What went wrong, in its place. @param {{message: string, retry?: (() => void) | undefined}} props */
export function Problem({ message, retry }) {
  if (!message) return null;
  return html`<p class="problem" role="alert">${clean(message)} ${retry && html`<${Button} kind="quiet" onClick=${retry}>${T.retry}<//>`}</p>`;
}

/** A labelled field. @param {{label: string, hint?: string, children: (id: string, hintId: string | undefined) => Children}} props */
export function Field({ label, hint, children }) {
  const id = useId();
  const hintId = hint ? `${id}-hint` : undefined;
  return html`<div class="field"><label for=${id}>${label}</label>${children(id, hintId)}${hint && html`<small id=${hintId}>${hint}</small>`}</div>`;
}

/** What an input calls with each text that is typed. @param {(text: string) => void} call */
export const typed = (call) => (/** @type {any} */ event) => call(event.target.value);

/** Words to find something by. @param {{label: string, value: string, onText: (text: string) => void}} props */
export function Search({ label, value, onText }) {
  return html`<input type="search" aria-label=${label} placeholder=${label} value=${value} onInput=${typed(onText)} />`;
}

/** One of several values, each with its words. @param {{label: string, value: string | number, of: [string | number, string][], onChoice: (value: string) => void}} props */
export function Choice({ label, value, of, onChoice }) {
  return html`<${Field} label=${label}>${(/** @type {string} */ id) => html`<select id=${id} value=${value} onChange=${typed(onChoice)}>
    ${of.map(([one, words]) => html`<option key=${one} value=${one}>${clean(words)}</option>`)}
  </select>`}<//>`;
}

/** @param {{text: string, label?: string}} props */
export function CopyButton({ text, label = T.copy }) {
  return html`<${Button} kind="quiet" onClick=${async () => notify((await copyText(text)) ? T.copied : T.notCopied)}>${label}<//>`;
}

/** Whether it is in the clipboard now: over plain HTTP browsers have none, and an old way is tried. @param {string} text */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "unseen";
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** @param {{label?: string}} props */
export function Spinner({ label = T.wait }) {
  return html`<span class="spinner" role="status"><i aria-hidden="true"></i>${label}</span>`;
}

/** What the page may do, and what to do about it. @param {{right: "ask" | "manage" | "trust"}} props */
export function NeedsRight({ right }) {
  const now = rights.value;
  if (now === null || now.may[right]) return null;
  return html`<aside class="note"><p>${clean(now.how[right])}</p>
    ${now.needs_key || right !== "trust" ? html`<${Button} onClick=${askForKey}>${hasKey() ? T.otherKey : T.enterKey}<//>` : null}
  </aside>`;
}

/** Open the dialog for a key. */
export function askForKey() {
  keyDialog.value = true;
}
export const keyDialog = signal(false);

/** @param {unknown} error */
export function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}

const SHOWN_MS = 5000;
/** @type {import("../vendor/signals.js").Signal<{id: number, text: string}[]>} */
const toasts = signal([]);
let toastId = 0;

/** Say something in passing, to screen readers, too. @param {string} text */
export function notify(text) {
  toastId += 1;
  const toast = { id: toastId, text: clean(text) };
  toasts.value = [...toasts.value.slice(-2), toast];
  setTimeout(() => {
    toasts.value = toasts.value.filter((one) => one !== toast);
  }, SHOWN_MS);
}

export function Toasts() {
  return html`<div class="toasts" role="status" aria-live="polite">${toasts.value.map((toast) => html`<p key=${toast.id}>${toast.text}</p>`)}</div>`;
}
