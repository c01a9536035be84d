// @ts-check
/** Where nodes stand in the picture of a swarm, and which lines join them. Pure: the same nodes stand at the same places. */

/** @typedef {import("./types.js").NodeState} NodeState */
/** @typedef {{id: string, x: number, y: number, side: -1 | 0 | 1}} Place `side` of a crowd: its left or its right column */
/** @typedef {{from: string, to: string, state: string, rtt_ms: number | null, lends: boolean}} Link `lends`: one has a part of a model of the other */

/** Widths of the picture: its words stay readable where it is drawn at that many pixels. */
export const WIDTH = 640;
export const NARROW = 340;
/** So many stand around an ellipse; more in two columns, where there is room for their names. */
export const CROWD = 8;
const ROW = 46;

/**
 * All on an ellipse, this node at its left (of a crowd: at the upper left), the others in the order of their ids: who comes or goes moves the others a little, and
 * nothing else does. @param {string[]} ids @param {string} own @param {number} [width] @returns {{height: number, places: Map<string, Place>}}
 */
export function layOut(ids, own, width = WIDTH) {
  const around = [...ids.filter((id) => id === own), ...ids.filter((id) => id !== own).sort()];
  if (around.length > CROWD) return inColumns(around, width);
  const narrow = width < WIDTH;
  const height = Math.min(narrow ? 560 : 480, 240 + Math.max(0, around.length - 5) * 16 * (narrow ? 2 : 1));
  const [across, down] = [width / 2 - (narrow ? 36 : 64), height / 2 - 46];
  const places = around.map((id, at) => {
    const turn = Math.PI + (2 * Math.PI * at) / around.length;
    return {
      id,
      x: Math.round(width / 2 + Math.cos(turn) * across),
      y: Math.round(height / 2 - 8 + Math.sin(turn) * down),
      side: /** @type {const} */ (0),
    };
  });
  return { height, places: new Map(places.map((place) => [place.id, place])) };
}

/** Two columns that bulge, so that each line between two of one stands for itself. @param {string[]} ids @param {number} width */
function inColumns(ids, width) {
  const rows = Math.ceil(ids.length / 2);
  const height = rows * ROW + 16;
  const across = width < WIDTH ? width / 2 - 44 : width / 2 - 175;
  const places = ids.map((id, at) => {
    const side = /** @type {-1 | 1} */ (at < rows ? -1 : 1);
    const y = ((at % rows) + 0.5) * ROW + 2;
    const bulge = Math.sqrt(1 - ((2 * y) / height - 1) ** 2);
    return { id, x: Math.round(width / 2 + side * across * (0.7 + 0.3 * bulge)), y: Math.round(y), side };
  });
  return { height, places: new Map(places.map((place) => [place.id, place])) };
}

/** A name that keeps its beginning and its end, in which names of one house differ. @param {string} name @param {number} most */
export function cutInside(name, most) {
  return name.length <= most ? name : `${name.slice(0, Math.ceil(most / 2) - 1)}…${name.slice(-Math.floor(most / 2))}`;
}

/** One line for each two nodes of which one sees the other; of two opinions the worse counts. @param {NodeState[]} nodes @returns {Link[]} */
export function linksOf(nodes) {
  const known = new Set(nodes.map((node) => node.id));
  const worse = ["alive", "suspect", "dead"];
  const ids = new Map(nodes.map((node) => [node.name, node.id]));
  const lends = (/** @type {NodeState} */ host, /** @type {string} */ id) =>
    host.models.some((model) => model.nodes.some((name) => name !== host.name && ids.get(name) === id));
  /** @type {Map<string, Link>} */
  const links = new Map();
  for (const node of nodes) {
    for (const peer of node.peers) {
      if (!known.has(peer.id) || peer.id === node.id) continue;
      const [from, to] = [node.id, peer.id].sort();
      const key = `${from} ${to}`;
      const before = links.get(key);
      const state = before && worse.indexOf(before.state) > worse.indexOf(peer.state) ? before.state : peer.state;
      links.set(key, {
        from: from ?? "",
        to: to ?? "",
        state,
        rtt_ms: peer.rtt_ms ?? before?.rtt_ms ?? null,
        lends: before?.lends || lends(node, peer.id),
      });
    }
  }
  return [...links.values()];
}
