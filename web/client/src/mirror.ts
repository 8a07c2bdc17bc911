/** A live mirror of the positions of chosen miners. */

import { asList, warnings, type Choice } from "./arguments.js";
import type { StreamState } from "./connection.js";
import { APIStatusError, AuthenticationError, ClientError, errorText } from "./errors.js";
import type { OrderMessage, PositionMessage } from "./frames.js";
import { PTNClient, type MinerPositions, type PTNClientOptions } from "./rest.js";
import type { Cursor, Gap, StreamItem } from "./session.js";
import { Stream, type StreamOptions } from "./stream.js";
import { DEFAULT_TIMING, ReconnectBackoff, sleep } from "./timing.js";
import type { Order, Position } from "./types.js";

export interface MirrorOptions
  extends Pick<
      StreamOptions,
      "transport" | "onState" | "onGap" | "onWarning" | "stopOnAuthError" | "timing" | "fetch" | "WebSocket"
    >,
    Pick<PTNClientOptions, "timeout" | "retries"> {
  /** A key of tier 100 or above. */
  apiKey: string;
  /** One hotkey or several. */
  miners: Choice;
  /** The address of the stream, if it is another than that of REST, as for `websocket`. */
  streamURL?: string;
  /** A position was added, changed or removed; called for each. */
  onChange?: (minerHotkey: string, positionUuid: string) => void;
  /**
   * After a gap in the stream, a snapshot is loaded within this many ms, at a random time, so that many mirrors
   * do not send requests at once; default: 30,000.
   */
  mendWithin?: number;
}

/**
 * The positions of chosen miners: loaded by REST, then kept up to date by the stream.
 *
 *     const mirror = new Mirror(url, { apiKey, miners: [...] });
 *     await mirror.loaded();
 *     mirror.positions({ status: "open" });
 *     await mirror.close();
 *
 * An open position has `close_ms` null. Positions are replaced when they change, never modified, so a position
 * that is the same object is unchanged. The whole state of a server with its checksum is for the Python client.
 */
export class Mirror {
  readonly #options: MirrorOptions;
  readonly #url: string;
  readonly #miners: string[];
  readonly #rest: PTNClient;
  readonly #warn: (message: string) => void;
  readonly #stop = new AbortController();
  readonly #backoff: ReconnectBackoff;
  readonly #loaded: Promise<void>;
  readonly #running: Promise<void>;
  #positions = new Map<string, Position>();
  #cursor: string | null = null;
  /** By `performance.now`, which nobody sets. */
  #repairAt: number | null = null;
  #stream: Stream | null = null;
  #markLoaded!: () => void;

