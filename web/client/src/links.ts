/** One connection of either transport, as frames of the WebSocket's version 2. */

import { errorText, ServerUnreachableError, SettingsError, statusError, type ClientError } from "./errors.js";
import { EventParser, type ServerSentEvent } from "./events.js";
import type { Subscription } from "./frames.js";
import type { Cursor } from "./session.js";
import type { Timing } from "./timing.js";

/** Why a link ended: a close code, an error, or neither. */
export interface LinkEnd {
  code?: number;
  reason?: string;
  error?: ClientError;
  /** Our own doing, to read what has arrived before more comes: reconnect at once. */
  overflow?: boolean;
}

/** A frame, and the revision up to which everything has arrived with it, where the transport states it. */
export interface Arrival {
  text: string;
  revision?: number | null;
}

export interface Link {
  /** Returns what arrives next; undefined once the link has ended. For one caller at a time. */
  next(): Promise<Arrival | undefined>;
  send(frame: string): void;
  close(): void;
  readonly end: LinkEnd;
  /** Whether only the server sends: it answers nothing, and its heartbeats alone tell its clock. */
  readonly oneWay: boolean;
}

// --- WebSocket ----------------------------------------------------------------------------------------------

/** The part of the standard WebSocket that is used; the package `ws` has it too, and `pause` besides. */
export interface WebSocketLike {
  readonly readyState: number;
  send(data: string): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: "open", listener: () => void): void;
  addEventListener(type: "message", listener: (event: { data: any }) => void): void;
  addEventListener(type: "close", listener: (event: { code: number; reason: string }) => void): void;
  addEventListener(type: "error", listener: (event: any) => void): void;
  pause?(): void;
  resume?(): void;
  terminate?(): void;
}

export type WebSocketConstructor = new (url: string) => WebSocketLike;

const OPEN = 1;
const CLOSED = 3;
const NO_STATUS = 1005;
const ABNORMAL = 1006;
/** Frames in memory before reading pauses. */
const QUEUED = 1_000;
/** Frames in memory before a WebSocket that cannot pause, a browser's, is closed; it resumes later. */
const QUEUED_UNPAUSED = 20_000;

export class WebSocketLink implements Link {
  readonly end: LinkEnd = {};
  readonly oneWay = false;
  readonly #socket: WebSocketLike;
  readonly #closeMs: number;
  #queue: string[] = [];
  #unsent: string[] = [];
  #wake: (() => void) | null = null;
  #ended = false;
  #paused = false;

