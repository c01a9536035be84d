// @ts-check
/** How quickly answers came in the last hour: by node and model, as plots and as a table of the same figures. */
import { get } from "./api.js";
import { Empty, messageOf, Problem, Spinner, Table } from "./components.js";
import { ms, number, short } from "./format.js";
import { hourOf, Plot } from "./plot.js";
import { STRINGS } from "./strings.js";
import { html, useEffect, useState } from "./ui.js";

/** @typedef {import("./types.js").Performance} Performance */
/** @typedef {Performance["series"][number]} Series */

const T = STRINGS.performance;
const ASK_MS = 5000;
const MOST_LINES = 8; // more cannot be told apart

/** The newest figure that there is. Pure. @param {(number | null)[]} figures */
export function newest(figures) {
  return figures.findLast((figure) => figure !== null) ?? null;
}

/** @param {number[]} figures */
const sum = (figures) => figures.reduce((all, one) => all + one, 0);

/**
 * Those that were asked the most first, at most MOST_LINES, as lines of a plot. Pure.
 * @param {Performance} told @param {"first_token_ms" | "tokens_per_s" | "errors" | "requests"} of
 */
export function lines(told, of) {
  return [...told.series]
    .sort((one, other) => sum(other.requests) - sum(one.requests))
    .slice(0, MOST_LINES)
    .map((one) => ({ label: `${short(one.model, 30)} · ${short(one.node, 20)}`, values: one[of] }));
}

/** @type {import("./components.js").Column<Series>[]} */
const COLUMNS = [
  { title: T.model, render: ({ model }) => short(model, 60) },
  { title: T.node, render: ({ node }) => short(node, 40) },
  { title: T.requests, end: true, render: ({ requests }) => number(sum(requests)) },
  { title: T.errors, end: true, render: ({ errors }) => number(sum(errors)) },
  { title: T.firstToken, end: true, render: (row) => ms(newest(row.first_token_ms)) },
  { title: T.tokens, end: true, render: (row) => number(newest(row.tokens_per_s), 1) },
];

export function Screen() {
  const [told, setTold] = useState(/** @type {Performance | null} */ (null));
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const look = async () => {
      if (document.hidden) return;
      try {
        setTold(await get("/swarm/v1/performance"));
        setProblem("");
      } catch (error) {
        setProblem(messageOf(error));
      }
    };
    void look();
    const timer = setInterval(look, ASK_MS);
    return () => clearInterval(timer);
  }, []);
  if (told === null) return problem ? html`<${Problem} message=${problem} />` : html`<${Spinner} />`;
  const asked = sum(told.series.flatMap((one) => one.requests));
  const failed = sum(told.series.flatMap((one) => one.errors));
  const hour = hourOf(told.minutes);
  return html`<div class="stack performance">
    <${Problem} message=${problem} />
    <dl class="figures">
      <div><dt>${T.requests}</dt><dd>${number(asked)}</dd></div>
      <div><dt>${T.errors}</dt><dd>${number(failed)}</dd></div>
      <div><dt>${T.waiting}</dt><dd>${number(newest(told.waiting))}</dd></div>
    </dl>
    ${
      told.series.length === 0
        ? html`<${Empty}>${T.empty}<//>`
        : html`<div class="plots">
            <${Plot} title=${T.firstToken} ...${hour} lines=${lines(told, "first_token_ms")} />
            <${Plot} title=${T.tokens} ...${hour} lines=${lines(told, "tokens_per_s")} />
            <${Plot} title=${T.perMinute} ...${hour} lines=${lines(told, "requests")} />
            <${Plot} title=${T.failedPerMinute} ...${hour} lines=${lines(told, "errors")} />
            <${Plot} title=${T.queue} ...${hour} lines=${[{ label: T.waiting, values: told.waiting }]} />
          </div>
          <h3>${T.hour}</h3>
          <${Table} label=${T.hour} rows=${told.series} rowKey=${(/** @type {Series} */ { node, model }) => `${node} ${model}`} columns=${COLUMNS} />`
    }
    <p class="soft">${T.note}</p>
  </div>`;
}