  /** Starts to load. */
  constructor(url: string, options: MirrorOptions) {
    this.#url = url;
    this.#options = options;
    this.#miners = asList(options.miners) ?? [];
    this.#warn = warnings(options.onWarning);
    const { apiKey, timeout, retries, fetch } = options;
    this.#rest = new PTNClient(url, { apiKey, timeout, retries, fetch, cache: 0 });
    this.#backoff = new ReconnectBackoff({ ...DEFAULT_TIMING, ...options.timing });
    const loading = new Promise<void>((resolve) => (this.#markLoaded = resolve));
    this.#running = this.#follow();
    this.#loaded = Promise.race([loading, this.#running]);
    this.#loaded.catch(() => {}); // whoever waits for it gets the error
    this.#running.catch((error: unknown) => this.#warn(`the mirror ended: ${errorText(error)}`));
  }

  /** Resolves when the first snapshot is here; rejects with the error that ended the mirror. */
  loaded(): Promise<void> {
    return this.#loaded;
  }

  /** Resolves when the mirror has ended; rejects with its error, such as a refused key. */
  ended(): Promise<void> {
    return this.#running;
  }

  /** Stops following; the positions remain readable. */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#stream?.close();
    await this.#running.catch(() => {});
  }

  get state(): StreamState {
    return this.#stream?.state ?? { state: "connecting", connection: "reconnecting", problems: [] };
  }

  get size(): number {
    return this.#positions.size;
  }

  /** The last message of the stream that was applied, as in `Stream.cursor`. */
  get cursor(): string | null {
    return this.#cursor;
  }

  position(minerHotkey: string, positionUuid: string): Position | undefined {
    return this.#positions.get(key(minerHotkey, positionUuid));
  }

  /** Returns the positions, of one miner or all, open or closed or both. */
  positions(filters: { miner?: string; status?: "open" | "closed" } = {}): Position[] {
    const { miner, status } = filters;
    return [...this.#positions.values()].filter(
      (position) =>
        (miner === undefined || position.miner_hotkey === miner) &&
        (status === undefined || (position.is_closed_position === true) === (status === "closed")),
    );
  }

  // --- following --------------------------------------------------------------------------------------------

  async #follow(): Promise<void> {
    await this.#load(null);
    if (this.#stop.signal.aborted) return;
    const { apiKey, streamURL, transport, onState, onGap, onWarning, stopOnAuthError, timing, fetch, WebSocket } =
      this.#options;
    const stream = (this.#stream = new Stream(streamURL ?? this.#url, {
      apiKey,
      transport,
      onState,
      onGap,
      onWarning,
      stopOnAuthError,
      timing,
      fetch,
      WebSocket,
      signal: this.#stop.signal,
      after: this.#cursor,
      miners: this.#miners,
      format: "delta",
      updates: true,
    }));
    for await (const item of stream.items()) {
      this.#apply(item);
      if (item.value?.type !== "gap") this.#cursor = stream.cursor;
      // Only a heartbeat states the revision from which a reconnection resumes; the snapshot must not be older.
      if (this.#repairAt !== null && item.value?.type === "heartbeat" && performance.now() >= this.#repairAt) {
        this.#repairAt = null;
        // The stream waits meanwhile: its items are newer than the response and are applied after it.
        await this.#load(item.cursor);
      }
    }
  }

  #apply({ value }: StreamItem): void {
    switch (value?.type) {
      case "order":
        return this.#applyOrder(value);
      case "position":
        return this.#applyChange(value);
      case "removed":
        for (const [miner, uuid] of value.positions)
          if (this.#positions.delete(key(miner, uuid))) this.#changed(miner, uuid);
        return;
      case "gap":
        return this.#scheduleRepair(value);
    }
  }

  #applyOrder({ data }: OrderMessage): void {
    const { position, order, n_orders: place } = data;
    if (order == null || place == null) return this.#store(position, position.orders ?? []); // format full
    const orders = this.#ordersOf(position);
    const at = orders.findIndex(({ order_uuid }) => order_uuid === order.order_uuid);
    if (at >= 0) orders[at] = order;
    // `n_orders` includes the new order. There may be fewer here, after a gap.
    else orders.splice(place - 1, 0, order);
    this.#store(position, orders);
  }

  #applyChange({ position, orders: changed, order_uuids: uuids }: PositionMessage): void {
    let orders = this.#ordersOf(position);
    for (const order of changed) {
      const at = orders.findIndex(({ order_uuid }) => order_uuid === order.order_uuid);
      if (at >= 0) orders[at] = order;
      else orders.push(order);
    }
    if (uuids !== null) {
      const byUuid = new Map(orders.map((order) => [order.order_uuid, order]));
      orders = uuids.map((uuid) => byUuid.get(uuid)).filter((order) => order !== undefined);
    }
    this.#store(position, orders);
  }

  #ordersOf({ miner_hotkey, position_uuid }: Position): Order[] {
    return [...(this.position(miner_hotkey, position_uuid)?.orders ?? [])];
  }

  #store(summary: Position, orders: Order[]): void {
    const { miner_hotkey: miner, position_uuid: uuid } = summary;
    this.#positions.set(key(miner, uuid), { ...summary, orders });
    this.#changed(miner, uuid);
  }

  #changed(miner: string, uuid: string): void {
    try {
      this.#options.onChange?.(miner, uuid);
    } catch (error) {
      this.#warn(`a callback failed: ${errorText(error)}`);
    }
  }

  // --- snapshots --------------------------------------------------------------------------------------------

  #scheduleRepair(gap: Gap): void {
    if (this.#repairAt !== null) return;
    const delay = Math.random() * (this.#options.mendWithin ?? 30_000);
    this.#repairAt = performance.now() + delay;
    this.#warn(`loading the positions again in ${(delay / 1_000).toFixed(1)} s: a gap (${gap.reason})`);
  }

  /** Loads a snapshot that is not older than the stream's cursor, with retries until one arrives. */
  async #load(cursor: Cursor | null): Promise<void> {
    const { signal } = this.#stop;
    for (;;) {
      try {
        const snapshot = await this.#rest.minerPositions({ miner: this.#miners }, { signal });
        if (cursor === null || !isOlder(snapshot, cursor)) return this.#replace(snapshot);
        await sleep(this.#backoff.after("lost"), signal);
        if (signal.aborted) return;
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof ClientError)) throw error;
        const refused = error instanceof AuthenticationError;
        if (refused && this.#options.stopOnAuthError !== false) throw error;
        if (error instanceof APIStatusError && error.status < 429 && error.code !== "foreign") throw error;
        const delay = this.#backoff.after(refused ? "refused" : "lost");
        this.#warn(`no snapshot: ${error.message}; retrying in ${(delay / 1_000).toFixed(1)} s`);
        await sleep(delay, signal);
        if (signal.aborted) return;
      }
    }
  }

  #replace({ miners, streamCursor }: MinerPositions): void {
    const positions = Object.values(miners).flatMap((entry) => entry.positions);
    const before = this.#positions;
    // 0 in a REST snapshot
    const loaded = positions.map((p) => (p.is_closed_position === true ? p : { ...p, close_ms: null }));
    this.#positions = new Map(loaded.map((p) => [key(p.miner_hotkey, p.position_uuid), p]));
    this.#cursor ??= streamCursor;
    this.#markLoaded();
    for (const { miner_hotkey, position_uuid } of loaded) this.#changed(miner_hotkey, position_uuid);
    for (const [name, { miner_hotkey, position_uuid }] of before)
      if (!this.#positions.has(name)) this.#changed(miner_hotkey, position_uuid);
  }
}

/** Whether the stream is ahead of it: another machine, or another process, may have answered. */
function isOlder({ epoch, sequence, revision }: MinerPositions, cursor: Cursor): boolean {
  if (epoch !== cursor.epoch) return false;
  return (sequence ?? 0) < cursor.sequence || (revision ?? 0) < (cursor.revision ?? 0);
}

function key(minerHotkey: string, positionUuid: string): string {
  return `${minerHotkey}\n${positionUuid}`;
}
