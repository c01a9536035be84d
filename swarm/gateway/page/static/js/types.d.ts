/**
 * The shapes of what the node tells, as its dataclasses in `swarm/gateway/observing/` make them (a test holds the two
 * together). Sizes are bytes, times seconds or milliseconds as their names say; null is unknown.
 */
export type PartName = "view" | "node" | "vote" | "finding" | "request" | "usage" | "log" | "pull";

export interface OwnModel {
  id: string;
  engine: string;
  slots: number;
  slots_free: number;
  waiting: number;
  problem: string | null;
  state: "loading" | "ready" | "draining" | "unloading" | "failed";
  reason: string | null;
  pinned: boolean;
  size_bytes: number | null;
  taken_bytes: number | null;
  loading: { share: number | null; left_s: number | null } | null;
  computation: { name: string; version: string; devices: string[]; gpu_layers: number | null; layers: number | null; words: string } | null;
  /** The machines that it lies on, this node first; none where it lies on this node alone. */
  nodes: string[];
}

/** Memory that a node lends for parts of other members' models. `lent`: to whom, of a node that tells. */
export interface LendingEntry {
  total_bytes: number;
  free_bytes: number;
  build: string;
  bytes_per_s: number | null;
  draining: boolean;
  lent: { node: string; model: string; bytes: number; pool: string }[];
  problem: string | null;
}

/** Part `node`, by node id: this node and each peer, as each tells of itself. */
export interface NodeState {
  id: string;
  name: string;
  url: string;
  version: string;
  mode: "open" | "paired";
  status: string;
  /** own: this node; peer: as it told `age_s` ago; unknown: it does not tell (an older version, or dead). */
  source: "own" | "peer" | "unknown";
  age_s: number;
  /** As this node sees it; own: alive. `since` and `why` of the last change, where it is known. */
  state: "alive" | "suspect" | "dead" | "absent";
  since: string | null;
  why: string | null;
  hardware: { cpu: string | null; cores: number | null; ram_bytes: number | null; gpu: string | null; vram_bytes: number | null };
  memory: { pool: string; total_bytes: number | null; free_bytes: number | null; weights_bytes: number; kv_bytes: number; lent_bytes: number }[];
  models: OwnModel[];
  loadable: number;
  tokens_per_s: number;
  running: number;
  waiting: number;
  peers: { id: string; name: string; state: string; rtt_ms: number | null }[];
  lending: LendingEntry | null;
}

export interface UpstreamEntry {
  host: string;
  mode: string;
  reach: string;
  model: string | null;
  models: number;
  requests: number;
  problem: string | null;
}

/** Part `view`, under the key "": this node's view of the swarm, as `GET /v1/federation/health` tells it. */
export interface FederationView {
  status: string;
  node: { id: string; name: string; version: string; url: string; mode: string };
  trust: { mode: string; problem: string | null; absent: { id: string; name: string }[] };
  access: {
    api: "anyone" | "key";
    peers: "none" | "members" | "anyone" | "nobody";
    management: "this machine" | "this machine or admin key";
  };
  peers: {
    id: string;
    name: string;
    url: string;
    state: string;
    models: string[];
    rtt_ms: number | null;
    least_rtt_ms: number | null;
    last_seen_s: number;
    slots_free: number;
    source: string;
    circuit: string;
    conduct: { answers: number; malformed: number; overstated: number; votes: number; dissent: number; paced: number; refuted: number; replays: number; differing: number };
    problems: string[];
    engines: Record<string, string>;
    /** Of its models those that lie on several machines, and which these are. */
    pooled: Record<string, string[]>;
    lending: LendingEntry | null;
  }[];
  changes: { at: string; peer: string; id: string; state: string; reason: string; times: number }[];
  rejected: { address: string; source: string; why: string; reason: string }[];
  names: { name: string; addresses: string[]; problem: string | null }[];
  sources: { source: string; problem: string | null }[];
  models: Record<string, string[]>;
  own_models: OwnModel[];
  upstream: UpstreamEntry | null;
  upstreams: UpstreamEntry[];
  records: boolean;
  tools: string[];
  lending: LendingEntry | null;
}

export interface VoteCandidate {
  voter: string;
  model: string;
  group: number | null;
  weight: number;
  tokens: number;
  ms: number;
  abstained?: string;
  answer?: string;
}

/** Part `vote`, by id: without the words of answers and questions. `GET /swarm/v1/votes/ID` has these for managers. */
export interface VoteEntry {
  id: string;
  request_id: string;
  began: string;
  elapsed_ms: number;
  state: "running" | "done" | "failed";
  model: string;
  strategy: string;
  kind: string | null;
  outcome: string | null;
  votes: number;
  asked: number;
  wanted: number | null;
  agreement: number | null;
  margin: number | null;
  stopped_by: string | null;
  winner: string | null;
  coordinator: string;
  confirmed: boolean | null;
  total_completion_tokens: number;
  wasted_tokens: number;
  candidates: VoteCandidate[];
  out: string[];
}

