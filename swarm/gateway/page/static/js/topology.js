// @ts-check
/** Where nodes stand in the picture of a swarm, and which lines join them. Pure: the same nodes stand at the same places. */

/** @typedef {import("./types.js").NodeState} NodeState */
/** @typedef {{id: string, x: number, y: number}} Place */
/** @typedef {{from: string, to: string, state: string, rtt_ms: number | null}} Link */

export const WIDTH = 800;
const ROW = 116;
const MARGIN = 64;

/**
 * This node in the middle, the others around it on an ellipse in the order of their ids: who comes or goes moves the others a little,
 * and nothing else does. @param {string[]} ids @param {string} own @returns {{height: number, places: Map<string, Place>}}
 */
export function layOut(ids, own) {
  const others = ids.filter((id) => id !== own).sort();
  const height = Math.min(420, 2 * ROW + Math.max(0, others.length - 4) * 16);
  const middle = { x: WIDTH / 2, y: height / 2 };
  /** @type {Map<string, Place>} */
  const places = new Map();
  if (ids.includes(own)) places.set(own, { id: own, ...middle });
  others.forEach((id, at) => {
    const turn = (2 * Math.PI * (at + 0.5)) / others.length + Math.PI;
    places.set(id, {
      id,
      x: Math.round(middle.x + Math.cos(turn) * (WIDTH / 2 - MARGIN)),
      y: Math.round(middle.y + Math.sin(turn) * (height / 2 - MARGIN / 1.6)),
    });
  });
  return { height, places };
}

/** One line for each two nodes of which one sees the other; of two opinions the worse counts. @param {NodeState[]} nodes @returns {Link[]} */
export function linksOf(nodes) {
  const known = new Set(nodes.map((node) => node.id));
  const worse = ["alive", "suspect", "dead"];
  /** @type {Map<string, Link>} */
  const links = new Map();
  for (const node of nodes) {
    for (const peer of node.peers) {
      if (!known.has(peer.id) || peer.id === node.id) continue;
      const [from, to] = [node.id, peer.id].sort();
      const key = `${from} ${to}`;
      const before = links.get(key);
      const state = before && worse.indexOf(before.state) > worse.indexOf(peer.state) ? before.state : peer.state;
      links.set(key, { from: from ?? "", to: to ?? "", state, rtt_ms: peer.rtt_ms ?? before?.rtt_ms ?? null });
    }
  }
  return [...links.values()];
}
