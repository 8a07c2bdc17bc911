/** The stream of a server's orders. */

import { asList, baseURL, requiredKey, warnings, type Choice } from "./arguments.js";
import { Connection, Inbox, type StreamState } from "./connection.js";
import { errorText, SettingsError } from "./errors.js";
import {
  isReadable,
  type OrderMessage,
  type PositionMessage,
  type RemovedMessage,
  type Subscription,
} from "./frames.js";
import {
  EventLink,
  formatCursor,
  parseCursor,
  WebSocketLink,
  type Link,
  type WebSocketConstructor,
} from "./links.js";
import { START, type Cursor, type Gap, type StreamItem } from "./session.js";
import { DEFAULT_TIMING, type Timing } from "./timing.js";
import type { Order } from "./types.js";

export interface StreamOptions {
  /** A key of tier 100 or above. */
  apiKey: string;
  /** Default: `websocket` for an address of ws: or wss:, otherwise `sse`. */
  transport?: "sse" | "websocket";
  /** Continues after this cursor, a former `stream.cursor`; without it the stream starts with the next order. */
  after?: string | null;
  /** Filters, by one name or several; with both, both must match. An empty choice is an error. */
  miners?: Choice;
  tradePairs?: Choice;
  /** `delta`: positions without their orders, and the new order next to them. */
  format?: "full" | "delta";
  /** Also yields changes other than new orders. */
  updates?: boolean;
  /** Messages that will not come, in order with the others: take a snapshot. */
  onGap?: (gap: Gap) => void;
  /** The state or its problems changed; called at once, ahead of messages that are still to be yielded. */
  onState?: (state: StreamState) => void;
  /** Orders older than `maxAgeMs` by the server's clock, which are not yielded. */
  onStale?: (message: OrderMessage) => void;
  maxAgeMs?: number;
  /** Why it reconnects, and what goes wrong; default: `console.warn`. */
  onWarning?: (message: string) => void;
  /** Whether a refused key ends the stream with AuthenticationError (default), or is tried again slowly. */
  stopOnAuthError?: boolean;
  timing?: Partial<Timing>;
  /** Closes the stream when it is aborted. */
  signal?: AbortSignal;
  fetch?: typeof fetch;
  /** A WebSocket class, where there is no global one: that of the package `ws` in Node 20. */
  WebSocket?: WebSocketConstructor;
  /** Epoch ms; for tests. */
  clock?: () => number;
}

export type StreamMessage = OrderMessage | PositionMessage | RemovedMessage;

/**
 * Orders as they happen, across lost connections: none is missed and none comes twice. With `updates`, changes
 * are missed neither, but some may come again after a reconnection.
 *
 *     for await (const message of stream(url, { apiKey })) { ... }
 *
 * For one loop; leaving it closes the stream. A new stream continues with `after: old.cursor`.
 */
export class Stream<M extends StreamMessage = OrderMessage> implements AsyncIterable<M> {
  readonly #options: StreamOptions;
  readonly #inbox = new Inbox();
  readonly #connection: Connection;
  readonly #warn: (message: string) => void;
  readonly #clock: () => number;
  #cursor: Cursor;
  #started = false;
  #running: Promise<void> = Promise.resolve();
  readonly #abort = (): void => void this.close();

  constructor(url: string, options: StreamOptions) {
    const apiKey = requiredKey(options.apiKey);
    const after = options.after ?? null;
    const cursor = after === null ? START : parseCursor(after);
    if (cursor === null) throw new SettingsError("after: not a cursor of a stream");
    if (options.updates === true && after !== null && cursor.revision === null)
      throw new SettingsError("after: updates need a cursor with a revision");
    const timing = { ...DEFAULT_TIMING, ...options.timing };
    const [miners, pairs] = [asList(options.miners), asList(options.tradePairs)];
    const subscription: Subscription = {
      ...(miners === undefined && pairs === undefined ? { all: true } : {}),
      ...(miners === undefined ? {} : { miners }),
      ...(pairs === undefined ? {} : { trade_pairs: pairs }),
      ...(options.format === undefined ? {} : { format: options.format }),
      ...(options.updates === true ? { updates: true } : {}),
    };
    this.#options = options;
    this.#cursor = cursor;
    this.#clock = options.clock ?? Date.now;
    this.#warn = warnings(options.onWarning);
    this.#connection = new Connection(
      {
        apiKey,
        subscription,
        timing,
        inbox: this.#inbox,
        connect: connector(url, options, apiKey, subscription, timing),
        onState: (state) => this.#call(options.onState, state),
        onWarning: this.#warn,
        stopOnAuthError: options.stopOnAuthError ?? true,
        clock: this.#clock,
      },
      cursor,
    );
    const { signal } = options;
    if (signal?.aborted) this.#inbox.close();
    else signal?.addEventListener("abort", this.#abort, { once: true });
  }

