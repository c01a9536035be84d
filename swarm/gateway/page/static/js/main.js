// @ts-check
/** The page: a header with the screens, the screen that the address names (#/chat), and how the connection stands. */
import { connection, start } from "./store.js";
import { STRINGS } from "./strings.js";
import { effect, html, render, signal } from "./ui.js";

/** Each screen is a module with `Screen`, loaded when it is first shown. */
const SCREENS = {
  overview: () => import("./overview.js"),
  chat: () => import("./chat.js"),
  votes: () => import("./votes.js"),
  models: () => import("./models.js"),
  requests: () => import("./requests.js"),
  peers: () => import("./peers.js"),
  performance: () => import("./performance.js"),
};
const FIRST = "overview";

/** The name of the screen and what follows it: #/votes/ID. @param {string} hash */
export function placeOf(hash) {
  const [name = "", ...rest] = hash.replace(/^#\/?/, "").split("/");
  return { name: Object.hasOwn(SCREENS, name) ? name : FIRST, rest: rest.map(decodeURIComponent) };
}

const place = signal(placeOf(location.hash));
/** @type {import("../vendor/signals.js").Signal<any>} */
const screen = signal(null);

addEventListener("hashchange", () => {
  place.value = placeOf(location.hash);
});
effect(() => {
  const { name } = place.value;
  void SCREENS[/** @type {keyof typeof SCREENS} */ (name)]().then((module) => {
    if (place.value.name === name) screen.value = module.Screen;
  });
});

function Page() {
  const Screen = screen.value;
  return html`
    <header>
      <h1>${STRINGS.page.title}</h1>
      <nav>
        ${Object.entries(STRINGS.page.screens).map(
          ([name, title]) => html`<a href=${`#/${name}`} aria-current=${place.value.name === name ? "page" : undefined}>${title}</a>`,
        )}
      </nav>
      <p role="status">${connection.value.state}</p>
    </header>
    <main>${Screen ? html`<${Screen} rest=${place.value.rest} />` : null}</main>
  `;
}

render(html`<${Page} />`, /** @type {Element} */ (document.getElementById("page")));
start();
