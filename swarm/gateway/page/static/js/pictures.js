// @ts-check
/**
 * Pictures for a model that sees: made small enough in the browser, as data URLs. Conversations name them (`picture:…`); they lie in this
 * browser's IndexedDB, which has room where local storage has none, or, where it takes none, in this tab until it is closed.
 */
import { newId } from "./conversations.js";
import { signal } from "./ui.js";

const LONGEST_PX = 1344; // what models with eyes are shown at most
const QUALITY = 0.85;
const TABLE = "pictures";
const NAME = /^picture:([0-9a-z]+)-[0-9a-z]+$/;
const LEFT_MS = 3_600_000; // a picture that no conversation names may be one that another tab is about to send

/** What this tab has read; null: it is not in this browser any more. @type {import("../vendor/signals.js").Signal<Map<string, string | null>>} */
const read = signal(new Map());
/** Whether this browser did not take a picture: it goes with the tab. */
export const picturesUnkept = signal(false);
/** @type {Map<string, Promise<boolean>>} those on their way into the browser, and whether it took them */
const storing = new Map();
/** @type {Promise<IDBDatabase> | null} */
let opened = null;

/** Raises where the browser cannot read it. @param {File} file @returns {Promise<string>} */
export async function shrunk(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LONGEST_PX / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.toDataURL(file.type === "image/png" ? "image/png" : "image/jpeg", QUALITY);
}

/** Keep a picture. @param {string} url a data URL @returns {string} its name: what is no data URL is one, or names nothing */
export function hold(url) {
  if (!url.startsWith("data:image/")) return url;
  const name = `picture:${Date.now().toString(36)}-${newId()}`;
  know(name, url);
  const done = change("readwrite", (table) => table.put(url, name)).then(
    () => true,
    () => false,
  );
  storing.set(name, done);
  void done.then((taken) => {
    storing.delete(name);
    if (!taken) picturesUnkept.value = true;
  });
  return name;
}

/** @returns {Promise<boolean>} whether the browser has taken all that was held until now */
export const allStored = async () => (await Promise.all(storing.values())).every(Boolean) && !picturesUnkept.value;

/** The picture of a name: undefined while it is read, null where it is no more. @param {string} name */
export const pictureOf = (name) => read.value.get(name);

/** Read pictures that this tab does not have. @param {string[]} names @returns {Promise<(name: string) => string | null>} all of them */
export async function readPictures(names) {
  for (const name of names) {
    if (read.peek().has(name)) continue;
    let url = null;
    try {
      if (NAME.test(name)) url = await change("readonly", (table) => table.get(name));
    } catch {
      // this browser keeps none
    }
    if (!read.peek().has(name)) know(name, typeof url === "string" ? url : null);
  }
  return (name) => read.peek().get(name) ?? null;
}

/** Forget pictures. @param {string[]} names */
export async function dropPictures(names) {
  const next = new Map(read.peek());
  for (const name of names) next.delete(name);
  read.value = next;
  try {
    await Promise.all(names.map((name) => change("readwrite", (table) => table.delete(name))));
  } catch {
    // this browser keeps none
  }
}

/** Forget those that no conversation names any more. @param {Set<string>} named */
export async function sweepPictures(named) {
  try {
    const there = await change("readonly", (table) => table.getAllKeys());
    await dropPictures(there.map(String).filter((name) => !named.has(name) && !storing.has(name) && ageMs(name) > LEFT_MS));
  } catch {
    // this browser keeps none
  }
}

/** @param {string} name */
const ageMs = (name) => Date.now() - Number.parseInt(NAME.exec(name)?.[1] ?? "0", 36);

/** @param {string} name @param {string | null} url */
function know(name, url) {
  read.value = new Map(read.peek()).set(name, url);
}

/** One step in the database. Raises where the browser has none, or no room. @template T @param {IDBTransactionMode} mode @param {(table: IDBObjectStore) => IDBRequest<T>} act @returns {Promise<T>} */
async function change(mode, act) {
  opened ??= new Promise((done, failed) => {
    const request = indexedDB.open("swarm.pictures", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE);
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });
  let database;
  try {
    database = await opened;
  } catch (error) {
    opened = null; // it may be another time
    throw error;
  }
  const transaction = database.transaction(TABLE, mode);
  const request = act(transaction.objectStore(TABLE));
  return new Promise((done, failed) => {
    transaction.oncomplete = () => done(request.result);
    transaction.onabort = () => failed(transaction.error);
  });
}
