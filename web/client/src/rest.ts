/** The REST routes. */

import { asList, baseURL, checkedKey, type Choice } from "./arguments.js";
import {
  AuthenticationError,
  ClientError,
  errorText,
  InvalidInputError,
  ServerUnreachableError,
  SettingsError,
  statusError,
} from "./errors.js";
import { matches, type OrderMessage } from "./frames.js";
import { stream, type Stream, type StreamMessage, type StreamOptions } from "./stream.js";
import { Backoff, sleep } from "./timing.js";
import type * as types from "./types.js";

export type Tier = 0 | 30 | 50 | 100;
export type OrderStatus = "unfilled" | "filled" | "cancelled";

/** How often a request is repeated, after delays (ms) that double, with full jitter. */
export interface Retries {
  times: number;
  first: number;
  /** A server's Retry-After is obeyed unless it is longer than this. */
  longest: number;
}

export interface PTNClientOptions {
  apiKey?: string;
  /** Milliseconds without anything received, for each attempt; default: 30,000. */
  timeout?: number;
  retries?: Partial<Retries>;
  /** How many results are kept with their ETags; default: 8. */
  cache?: number;
  fetch?: typeof fetch;
}

export interface RequestOptions {
  signal?: AbortSignal;
  timeout?: number;
}

/**
 * The positions of miners, best miner first. At tier 100 the document contains everything up to `epoch`,
 * `sequence` and `revision`; lower tiers have `asOfMs` instead: everything up to that time is visible.
 */
export interface MinerPositions {
  miners: Record<string, types.MinerEntry>;
  epoch: string | null;
  sequence: number | null;
  revision: number | null;
  asOfMs: number | null;
  /** The argument of `changes`. */
  cursor: string | null;
  /** Where a stream continues: its option `after`. */
  streamCursor: string | null;
}

/**
 * A page of the stream's messages; continue with `after: next` until `next` is `head`. `oldest` is the oldest
 * sequence that can be read; if it is beyond `head`, there is none.
 */
export interface MessagePage {
  messages: OrderMessage[];
  next: number;
  head: number;
  oldest: number;
  epoch: string;
}

const QUERY_BYTES = 6_000;
/** 304: called unchanged without having been asked whether it is, as by a faulty proxy. */
const RETRIED = [304, 429, 503];

interface Call<T> {
  path: string;
  query?: Record<string, string | number | readonly string[] | undefined>;
  read: (body: never, headers: Headers) => T;
  /** Statuses besides 200 that `read` understands. */
  accept?: number;
  cached?: boolean;
}

/** A server's REST routes. Methods throw the subclasses of ClientError. */
export class PTNClient {
  readonly #base: URL;
  readonly #key: string;
  readonly #options: PTNClientOptions;
  readonly #retries: Retries;
  readonly #fetch: typeof fetch;
  readonly #cache = new Map<string, { etag: string; result: unknown }>();

  /** `url` is the address of the REST server; in a browser it may be relative to the page. */
  constructor(url: string, options: PTNClientOptions = {}) {
    this.#base = baseURL(url, ["http:", "https:"]);
    this.#key = checkedKey(options.apiKey);
    this.#options = options;
    this.#retries = { times: 3, first: 500, longest: 60_000, ...options.retries };
    this.#fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
  }

  // --- positions --------------------------------------------------------------------------------------------