export interface VoteInFull extends VoteEntry {
  /** Whether the words of its answers are here (for those who manage this node). */
  answers: boolean;
  /** Why they are not, in words; null where they are. */
  why: string | null;
  /** Only where the node was started with --record. */
  prompt: { role: string; text: string }[] | null;
}

/** Part `request`, by id (managers). `key`: the name of the key, never the key; null where none was given. */
export interface RequestEntry {
  id: string;
  path: string;
  from: "client" | "node";
  key: string | null;
  model: string | null;
  state: "waiting" | "running";
  /** About how many of its answer have come, where it is streamed; null before the first, and of what another node asks. */
  tokens: number | null;
  running_s: number;
}

/** Part `usage`, by key name (managers): today (UTC) and the days before. */
export interface UsageEntry {
  key: string;
  limits: { requests_a_minute: number | null; tokens_a_day: number | null };
  /** Requests of the last sixty seconds, where these are limited. */
  last_minute: number | null;
  days: { day: string; requests: number; refused: number; prompt_tokens: number; completion_tokens: number }[];
}

/** Part `log`, by number (managers). */
export interface LogLine {
  number: number;
  at: string;
  level: "debug" | "info" | "warning" | "error" | "critical";
  logger: string;
  request_id: string | null;
  text: string;
}

/** Part `pull`, by id (managers). */
export interface PullEntry {
  id: string;
  model: string;
  node: string;
  state: "waiting" | "running" | "done" | "failed" | "cancelled";
  done_bytes: number;
  total_bytes: number | null;
  bytes_per_s: number | null;
  problem: string | null;
}

/** Part `finding`, by id: what is wrong, and what to do. */
export interface FindingEntry {
  id: string;
  level: "problem" | "warning" | "note";
  /** A node's id where it is about one. */
  node: string | null;
  what: string;
  remedy: string;
}

/** `GET /swarm/v1/page`: what this page may do, and how to get more. */
export interface PageRights {
  node: string;
  version: string;
  mode: "open" | "paired";
  needs_key: boolean;
  may: { ask: boolean; manage: boolean; trust: boolean };
  how: { ask: string; manage: string; trust: string };
  /** Sent back as X-Swarm-Page with whatever changes something; null where it may not. */
  token: string | null;
  records: boolean;
}

/** `POST /swarm/v1/page/owner`: what a link of `swarm page` opened. */
export interface OwnerSession {
  session: string;
  expires_in_s: number;
}

/** `GET /swarm/v1/models[?node=NAME]`: what is on a node's disk, or could be. */
export interface StoredModel {
  id: string;
  name: string;
  state: "available" | "loading" | "ready" | "draining" | "unloading" | "failed";
  pinned: boolean;
  size_bytes: number | null;
  need_bytes: number | null;
  fits: boolean | null;
  /** In words, with the numbers: why it fits, or why not. */
  why: string;
  tokens_per_s: number | null;
  engine: string | null;
}

/** `GET /swarm/v1/models[?node=NAME]`. `fit`: the catalogue as it fits now, best first; empty for another node. */
export interface StoredModels {
  node: string;
  free: { pool: string; total_bytes: number | null; free_bytes: number | null; weights_bytes: number; kv_bytes: number }[];
  data: StoredModel[];
  fit: StoredModel[];
}

/** `GET /swarm/v1/performance`: the last hour by minutes; `first_token_ms` are medians, null where nothing was asked. */
export interface Performance {
  /** Unix seconds at which each minute began, the oldest first; 60 at most. */
  minutes: number[];
  waiting: number[];
  series: {
    node: string;
    model: string;
    requests: number[];
    errors: number[];
    first_token_ms: (number | null)[];
    tokens_per_s: (number | null)[];
  }[];
}

/** `GET /swarm/v1/trust/peers`, for the owner. */
export interface KnownNode {
  id: string;
  name: string;
  state: "alive" | "suspect" | "dead" | "absent" | "revoked";
  addresses: string[];
  /** Who revoked it, where that is known. */
  by: string | null;
}

/** A code that is good, and who joined by it. */
export interface KnownCode {
  id: string;
  uses: number;
  joined: string[];
  ends_in_s: number;
}

export interface KnownNodes {
  mode: "open" | "paired";
  swarm: string | null;
  id: string;
  name: string;
  running: boolean;
  nodes: KnownNode[];
  revoked: KnownNode[];
  problem: string | null;
  codes: KnownCode[];
  api: string | null;
}

/** `POST /swarm/v1/trust/invite`: a code for `swarm join`; `qr`: in capitals, as rows of 0 and 1. */
export interface Invited {
  code: string;
  addresses: string[];
  life_s: number;
  node: string;
  was_open: boolean;
  id: string;
  uses: number;
  qr: string[];
}
