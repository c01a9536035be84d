// @ts-check
/** The page: a header with the screens, the screen that the address names (#/chat), and how the connection stands. */
import { onRefused, setKey } from "./api.js";
import { askForKey, Badge, Button, Dialog, Field, keyDialog, notify, Problem, Toasts, typed } from "./components.js";
import { clean, since } from "./format.js";
import { placeOf } from "./places.js";
import { endOwner, redeemLink, refreshRights, rights, useApiKey } from "./rights.js";
import { connection, restart, start, tick } from "./store.js";
import { STRINGS } from "./strings.js";
import { Component, effect, html, render, signal, useEffect, useRef, useState } from "./ui.js";

const T = STRINGS.page;

/** Each screen is a module with `Screen`, loaded when it is first shown. @type {Record<string, () => Promise<any>>} */
const SCREENS = {
  overview: () => import("./overview.js"),
  chat: () => import("./chat.js"),
  votes: () => import("./votes.js"),
  models: () => import("./models.js"),
  requests: () => import("./requests.js"),
  peers: () => import("./peers.js"),
  performance: () => import("./performance.js"),
};

const place = signal(placeOf(location.hash));
/** @type {import("../vendor/signals.js").Signal<{name: string, Screen: any} | null>} */
const screen = signal(null);
addEventListener("hashchange", () => {
  if (location.hash.startsWith("#owner=")) void openLink();
  else place.value = placeOf(location.hash);
});
/** Why the screen that the address names could not be loaded: the node went before it was first shown. */
const notLoaded = signal("");
/** @param {string} name */
function load(name) {
  void SCREENS[name]?.().then(
    (module) => {
      if (place.value.name !== name) return;
      notLoaded.value = "";
      screen.value = { name, Screen: module.Screen };
    },
    (error) => {
      if (place.value.name === name) notLoaded.value = error instanceof Error ? error.message : String(error);
    },
  );
}
effect(() => load(place.value.name));
effect(() => {
  if (connection.value.state === "open" && notLoaded.peek()) load(place.peek().name);
});
effect(() => {
  const title = T.screens[/** @type {keyof typeof T.screens} */ (place.value.name)];
  document.title = rights.value === null ? title : T.document(title, clean(rights.value.node));
});

/** One screen that fails leaves the others. */
class Guard extends Component {
  /** @param {unknown} error @override */
  componentDidCatch(error) {
    this.setState({ problem: error instanceof Error ? error.message : String(error) });
  }

  /** @param {any} props @param {any} state @override */
  render({ children }, state) {
    return state.problem
      ? html`<${Problem} message=${`${T.broken}: ${state.problem}`} retry=${() => this.setState({ problem: "" })} />`
      : children;
  }
}

function Connection() {
  const { state, since: at } = connection.value;
  if (state === "open") return html`<${Badge} state="ok" words=${T.connected} />`;
  if (state === "lost") return html`<${Badge} state="lost" words=${T.lost(since(at) ?? "")} />`;
  if (state === "refused") return html`<${Badge} state="warning" words=${T.refused} />`;
  return html`<${Badge} state=${state === "hidden" ? "idle" : "loading"} words=${state === "hidden" ? T.hidden : T.connecting} />`;
}