  /** Every miner's positions, best miner first, as a tier shows them (default: 100). */
  async minerPositions(
    filters: { tier?: Tier; miner?: Choice; tradePair?: Choice; status?: "open" | "closed" } = {},
    options?: RequestOptions,
  ): Promise<MinerPositions> {
    const query = {
      tier: filters.tier,
      miner: asList(filters.miner),
      trade_pair: asList(filters.tradePair),
      status: filters.status,
    };
    const call = { path: "miner-positions", query, read: readPositions };
    if (!isLong(query)) return this.#call(call, options);
    const parts: MinerPositions[] = [];
    for (const miner of chunks(query.miner ?? []))
      parts.push(await this.#call({ ...call, query: { ...query, miner }, cached: false }, options));
    return joined(parts);
  }

  /** Changes since the `cursor` of an earlier result (tier 100); status 410: load the whole document. */
  changes(since: string, options?: RequestOptions): Promise<types.Changes> {
    return this.#call({ path: "miner-positions", query: { since }, read: asIs, cached: false }, options);
  }

  /** One miner's entry, at the key's own tier. */
  miner(hotkey: string, options?: RequestOptions): Promise<types.MinerEntry> {
    return this.#get(path("miner-positions", hotkey), {}, options);
  }

  /** Every miner's performance, present exposure and curve, best first. */
  miners(options?: RequestOptions): Promise<types.Leaderboard> {
    return this.#get("miners", {}, options);
  }

  hotkeys(options?: RequestOptions): Promise<string[]> {
    return this.#get("miner-hotkeys", {}, options);
  }

  /** One miner's orders by status (tier 100), by default all. */
  orders(
    hotkey: string,
    filters: { status?: OrderStatus | readonly OrderStatus[] } = {},
    options?: RequestOptions,
  ): Promise<types.OrdersByStatus> {
    return this.#get(path("orders", hotkey), { status: asList(filters.status)?.join(",") }, options);
  }

  /** One miner's limit orders by status (tier 100), by default the unfilled ones. */
  limitOrders(
    hotkey: string,
    filters: { status?: OrderStatus | readonly OrderStatus[] } = {},
    options?: RequestOptions,
  ): Promise<types.OrdersByStatus> {
    const status = asList(filters.status)?.join(",") ?? "unfilled"; // without a status the server sends a list
    return this.#get(path("limit-orders", hotkey), { status }, options);
  }

  // --- the validator's documents ----------------------------------------------------------------------------

  statistics(
    filters: { checkpoints?: boolean } = {},
    options?: RequestOptions,
  ): Promise<types.Statistics> {
    return this.#get("statistics", { checkpoints: filters.checkpoints === false ? "false" : undefined }, options);
  }

  minerStatistics(
    hotkey: string,
    filters: { checkpoints?: boolean } = {},
    options?: RequestOptions,
  ): Promise<types.MinerStatistics> {
    const query = { checkpoints: filters.checkpoints === false ? "false" : undefined };
    return this.#get(path("statistics", hotkey), query, options);
  }

  /** The eliminated miners, with time and reason. */
  async eliminations(options?: RequestOptions): Promise<types.Elimination[]> {
    return (await this.#get<types.Eliminations>("eliminations", {}, options)).eliminations ?? [];
  }

  /** The state that a validator restores from (tier 100). It is large. */
  validatorCheckpoint(options?: RequestOptions): Promise<types.CheckpointDocument> {
    return this.#get("validator-checkpoint", {}, options);
  }

  /** The perf ledger of the miner's portfolio. */
  async perfLedger(hotkey: string, options?: RequestOptions): Promise<types.PerfLedger> {
    const ledgers = await this.#get<Record<string, types.PerfLedger>>(path("perf-ledger", hotkey), {}, options);
    const ledger = ledgers[hotkey];
    if (ledger === undefined) throw new ClientError("the response lacks the miner's ledger", "bad_answer");
    return ledger;
  }

  /** A summary of every miner's debt ledger. */
  debtLedgers(options?: RequestOptions): Promise<Record<string, types.DebtLedgerSummary>> {
    return this.#get("debt-ledger", {}, options);
  }

  debtLedger(hotkey: string, options?: RequestOptions): Promise<types.MinerLedger> {
    return this.#get(path("debt-ledger", hotkey), {}, options);
  }

  emissionsLedger(hotkey: string, options?: RequestOptions): Promise<types.MinerLedger> {
    return this.#get(path("emissions-ledger", hotkey), {}, options);
  }

  penaltyLedger(hotkey: string, options?: RequestOptions): Promise<types.MinerLedger> {
    return this.#get(path("penalty-ledger", hotkey), {}, options);
  }

  /** One miner's place in the competition; with `history` also its earlier ones, oldest first. */
  challengePeriod(
    hotkey: string,
    filters: { history?: boolean } = {},
    options?: RequestOptions,
  ): Promise<types.ChallengePeriod> {
    const query = { history: filters.history === true ? "true" : undefined };
    return this.#get(path("challenge-period", hotkey), query, options);
  }

  /** One miner's account hour by hour, oldest first: the last `limit`, at most 2160 (default: 720). */
  accountSnapshots(
    hotkey: string,
    filters: { limit?: number } = {},
    options?: RequestOptions,
  ): Promise<types.AccountSnapshots> {
    return this.#get(path("account-snapshots", hotkey), filters, options);
  }

  /** The miners' account sizes: all records, or only the last of each miner. */
  collateral(
    filters: { hotkey?: string; mostRecent?: boolean } = {},
    options?: RequestOptions,
  ): Promise<types.Collateral> {
    const query = { hotkey: filters.hotkey, most_recent: filters.mostRecent === true ? "true" : undefined };
    return this.#get("collateral", query, options);
  }

  /** The asset class that each miner chose, by hotkey. */
  async minerSelections(options?: RequestOptions): Promise<types.MinerSelections["miner_selections"]> {
    return (await this.#get<types.MinerSelections>("miner-selections", {}, options)).miner_selections;
  }

  /** All entities with their subaccounts, by hotkey (tier 200). */
  async entities(options?: RequestOptions): Promise<types.Entities["entities"]> {
    return (await this.#get<types.Entities>("entities", {}, options)).entities;
  }

  /** One entity with its subaccounts (tier 200). */
  async entity(hotkey: string, options?: RequestOptions): Promise<types.EntityAnswer["entity"]> {
    return (await this.#get<types.EntityAnswer>(path("entity", hotkey), {}, options)).entity;
  }

  /** Where the entity of a subaccount is reached, which its Hyperliquid address or its hotkey names. No key. */
  entityEndpoint(
    of: { hlAddress?: string; subaccount?: string },
    options?: RequestOptions,
  ): Promise<types.EntityEndpoint> {
    const query = { hl_address: of.hlAddress, subaccount: of.subaccount };
    return this.#get("entity/endpoint", query, options);
  }

  /** The network's trade pairs, or those of one asset class, such as "forex". Needs no key. */
  tradePairs(filters: { assetClass?: string } = {}, options?: RequestOptions): Promise<types.PairList> {
    return this.#get("trade-pairs", { asset_class: filters.assetClass }, options);
  }

  // --- service ----------------------------------------------------------------------------------------------

  /** What the server knows about the API key. */
  me(options?: RequestOptions): Promise<types.Me> {
    return this.#get("me", {}, options);
  }

  /** The server's health, also while it is starting or unhealthy (status 503). Needs no key. */
  health(options?: RequestOptions): Promise<types.Health> {
    return this.#call({ path: "health", read: asIs, accept: 503 }, options);
  }

  /** The stream's messages after a sequence (tier 100); -1 returns none, but where to begin. */
  async messages(
    after = -1,
    filters: {
      epoch?: string;
      limit?: number;
      miner?: Choice;
      tradePair?: Choice;
      format?: "full" | "delta";
    } = {},
    options?: RequestOptions,
  ): Promise<MessagePage> {
    const { epoch, limit, format } = filters;
    const [miners, pairs] = [asList(filters.miner), asList(filters.tradePair)];
    const query = { after, epoch, limit, format, miner: miners, trade_pair: pairs };
    const here = isLong(query); // a filter that is too long for a request is applied here
    if (here) query.miner = query.trade_pair = undefined;
    const page = await this.#call<MessagePage>({ path: "messages", query, read: readPage, cached: false }, options);
    if (!here) return page;
    const subscription = { miners, trade_pairs: pairs };
    return { ...page, messages: page.messages.filter((message) => matches(message, subscription)) };
  }

  /** Follows the orders with this client's address and key, over SSE; see `stream`. */
  stream(options: Omit<StreamOptions, "apiKey"> & { updates: true }): Stream<StreamMessage>;
  stream(options?: Omit<StreamOptions, "apiKey">): Stream;
  stream(options: Omit<StreamOptions, "apiKey"> = {}): Stream<StreamMessage> | Stream {
    return stream(this.#base.href, { fetch: this.#fetch, ...options, apiKey: this.#key });
  }

  // --- requests ---------------------------------------------------------------------------------------------

  #get<T>(path: string, query: Call<T>["query"], options?: RequestOptions): Promise<T> {
    return this.#call({ path, query: query ?? {}, read: asIs }, options);
  }

  async #call<T>(call: Call<T>, options: RequestOptions = {}): Promise<T> {
    const url = new URL(call.path, this.#base);
    url.search = queryText(call.query ?? {});
    const name = url.href;
    const kept = call.cached === false ? undefined : this.#cache.get(name);
    for (let attempt = 0; ; attempt += 1) {
      let failure: ClientError;
      let asked: number | undefined;
      try {
        const { status, headers, body } = await this.#exchange(url, kept?.etag, options);
        if (status === 304 && kept !== undefined) {
          this.#keep(name, kept); // now the most recently used
          return kept.result as T;
        }
        if (status === 200 || status === call.accept) {
          const result = call.read(parsed(body, call.path), headers);
          const etag = headers.get("etag");
          if (call.cached !== false && etag !== null) this.#keep(name, { etag, result });
          return result;
        }
        failure = statusError(status, headers, body);
        // Without a key the server's message would be about an invalid one.
        if (status === 401 && this.#key === "") failure = new AuthenticationError("no API key: pass apiKey", "no_key", 401);
        if (!RETRIED.includes(status)) throw failure;
        if ("retryAfter" in failure) asked = failure.retryAfter as number | undefined;
      } catch (error) {
        if (!(error instanceof ServerUnreachableError)) throw error;
        failure = error;
      }
      const delay = this.#pause(attempt, asked);
      if (delay === null) throw failure;
      await sleep(delay, options.signal);
      options.signal?.throwIfAborted();
    }
  }

  /** The delay before the next attempt; null: there is none. `asked` is the server's Retry-After, in s. */
  #pause(attempt: number, asked: number | undefined): number | null {
    const { times, first, longest } = this.#retries;
    if (attempt >= times || (asked !== undefined && asked * 1_000 > longest)) return null;
    const delay = new Backoff(first * 2 ** attempt, longest, 1).next();
    return asked === undefined ? delay : asked * 1_000 + delay / 4;
  }

  /** Sends one request; throws ServerUnreachableError, or the signal's reason. */
  async #exchange(
    url: URL,
    etag: string | undefined,
    { signal, timeout = this.#options.timeout ?? 30_000 }: RequestOptions,
  ): Promise<{ status: number; headers: Headers; body: string }> {
    signal?.throwIfAborted();
    const abort = new AbortController();
    const cancel = (): void => abort.abort();
    signal?.addEventListener("abort", cancel);
    let timer = setTimeout(cancel, timeout);
    try {
      const response = await this.#fetch(url, {
        headers: {
          accept: "application/json",
          ...(this.#key === "" ? {} : { authorization: `Bearer ${this.#key}` }),
          ...(etag === undefined ? {} : { "if-none-match": etag }),
        },
        cache: "no-store", // the results are kept here
        redirect: "manual", // the key must not go to another address
        signal: abort.signal,
      });
      let body = "";
      if (response.body !== null) {
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        for (let part = await reader.read(); !part.done; part = await reader.read()) {
          body += part.value;
          clearTimeout(timer);
          timer = setTimeout(cancel, timeout);
        }
      }
      return { status: response.status, headers: response.headers, body };
    } catch (error) {
      signal?.throwIfAborted();
      const detail = abort.signal.aborted ? `nothing received for ${timeout} ms` : errorText(error);
      throw new ServerUnreachableError(`no answer: ${detail}`);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", cancel);
    }
  }

  #keep(name: string, entry: { etag: string; result: unknown }): void {
    this.#cache.delete(name);
    this.#cache.set(name, entry);
    const [oldest] = this.#cache.keys();
    if (this.#cache.size > (this.#options.cache ?? 8) && oldest !== undefined) this.#cache.delete(oldest);
  }
}

// --- reading responses --------------------------------------------------------------------------------------

function asIs<T>(body: T): T {
  return body;
}

/** Decodes a body; one that is not JSON is an incomplete response, which is asked for again. */
function parsed(body: string, route: string): never {
  try {
    return JSON.parse(body) as never;
  } catch {
    throw new ServerUnreachableError(`the response to /${route} is not complete JSON`);
  }
}

function readPositions(miners: Record<string, types.MinerEntry>, headers: Headers): MinerPositions {
  const [epoch, sequence, revision] = [headers.get("x-ptn-epoch"), int(headers, "sequence"), int(headers, "revision")];
  return withCursors({ miners, epoch, sequence, revision, asOfMs: int(headers, "as-of") });
}

function withCursors(document: Omit<MinerPositions, "cursor" | "streamCursor">): MinerPositions {
  const { epoch, sequence, revision } = document;
  const cursor = epoch === null ? null : `${epoch}:${revision}`;
  return { ...document, cursor, streamCursor: epoch === null ? null : `${epoch}:${sequence}:${revision}` };
}

function readPage(page: types.Messages): MessagePage {
  const messages = page.messages.map((message) => ({ late: false, replay: false, ...message, type: "order" as const }));
  return { ...page, messages };
}

function int(headers: Headers, name: string): number | null {
  const text = headers.get(`x-ptn-${name}`);
  return text === null ? null : Number(text);
}

// --- requests that are too long -----------------------------------------------------------------------------

function queryText(query: NonNullable<Call<unknown>["query"]>): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query))
    for (const part of Array.isArray(value) ? value : [value])
      if (part !== undefined && part !== "") search.append(name, String(part));
  return search.toString();
}

function isLong(query: NonNullable<Call<unknown>["query"]>): boolean {
  return queryText(query).length > QUERY_BYTES;
}

function chunks(miners: string[]): string[][] {
  const longest = Math.max(...miners.map((miner) => encodeURIComponent(miner).length), 1);
  const size = Math.max(1, Math.floor(QUERY_BYTES / 2 / (longest + "&miner=".length)));
  const parts: string[][] = [];
  for (let at = 0; at < miners.length; at += size) parts.push(miners.slice(at, at + size));
  if (parts.length === 0) throw new SettingsError("too many trade pairs for one request");
  return parts;
}

/** Returns the parts of a positions document as one; what they state about the log are lower bounds. */
function joined(parts: MinerPositions[]): MinerPositions {
  const entries = parts.flatMap(({ miners }) => Object.entries(miners));
  entries.sort(([a, x], [b, y]) => y.thirty_day_returns - x.thirty_day_returns || (a < b ? -1 : 1));
  const least = (name: "sequence" | "revision" | "asOfMs"): number | null => {
    const values = parts.map((part) => part[name]).filter((value) => value !== null);
    return values.length < parts.length ? null : Math.min(...values);
  };
  const epoch = parts.every((part) => part.epoch === parts[0]?.epoch) ? (parts[0]?.epoch ?? null) : null;
  return withCursors({
    miners: Object.fromEntries(entries),
    epoch,
    sequence: epoch === null ? null : least("sequence"),
    revision: epoch === null ? null : least("revision"),
    asOfMs: least("asOfMs"),
  });
}

function path(route: string, hotkey: string): string {
  // An empty hotkey would be the path of another document.
  if (hotkey === "") throw new InvalidInputError("the hotkey is empty", "no_hotkey");
  return `${route}/${encodeURIComponent(hotkey)}`;
}
