// @ts-check
/** The last log lines, as they come: filtered, followed or held still; one opened to its fields. Only those in sight are drawn. */
import { Badge, Button, Choice, CopyButton, Dialog, Empty, Search } from "./components.js";
import { clean, clock, number, short } from "./format.js";
import { parts, useParts } from "./store.js";
import { STRINGS } from "./strings.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./ui.js";

/** @typedef {import("./types.js").LogLine} LogLine */

const T = STRINGS.logs;
const LEVELS = ["debug", "info", "warning", "error", "critical"];
const BEYOND = 8; // lines drawn above and below what is in sight
const ROW_PX = { wide: 28, phone: 48 }; // as css/screens.css has them
const PHONE = "(max-width: 760px)";

/** Lines of a level and those above, with the words in them. Pure. @param {LogLine[]} lines @param {string} level @param {string} text */
export function chosen(lines, level, text) {
  const least = LEVELS.indexOf(level);
  const sought = text.trim().toLowerCase();
  return lines.filter(
    (line) => LEVELS.indexOf(line.level) >= least && [line.logger, line.request_id, line.text].join(" ").toLowerCase().includes(sought),
  );
}

/** Which of `count` rows are to be drawn: from, to. Pure. @param {number} count @param {{top: number, high: number, row: number}} seen pixels */
export function inSight(count, { top, high, row }) {
  const first = Math.max(0, Math.min(Math.floor(top / row), count) - BEYOND);
  return [first, Math.min(count, Math.ceil((top + high) / row) + BEYOND)];
}

/** @param {{word: string}} props what to look for at first */
export function Logs({ word }) {
  useParts(["log"]);
  const [level, setLevel] = useState("info");
  const [text, setText] = useState(word);
  const [held, setHeld] = useState(/** @type {LogLine[] | null} */ (null)); // as they were when it was paused
  const live = /** @type {LogLine[]} */ ([...(parts.log?.value.values() ?? [])]);
  const all = held ?? live;
  const lines = chosen(all, level, text);
  const newer = held === null ? 0 : chosen(live, level, text).filter((line) => line.number > (held.at(-1)?.number ?? 0)).length;
  return html`
    <div class="row filters">
      <${Choice} label=${T.level} value=${level} of=${Object.entries(T.levels)} onChoice=${setLevel} />
      <${Search} label=${T.find} value=${text} onText=${setText} />
    </div>
    <div class="row spread">
      <span class="soft">${T.shown(number(lines.length), number(all.length))}</span>
      <${Button} onClick=${() => setHeld(held ? null : live)}>${held ? T.follow(newer) : T.pause}<//>
    </div>
    ${lines.length ? html`<${Lines} lines=${lines} follows=${held === null} pause=${() => setHeld(held ?? live)} find=${setText} />` : html`<${Empty}>${all.length ? T.noMatch : T.empty}<//>`}
    <p class="soft">${T.note}</p>`;
}

/** @param {{lines: LogLine[], follows: boolean, pause: () => void, find: (word: string) => void}} props */
function Lines({ lines, follows, pause, find }) {
  const box = /** @type {{current: HTMLElement | null}} */ (useRef(null));
  const [seen, setSeen] = useState({ top: 0, high: 600, row: ROW_PX.wide });
  const [at, setAt] = useState(/** @type {number | null} */ (null)); // the number of the line that the keyboard is at
  const [opened, setOpened] = useState(/** @type {LogLine | null} */ (null));
  const last = lines.at(-1)?.number;
  const look = () => {
    const { scrollTop: top = 0, clientHeight: high = 0 } = box.current ?? {};
    setSeen({ top, high, row: matchMedia(PHONE).matches ? ROW_PX.phone : ROW_PX.wide });
  };
  useEffect(() => {
    const watcher = new ResizeObserver(look);
    if (box.current) watcher.observe(box.current);
    return () => watcher.disconnect();
  }, []);
  useLayoutEffect(() => {
    if (follows && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [follows, last, lines.length, seen.row, seen.high]);
  const scrolled = () => {
    look();
    const { scrollTop = 0, clientHeight = 0, scrollHeight = 0 } = box.current ?? {};
    if (follows && scrollHeight - scrollTop - clientHeight > 2 * seen.row) pause();
  };
  const open = (/** @type {LogLine | undefined} */ line) => {
    if (line === undefined) return;
    pause();
    setAt(line.number);
    setOpened(line);
  };
  const place = lines.findIndex((line) => line.number === at);
  /** @param {KeyboardEvent} event */
  const pressed = (event) => {
    if (event.key === "Enter") open(lines[place]);
    const from = place < 0 ? lines.length : place;
    const to = /** @type {Record<string, number>} */ ({ ArrowUp: from - 1, ArrowDown: from + 1, Home: 0, End: lines.length - 1 })[
      event.key
    ];
    if (to === undefined) return;
    event.preventDefault();
    pause();
    const next = Math.max(0, Math.min(to, lines.length - 1));
    setAt(lines[next]?.number ?? null);
    const { top, high, row } = seen;
    if (box.current) box.current.scrollTop = Math.min(next * row, Math.max(top, (next + 1) * row - high));
  };
  const [first, end] = inSight(lines.length, seen);
  return html`
    <div class="lines" ref=${box} role="listbox" tabindex="0" aria-label=${T.title} aria-activedescendant=${place >= 0 ? `line-${at}` : undefined} onScroll=${scrolled} onKeyDown=${pressed}>
      <div role="presentation" style=${{ height: `${lines.length * seen.row}px`, paddingTop: `${first * seen.row}px` }}>
        ${lines.slice(first, end).map(
          (
            line,
            nth,
          ) => html`<div key=${line.number} id=${`line-${line.number}`} role="option" aria-selected=${line.number === at} aria-setsize=${lines.length} aria-posinset=${first + nth + 1} class=${line.level} onClick=${() => open(line)}>
            <time>${clock(line.at)}</time><b>${STRINGS.logs.words[line.level]}</b><span>${short(line.text, 300)}</span>
          </div>`,
        )}
      </div>
    </div>
    ${opened && html`<${Opened} line=${opened} onClose=${() => setOpened(null)} find=${find} />`}`;
}

/** @param {{line: LogLine, onClose: () => void, find: (word: string) => void}} props */
function Opened({ line, onClose, find }) {
  const only = (/** @type {string} */ word) => {
    find(word);
    onClose();
  };
  return html`<${Dialog} title=${T.line(number(line.number))} onClose=${onClose} wide=${true}><div class="stack">
    <p><${Badge} state=${line.level === "critical" ? "error" : line.level} words=${T.words[line.level]} /> <time>${clean(line.at)}</time></p>
    <pre>${clean(line.text)}</pre>
    <dl class="details">
      <div><dt>${T.logger}</dt><dd><code>${clean(line.logger)}</code> <${Button} kind="quiet" onClick=${() => only(line.logger)}>${T.onlyLogger}<//></dd></div>
      ${line.request_id !== null && html`<div><dt>${T.request}</dt><dd><code>${clean(line.request_id)}</code> <${Button} kind="quiet" onClick=${() => only(line.request_id ?? "")}>${T.onlyRequest}<//></dd></div>`}
    </dl>
    <div class="row"><${CopyButton} text=${JSON.stringify(line)} /></div>
  </div><//>`;
}