  /** The connection's state, which may be ahead of the messages still to be yielded. */
  get state(): StreamState {
    return this.#connection.state;
  }

  /**
   * Where another stream continues, as text: after the message that was yielded last. Store it when you have
   * handled that message. Null before the first message and for servers that cannot resume.
   */
  get cursor(): string | null {
    return formatCursor(this.#cursor);
  }

  /** The server's clock minus this one's, in ms; 0 while unknown. */
  get clockOffsetMs(): number {
    return this.#connection.clockOffset.ms;
  }

  /** Disconnects and ends the iteration; resolves when the connection is closed. */
  async close(): Promise<void> {
    this.#options.signal?.removeEventListener("abort", this.#abort); // it may outlive many streams
    this.#inbox.close();
    this.#connection.stop();
    await this.#running;
  }

  /** How long ago the order was filled, or first seen by the server if that is longer ago, in ms. */
  ageMs(message: OrderMessage): number {
    const now = this.#clock() + this.clockOffsetMs;
    return now - Math.min(newOrder(message)?.processed_ms ?? message.timestamp, message.timestamp);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<M, void, undefined> {
    for await (const { value } of this.items()) {
      if (value === null || value.type === "heartbeat" || value.type === "gap") continue;
      if (value.type === "order" && this.#isStale(value)) this.#call(this.#options.onStale, value);
      else yield value as M;
    }
  }

  /** Yields everything received in order, heartbeats and gaps included; for mirrors. */
  async *items(): AsyncGenerator<StreamItem, void, undefined> {
    if (this.#started) throw new SettingsError("a stream is for one loop: make another with after: stream.cursor");
    this.#started = true;
    if (this.#options.signal?.aborted !== true) this.#running = this.#connection.run();
    try {
      for (;;) {
        const item = await this.#inbox.next();
        if (item === undefined) return;
        this.#cursor = item.cursor;
        yield this.#checked(item);
      }
    } finally {
      await this.close();
    }
  }

  /** Reports gaps; a malformed order becomes one. */
  #checked(item: StreamItem): StreamItem {
    let { value } = item;
    if (value?.type === "order" && !isReadable(value)) {
      const { sequence } = value;
      value = { type: "gap", after: sequence - 1, next: sequence + 1, reason: "unreadable" };
    }
    if (value?.type === "gap") {
      this.#warn(`messages between ${value.after} and ${value.next} are missing: ${value.reason}`);
      this.#call(this.#options.onGap, value);
    }
    return { ...item, value };
  }

  #isStale(message: OrderMessage): boolean {
    const { maxAgeMs } = this.#options;
    return maxAgeMs !== undefined && this.ageMs(message) > maxAgeMs;
  }

  /** Calls a callback; the stream goes on whatever it throws. */
  #call<T>(callback: ((value: T) => void) | undefined, value: T): void {
    try {
      callback?.(value);
    } catch (error) {
      this.#warn(`a callback failed: ${errorText(error)}`);
    }
  }
}

/** Follows a server's orders; with `updates` also other changes of positions. See `Stream`. */
export function stream(url: string, options: StreamOptions & { updates: true }): Stream<StreamMessage>;
export function stream(url: string, options: StreamOptions): Stream;
export function stream(url: string, options: StreamOptions): Stream<StreamMessage> | Stream {
  return new Stream(url, options);
}

/** The order that a message announces. */
export function newOrder(message: OrderMessage): Order | undefined {
  return message.data.order ?? message.data.position.orders?.at(-1);
}

function connector(
  url: string,
  options: StreamOptions,
  apiKey: string,
  subscription: Subscription,
  timing: Timing,
): (cursor: Cursor) => Link {
  const transport = options.transport ?? (/^wss?:/i.test(url) ? "websocket" : "sse");
  if (transport === "sse") {
    const address = new URL("stream", baseURL(url, ["http:", "https:"]));
    const fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    return (cursor) => new EventLink(address, { apiKey, cursor, subscription, timing, fetch });
  }
  const address = baseURL(url, ["ws:", "wss:"]).href;
  const make = options.WebSocket ?? (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
  if (make === undefined)
    throw new SettingsError('no WebSocket class here: pass WebSocket, as from the package "ws"');
  return () => new WebSocketLink(make, address, timing);
}