function Rights() {
  const [shown, setShown] = useState(false);
  const found = rights.value;
  if (found === null) return null;
  const { may, how } = found;
  const word = may.trust ? T.owner : may.manage ? T.manager : may.ask ? T.guest : T.locked;
  const names = /** @type {("ask" | "manage" | "trust")[]} */ (["ask", "manage", "trust"]);
  return html`<${Button} kind="quiet" onClick=${() => setShown(true)}>${word}<//>
    ${
      shown &&
      html`<${Dialog} title=${T.rights} onClose=${() => setShown(false)}>
        <ul class="stack">
          ${names.map(
            (
              name,
            ) => html`<li class="stack"><div class="row"><${Badge} state=${may[name] ? "ok" : "idle"} words=${may[name] ? T.yes : T.no} /><strong>${T.may[name]}</strong></div>
              <p class="soft">${clean(how[name])}</p></li>`,
          )}
        </ul>
        <footer>
          ${may.trust && html`<${Button} onClick=${() => endOwner().then(restart)}>${T.endOwner}<//>`}
          <${Button} onClick=${() => {
            setShown(false);
            keyDialog.value = true;
          }}>${T.useKey}<//>
        </footer>
      <//>`
    }`;
}

function KeyDialog() {
  const [key, setTyped] = useState("");
  const [problem, setProblem] = useState("");
  const close = () => {
    setTyped("");
    setProblem("");
    keyDialog.value = false;
  };
  if (!keyDialog.value) return null;
  /** @param {Event} event */
  const use = async (event) => {
    event.preventDefault();
    try {
      if (!(await useApiKey(key.trim()))) {
        setProblem(T.keyWrong);
        return;
      }
      close();
      restart();
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    }
  };
  const forget = () => {
    setKey(null);
    close();
    void refreshRights().then(restart, restart);
  };
  return html`<${Dialog} title=${T.key} onClose=${close}>
    <form class="stack" onSubmit=${use}>
      <${Field} label=${T.key} hint=${T.keyHint}>${(/** @type {string} */ id, /** @type {string} */ hint) =>
        html`<input id=${id} aria-describedby=${hint} type="password" autocomplete="off" value=${key} onInput=${typed(setTyped)} />`}<//>
      <${Problem} message=${problem} />
      <footer class="row"><${Button} kind="main" type="submit">${T.useThisKey}<//><${Button} onClick=${forget}>${T.forgetKey}<//></footer>
    </form>
  <//>`;
}

function Page() {
  const shown = screen.value;
  const { state, why } = connection.value;
  useEffect(() => {
    const timer = setInterval(() => {
      if (!document.hidden) tick();
    }, 1000);
    return () => clearInterval(timer);
  }, []);
  const { name } = place.value;
  const heading = /** @type {{current: HTMLElement | null}} */ (useRef(null));
  const before = useRef(name);
  useEffect(() => {
    if (before.current !== name) heading.current?.focus(); // where a reader of the new screen begins
    document.querySelector("nav>[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" }); // on a phone it may be beyond the edge
    before.current = name;
  }, [name]);
  return html`
    <a class="skip" href="#content" onClick=${(/** @type {Event} */ event) => {
      event.preventDefault();
      document.querySelector("main")?.focus();
    }}>${T.skip}</a>
    <header class="top">
      <h1><img src="/page/icon.svg" alt="" />${T.title}</h1>
      <nav aria-label=${T.screensLabel}>
        ${Object.entries(T.screens).map(
          ([name, title]) => html`<a href=${`#/${name}`} aria-current=${place.value.name === name ? "page" : undefined}>${title}</a>`,
        )}
      </nav>
      <div class="state"><span role="status"><${Connection} /></span><${Rights} /></div>
    </header>
    <main id="content" tabindex="-1" aria-busy=${shown?.name !== name && !notLoaded.value}>
      <h2 ref=${heading} tabindex="-1" class=${name === "chat" ? "unseen" : ""}>${T.screens[/** @type {keyof typeof T.screens} */ (place.value.name)]}</h2>
      ${state === "lost" && html`<aside class="note" role="alert"><p><strong>${T.lostTitle}</strong><br />${T.lostWhy(clean(why))}</p></aside>`}
      ${state === "refused" && html`<aside class="note" role="alert"><p>${clean(why)}</p><${Button} onClick=${askForKey}>${STRINGS.components.enterKey}<//></aside>`}
      ${
        notLoaded.value
          ? html`<${Problem} message=${T.notLoaded(notLoaded.value)} retry=${() => load(name)} />`
          : shown && html`<${Guard} key=${shown.name}><${shown.Screen} rest=${place.value.rest} /><//>`
      }
    </main>
    <${KeyDialog} />
    <${Toasts} />
  `;
}

/** The link of `swarm page`, in a new tab or pasted into an open one. */
async function openLink() {
  const problem = await redeemLink();
  if (problem === null) return;
  await refreshRights().catch(() => undefined); // a node that is away is said by the connection
  notify(problem ? T.linkFailed(problem) : T.linkOpened);
}

async function begin() {
  render(html`<${Page} />`, /** @type {Element} */ (document.getElementById("page")));
  await openLink();
  try {
    await refreshRights();
    if (!rights.value?.may.ask) keyDialog.value = true;
  } catch {
    // the connection says it, and asks again
  }
  start();
}

const lookAgain = () => void refreshRights().catch(() => undefined);
onRefused(lookAgain); // so that the page says what it may do now, and how to get more
effect(() => {
  if (connection.value.state === "open") lookAgain();
});
void begin();