  constructor(make: WebSocketConstructor, url: string, timing: Timing) {
    this.#closeMs = timing.close;
    const socket = (this.#socket = new make(url));
    const timer = setTimeout(() => this.#fail(`no connection within ${timing.connect} ms`), timing.connect);
    socket.addEventListener("open", () => {
      clearTimeout(timer);
      for (const frame of this.#unsent.splice(0)) socket.send(frame);
    });
    socket.addEventListener("message", ({ data }) => {
      if (this.#ended) return;
      this.#queue.push(typeof data === "string" ? data : new TextDecoder().decode(data));
      if (this.#queue.length > QUEUED && socket.pause !== undefined && !this.#paused) {
        this.#paused = true;
        socket.pause();
      } else if (this.#queue.length > QUEUED_UNPAUSED) {
        this.end.overflow = true;
        this.close();
      }
      this.#wake?.();
    });
    socket.addEventListener("error", (event: { message?: unknown }) => {
      // Browsers give no message. That of `ws` names the address, which holds no key.
      const text = typeof event.message === "string" && event.message ? `: ${event.message}` : "";
      this.end.error ??= new ServerUnreachableError(`no connection${text}`);
    });
    socket.addEventListener("close", ({ code, reason }) => {
      clearTimeout(timer);
      if (code !== NO_STATUS && code !== ABNORMAL) {
        this.end.code ??= code;
        this.end.reason ??= reason;
      }
      this.#finish();
    });
  }

  async next(): Promise<Arrival | undefined> {
    while (this.#queue.length === 0 && !this.#ended) await new Promise<void>((wake) => (this.#wake = wake));
    this.#wake = null;
    const text = this.#queue.shift();
    if (this.#paused && this.#queue.length < QUEUED / 2) {
      this.#paused = false;
      this.#socket.resume?.();
    }
    return text === undefined ? undefined : { text };
  }

  send(frame: string): void {
    if (this.#socket.readyState === OPEN) this.#socket.send(frame);
    else if (this.#socket.readyState < OPEN) this.#unsent.push(frame);
  }

  close(): void {
    this.#finish();
    if (this.#socket.readyState === CLOSED) return;
    if (this.#paused) this.#socket.resume?.();
    this.#socket.close(1000);
    const { terminate } = this.#socket;
    if (terminate !== undefined) {
      const timer = setTimeout(() => terminate.call(this.#socket), this.#closeMs);
      this.#socket.addEventListener("close", () => clearTimeout(timer));
    }
  }

  #fail(detail: string): void {
    this.end.error ??= new ServerUnreachableError(detail);
    this.close();
  }

  #finish(): void {
    this.#ended = true;
    this.#wake?.();
  }
}

// --- Server-Sent Events -------------------------------------------------------------------------------------

/** The last comment of a stream that ends because a newer connection of the same user replaced it. */
const REPLACED = "replaced by a newer connection of the same user";
export const REPLACED_CODE = 4004;
export const SHUTTING_DOWN_CODE = 4000;

/** Longest query of a request: servers and proxies limit a request line to about 8,000 bytes. */
const QUERY_BYTES = 6_000;

/**
 * `GET /stream`, read by `fetch`: `EventSource` cannot send a header, and the key does not belong in a URL.
 *
 * The events are those of the WebSocket without its answers. What the answers would state is derived: the login
 * from the first event's id, and whether the cursor was resumed from whether that event is a `gap`.
 */
export class EventLink implements Link {
  readonly end: LinkEnd = {};
  readonly oneWay = true;
  readonly #abort = new AbortController();
  readonly #events: AsyncGenerator<ServerSentEvent>;
  readonly #cursor: Cursor;
  readonly #heartbeatMs: number;
  #arrivals: Arrival[] = [];
  #first = true;

  constructor(
    url: URL,
    options: {
      apiKey: string;
      cursor: Cursor;
      subscription: Subscription;
      timing: Timing;
      fetch: typeof fetch;
    },
  ) {
    this.#cursor = options.cursor;
    this.#heartbeatMs = options.timing.heartbeat;
    this.#events = this.#read(eventURL(url, options.subscription, options.cursor), options);
  }

  async next(): Promise<Arrival | undefined> {
    while (this.#arrivals.length === 0) {
      const step = await this.#events.next();
      if (step.done === true) return undefined;
      this.#take(step.value);
    }
    return this.#arrivals.shift();
  }

  send(): void {
    // Nothing is sent on this transport: the request says everything.
  }

  close(): void {
    this.#abort.abort();
  }

  async *#read(
    url: URL,
    { apiKey, timing, fetch }: { apiKey: string; timing: Timing; fetch: typeof globalThis.fetch },
  ): AsyncGenerator<ServerSentEvent> {
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      this.#abort.abort();
    }, timing.connect);
    try {
      const response = await fetch(url, {
        headers: { authorization: `Bearer ${apiKey}`, accept: "text/event-stream" },
        cache: "no-store",
        redirect: "manual", // the key must not go to another address
        signal: this.#abort.signal,
      });
      clearTimeout(timer);
      const kind = response.headers.get("content-type") ?? "";
      if (response.status !== 200 || !kind.startsWith("text/event-stream") || response.body === null) {
        this.end.error = statusError(response.status, response.headers, await response.text());
        return;
      }
      const parser = new EventParser((comment) => {
        this.end.reason = comment;
        if (comment === REPLACED) this.end.code = REPLACED_CODE;
      });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read())
        yield* parser.events(part.value);
    } catch (error) {
      const detail = late ? `no answer within ${timing.connect} ms` : errorText(error);
      this.end.error = new ServerUnreachableError(`no connection: ${detail}`);
    } finally {
      clearTimeout(timer);
      this.#abort.abort();
    }
  }

  #take({ event, id, data }: ServerSentEvent): void {
    const place = parseCursor(id);
    if (this.#first && place !== null) {
      this.#first = false;
      const { sequence, epoch } = this.#cursor;
      const resumes = sequence >= 0 && epoch !== null;
      // The id of an order is its own sequence; that of other events states what was sent before.
      const current = event === "order" ? place.sequence - 1 : place.sequence;
      this.#derive({
        status: "success",
        current_sequence: resumes ? sequence : current,
        epoch: place.epoch,
        version: 2,
        heartbeat_ms: this.#heartbeatMs,
      });
      this.#derive({ type: "subscription_status", status: "success", action: "subscribe" });
      // Where the replay ends is not stated; the session goes by the messages' own marks.
      if (resumes && event !== "gap") this.#derive({ type: "resumed", after: sequence, head: sequence });
    }
    this.#arrivals.push({ text: data, revision: place?.revision });
  }

  #derive(frame: object): void {
    this.#arrivals.push({ text: JSON.stringify(frame) });
  }
}

function eventURL(base: URL, subscription: Subscription, cursor: Cursor): URL {
  const url = new URL(base);
  const query = url.searchParams;
  for (const name of subscription.miners ?? []) query.append("miner", name);
  for (const name of subscription.trade_pairs ?? []) query.append("trade_pair", name);
  if (subscription.format !== undefined) query.set("format", subscription.format);
  if (subscription.updates !== undefined) query.set("updates", String(subscription.updates));
  const after = formatCursor(cursor);
  if (after !== null) query.set("after", after);
  if (url.search.length > QUERY_BYTES) {
    const problem = "too many miners or trade pairs for one request";
    throw new SettingsError(`${problem}: use transport: "websocket", or leave the filter out`);
  }
  return url;
}

// --- cursors ------------------------------------------------------------------------------------------------

/** Reads `<epoch>:<sequence>[:<revision>]`; null for anything else. */
export function parseCursor(text: string): Cursor | null {
  const match = /^([^:]+):(-?\d+)(?::(\d+))?$/.exec(text);
  if (match === null) return null;
  return {
    epoch: match[1] as string,
    sequence: Number(match[2]),
    revision: match[3] === undefined ? null : Number(match[3]),
  };
}

/** `<epoch>:<sequence>[:<revision>]`; null for a cursor that no server can resume from. */
export function formatCursor({ epoch, sequence, revision }: Cursor): string | null {
  if (epoch === null || sequence < 0) return null;
  return revision === null ? `${epoch}:${sequence}` : `${epoch}:${sequence}:${revision}`;
}
