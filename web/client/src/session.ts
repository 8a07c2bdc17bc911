/**
 * The client's side of one connection: a state machine without socket, clock or storage.
 *
 *     phase        entered when                              arrives while in it
 *     -----        ------------                              -------------------
 *     login        the login was sent                        its answer
 *     idle         logged in, or unsubscribed                replies, heartbeats
 *     subscribing  subscribed, not confirmed                 orders of an earlier subscription
 *     resuming     subscribed from the cursor, not answered  nothing that counts
 *     flowing      the subscription was confirmed            orders without gaps, replies, heartbeats
 *     broken       the connection was given up               nothing that counts, ever
 *
 * The same machine as the Python client's (`ptn_api/wire/client_session.py`, which also states its rules); both
 * are tested with the cases in `test/client_session.json`.
 */

import { InvalidInputError } from "./errors.js";
import {
  matches,
  readFrame,
  type HeartbeatMessage,
  type LoginAccepted,
  type OrderMessage,
  type PositionMessage,
  type RemovedMessage,
  type Resumed,
  type ResumeFailed,
  type ServerFrame,
  type Subscription,
  type SubscriptionAnswer,
} from "./frames.js";

/**
 * What a stream is doing. `stale`: connected, but the server's source is silent or heartbeats are missing.
 * `resync`: messages were missed for good, a snapshot is needed.
 */
export type State = "connecting" | "replaying" | "live" | "stale" | "resync" | "stopped";

/**
 * Why messages are missing. `epoch`, `too_old`, `future`: the server cannot resume from the cursor.
 * `not_replayed`: a server without epochs continued without the missed messages; `restarted`: it also counts
 * from the start again. `hole`: a gap in the server's own numbering. `unreadable`: a malformed message.
 */
export type GapReason =
  | "epoch"
  | "too_old"
  | "future"
  | "not_replayed"
  | "restarted"
  | "hole"
  | "unreadable";

/**
 * The sequence of the last message handled; -1: start with the next one. Valid within its epoch only; without an
 * epoch, as from other servers, only within the connection. With `updates`, `revision` is the state up to which
 * changes of positions have arrived.
 */
export interface Cursor {
  readonly sequence: number;
  readonly epoch: string | null;
  readonly revision: number | null;
}

export const START: Cursor = { sequence: -1, epoch: null, revision: null };

/**
 * The messages between `after` and `next`, both exclusive, will not arrive. With reason `epoch`, `restarted` or
 * `not_replayed` the two may belong to different numberings.
 */
export interface Gap {
  type: "gap";
  after: number;
  next: number;
  reason: GapReason;
}

/** An item to handle, or null if only the cursor moved, and the cursor to continue from afterwards. */
export interface StreamItem {
  value: OrderMessage | PositionMessage | RemovedMessage | HeartbeatMessage | Gap | null;
  cursor: Cursor;
}

export type SessionEvent =
  | ({ kind: "item" } & StreamItem)
  | { kind: "state"; state: State }
  | { kind: "logged_in"; epoch: string | null; user: string }
  /** The login was refused; the close code that follows tells whether for good. */
  | { kind: "refused"; message: string; code: string }
  /** A newer connection of the same user replaced this one. */
  | { kind: "evicted"; message: string }
  /** The server refused one of our frames, or sent one that cannot be decoded. */
  | { kind: "warning"; message: string }
  /** The connection can no longer be used; open a new one. */
  | { kind: "disconnected"; reason: "silent" | "gap"; detail: string };

export type Phase = "login" | "idle" | "subscribing" | "resuming" | "flowing" | "broken";

type Input = "accepted" | "subscribe" | "resume" | "unsubscribe" | "confirmed" | "answered" | "break";

const EVICTED = "MAX_CONNECTIONS_EXCEEDED";

/** A frame whose input is not in the table is unexpected: it is reported as a warning and changes nothing. */
const TRANSITIONS: Record<Phase, Partial<Record<Input, Phase>>> = {
  login: { accepted: "idle", break: "broken" },
  idle: {
    subscribe: "subscribing",
    resume: "resuming", // the first subscribe after a login with a cursor
    unsubscribe: "idle",
    confirmed: "idle", // of a subscription that was ended meanwhile
    break: "broken",
  },
  subscribing: {
    subscribe: "subscribing",
    unsubscribe: "idle",
    confirmed: "flowing",
    break: "broken",
  },
  // Until the answer, regardless of later subscribes.
  resuming: {
    subscribe: "resuming",
    unsubscribe: "resuming",
    confirmed: "resuming",
    answered: "flowing",
    break: "broken",
  },
  flowing: {
    subscribe: "subscribing",
    unsubscribe: "idle",
    confirmed: "flowing", // of the earlier of two subscribes
    break: "broken",
  },
  broken: {},
};

/** How many unknown miners a warning names. */
const NAMED_MINERS = 3;

const INPUTS = {
  login: "accepted",
  subscription_status: "confirmed",
  resumed: "answered",
  resume_failed: "answered",
} as const;

/**
 * The protocol state of one connection. `cursor` is where to continue, and moves as messages arrive. Without a
 * subscription it only logs in. `knownGap` is the sequence after which an earlier connection found a gap
 * already. Times are ms; `loginMs` is the timeout for the answers to the login and to a subscribe.
 */
export class ClientSession {
  cursor: Cursor;
  phase: Phase = "login";
  state: State = "connecting";
  login: LoginAccepted | null = null;
  repeats = 0;
  readonly clockOffset: ClockOffset;

  readonly #apiKey: string;
  readonly #pingMs: number;
  readonly #knownGap: number | null;
  readonly #oneWay: boolean;
  #subscription: Subscription | null;
  readonly #loginMs: number;
  #timeoutMs: number;
  #silenceMs = 0;
  /** How long a subscribe has been waiting for its answer, if one is. */
  #unansweredMs: number | null = null;
  #sincePingMs = 0;
  #resumes = false;
  /** Whether the next message's sequence can be compared with the cursor's. */
  #counts = false;
  /** Whether the next message may skip sequences: the subscription has just changed. */
  #maySkip = false;
  #replayUntil = -1;
  #revision: number | null = null;
  #sourceStale = false;
  #outbox: string[] = [];
  #events: SessionEvent[] = [];

  constructor(options: {
    apiKey: string;
    cursor: Cursor;
    subscription: Subscription | null;
    knownGap?: number | null;
    pingMs?: number;
    loginMs?: number;
    clockOffset?: ClockOffset;
    /** The server does not state where a replay ends; the messages' marks tell. */
    oneWay?: boolean;
  }) {
    const { cursor, subscription } = options;
    this.cursor = subscription === null ? { ...cursor, sequence: -1 } : cursor;
    this.clockOffset = options.clockOffset ?? new ClockOffset();
    this.#apiKey = options.apiKey;
    this.#subscription = subscription;
    this.#knownGap = options.knownGap ?? null;
    this.#oneWay = options.oneWay ?? false;
    this.#pingMs = options.pingMs ?? 15_000;
    this.#loginMs = options.loginMs ?? 10_000;
    this.#timeoutMs = this.#loginMs;
  }

  // --- in and out -------------------------------------------------------------------------------------------

  /** Queues the login. */
  start(): void {
    const resume = this.#canResume ? { last_sequence: this.cursor.sequence } : {};
    const epoch = this.#canResume ? { epoch: this.cursor.epoch } : {};
    this.#send({ api_key: this.#apiKey, ...resume, version: 2, ...epoch });
  }

  /** Returns the queued frames, in order, and empties the queue. */
  toSend(): string[] {
    const frames = this.#outbox;
    this.#outbox = [];
    return frames;
  }

  /**
   * Handles a frame from the server; `wallMs` is the time of its arrival by our clock, epoch ms. `revision` is
   * the state up to which changes have arrived, where the transport states it with every frame.
   */
  receive(text: string, wallMs: number, revision: number | null = null): SessionEvent[] {
    if (this.phase === "broken") return [];
    let frame: ServerFrame | null;
    try {
      frame = readFrame(text);
    } catch (error) {
      if (!(error instanceof InvalidInputError)) throw error;
      return [{ kind: "warning", message: `malformed frame from the server: ${error.message}` }];
    }
    // Once heartbeats are due, nothing else counts: they alone prove that no order is missing.
    const heartbeatsDue = this.#version2 && this.#settled && this.state !== "replaying";
    if (frame?.type === "heartbeat" || !heartbeatsDue) this.#silenceMs = 0;
    this.#revision = revision;
    if (revision !== null) this.cursor = { ...this.cursor, revision };
    if (frame !== null) this.#handle(frame, wallMs);
    return this.#taken();
  }

  /** Counts time spent waiting for frames; other time, as in a slow handler, must not be counted. */
  tick(elapsedMs: number, wallMs: number): SessionEvent[] {
    if (this.phase === "broken") return [];
    this.#silenceMs += elapsedMs;
    this.#sincePingMs += elapsedMs;
    if (this.#unansweredMs !== null) this.#unansweredMs += elapsedMs;
    let detail: string | null = null;
    if (this.#silenceMs > this.#timeoutMs) detail = `nothing received for ${this.#silenceMs} ms`;
    else if (this.#unansweredMs !== null && this.#unansweredMs > this.#loginMs)
      detail = `no answer to the subscribe for ${this.#unansweredMs} ms`;
    if (detail !== null) {
      this.#move("break");
      this.#emit({ kind: "state", state: "stale" });
      this.#emit({ kind: "disconnected", reason: "silent", detail });
    } else if (this.login !== null && this.#sincePingMs >= this.#pingMs) {
      this.#ping(wallMs);
    }
    return this.#taken();
  }

  /** Subscribes, or changes the subscription, from the next order on. */
  subscribe(subscription: Subscription, wallMs: number): void {
    this.#subscription = subscription;
    if (this.login === null || this.phase === "broken") return;
    this.#maySkip = true;
    this.#subscribe(wallMs);
  }

  unsubscribe(wallMs: number): void {
    this.#subscription = null;
    this.#maySkip = true;
    if (this.login === null || this.phase === "broken") return;
    this.#move("unsubscribe");
    this.#send({ type: "unsubscribe", all: true, sender_timestamp: wallMs });
  }

  // --- frames -----------------------------------------------------------------------------------------------

  #handle(frame: ServerFrame, wallMs: number): void {
    switch (frame.type) {
      case "order":
        return this.#order(frame);
      case "batch":
        for (const message of frame.messages) this.#order(message);
        return;
      case "position":
      case "removed":
        return this.#item(frame);
      case "heartbeat":
        return this.#heartbeat(frame);
      case "pong":
        return this.#learnOffset(frame.client_timestamp, frame.server_timestamp, wallMs);
      case "login":
      case "subscription_status":
      case "resumed":
      case "resume_failed":
        return this.#answer(frame, wallMs);
      case "refusal":
      case "error":
        if (frame.type === "refusal" && frame.code === EVICTED)
          return this.#emit({ kind: "evicted", message: frame.message });
        if (frame.type === "refusal" && this.login === null)
          return this.#emit({ kind: "refused", message: frame.message, code: frame.code });
        this.#unansweredMs = null; // it may be about the subscribe
        return this.#warn(`error from the server: ${frame.code || "error"}: ${frame.message}`);
    }
  }

  #answer(frame: LoginAccepted | SubscriptionAnswer | Resumed | ResumeFailed, wallMs: number): void {
    if (frame.type === "subscription_status") {
      if (frame.status !== "success") {
        this.#unansweredMs = null;
        return this.#warn(`error from the server: ${frame.action}: ${frame.message}`);
      }
      if (frame.received_timestamp !== null)
        this.#learnOffset(frame.sender_timestamp, frame.received_timestamp, wallMs);
      if (frame.action !== "subscribe") return;
      const unknown = frame.unknown_miners.slice(0, NAMED_MINERS);
      if (unknown.length > 0) this.#warn(`the validator has no such miner at present: ${unknown.join(", ")}`);
    }
    const input = INPUTS[frame.type];
    const before = this.phase;
    if (TRANSITIONS[before][input] === undefined)
      return this.#warn(`unexpected frame from the server: ${frame.type}, while ${before}`);
    this.#move(input);
    switch (frame.type) {
      case "login":
        return this.#accepted(frame, wallMs);
      case "subscription_status":
        if (before === "subscribing" && this.state !== "replaying") this.#enter("live");
        return;
      case "resumed":
        this.#replayUntil = frame.head;
        return this.#enter(frame.head <= this.cursor.sequence ? "live" : "replaying");
      case "resume_failed": {
        const after = this.cursor.sequence;
        this.cursor = { sequence: frame.head, epoch: frame.epoch, revision: this.#revision };
        this.#enter("resync");
        this.#item({ type: "gap", after, next: frame.head + 1, reason: frame.reason });
        return this.#enter("live");
      }
    }
  }

  #accepted(frame: LoginAccepted, wallMs: number): void {
    this.login = frame;
    if (frame.user) this.#emit({ kind: "logged_in", epoch: frame.epoch, user: frame.user });
    this.#timeoutMs = 2 * (this.#version2 ? frame.heartbeat_ms : this.#pingMs);
    this.#silenceMs = 0;
    const ours = this.cursor;
    const [sequence, epoch] = [frame.current_sequence, frame.epoch];
    this.#resumes = this.#canResume && this.#version2;
    this.#counts = epoch !== null;
    // When resuming, the server's answer to the subscribe tells what is missing; otherwise compare now.
    const same = ours.sequence === sequence && ours.epoch === epoch;
    if (!this.#resumes && (!same || !this.#counts)) {
      let reason: GapReason = sequence < ours.sequence ? "restarted" : "not_replayed";
      if (ours.epoch !== epoch) reason = "epoch";
      else if (!this.#counts && ours.sequence < 0)
        this.#warn("this server cannot resume: orders missed later are reported as gaps");
      this.cursor = { sequence, epoch, revision: null };
      this.#item(ours.sequence < 0 ? null : { type: "gap", after: ours.sequence, next: sequence + 1, reason });
    }
    if (this.#subscription !== null) this.#subscribe(wallMs);
    this.#ping(wallMs);
  }

  #order(message: OrderMessage): void {
    if (this.phase === "broken") return;
    const { sequence } = message;
    if (this.#counts) {
      if (sequence <= this.cursor.sequence) {
        this.repeats += 1;
        return;
      }
      if (sequence !== this.cursor.sequence + 1 && this.#gapless && !this.#gapBefore(sequence)) return;
    }
    this.#counts = true;
    this.#maySkip = false;
    this.cursor = { ...this.cursor, sequence };
    if (this.#oneWay && message.replay) {
      this.#replayUntil = Number.MAX_SAFE_INTEGER;
      this.#enter("replaying");
    }
    const wanted = this.#version2 || matches(message, this.#subscription);
    this.#item(wanted ? { ...message, type: "order" } : null);
    if (this.state === "replaying" && (sequence >= this.#replayUntil || !message.replay)) this.#enter("live");
  }

  /**
   * Messages after the cursor are missing: reconnects for them, once, then reports the gap. Returns whether the
   * connection goes on.
   */
  #gapBefore(next: number): boolean {
    const last = this.cursor.sequence;
    if (this.#version2 && this.#knownGap !== last) {
      this.#move("break");
      const detail = `messages between ${last} and ${next} are missing`;
      this.#emit({ kind: "disconnected", reason: "gap", detail });
      return false;
    }
    this.cursor = { ...this.cursor, sequence: next - 1 };
    this.#item({ type: "gap", after: last, next, reason: "hole" });
    return true;
  }

  #heartbeat(frame: HeartbeatMessage): void {
    this.#sourceStale = frame.stale;
    if (frame.head > this.cursor.sequence && this.#settled) {
      if (this.#gapless) {
        if (!this.#gapBefore(frame.head + 1)) return;
      } else {
        this.cursor = { ...this.cursor, sequence: frame.head };
        this.#maySkip = false;
      }
    }
    if (this.phase === "flowing") this.cursor = { ...this.cursor, revision: frame.revision };
    this.#item(frame);
    const caughtUp = this.state === "replaying" && (this.#oneWay || frame.head >= this.#replayUntil);
    if (this.state === "live" || this.state === "stale" || caughtUp) this.#enter("live");
  }

  // --- helpers ----------------------------------------------------------------------------------------------

  get #canResume(): boolean {
    return this.cursor.sequence >= 0 && this.cursor.epoch !== null;
  }

  get #version2(): boolean {
    return this.login !== null && this.login.version >= 2 && this.login.epoch !== null;
  }

  /** Whether every message up to a heartbeat's head has arrived, as far as it was subscribed to. */
  get #settled(): boolean {
    return this.phase === "idle" || this.phase === "flowing";
  }

  /** Whether the next sequence must be cursor + 1. */
  get #gapless(): boolean {
    const subscription = this.#subscription;
    if (subscription === null || this.#maySkip) return false;
    return subscription.miners === undefined && subscription.trade_pairs === undefined;
  }

  #enter(state: State): void {
    const entered = state === "live" && this.#sourceStale ? "stale" : state;
    if (entered === this.state) return;
    this.state = entered;
    this.#emit({ kind: "state", state: entered });
  }

  #subscribe(wallMs: number): void {
    const first = this.#resumes;
    this.#move(first ? "resume" : "subscribe");
    this.#resumes = false;
    this.#unansweredMs = 0;
    // Version 1 has no filters: `#order` applies them.
    const subscription = this.#version2 ? { ...this.#subscription } : { all: true };
    const revision = first ? (this.cursor.revision ?? undefined) : undefined;
    if (this.#version2) subscription.revision = subscription.updates ? revision : undefined;
    this.#send({ type: "subscribe", sender_timestamp: wallMs, ...subscription });
  }

  #ping(wallMs: number): void {
    this.#sincePingMs = 0;
    this.#send({ type: "ping", timestamp: wallMs });
  }

  #learnOffset(sentMs: unknown, serverMs: number, receivedMs: number): void {
    if (Number.isSafeInteger(sentMs) && (sentMs as number) > 0)
      this.clockOffset.learn(sentMs as number, serverMs, receivedMs);
  }

  #item(value: StreamItem["value"]): void {
    this.#emit({ kind: "item", value, cursor: this.cursor });
  }

  #warn(message: string): void {
    this.#emit({ kind: "warning", message });
  }

  #emit(event: SessionEvent): void {
    this.#events.push(event);
  }

  #taken(): SessionEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }

  #send(frame: object): void {
    this.#outbox.push(JSON.stringify(frame));
  }

  #move(input: Input): void {
    this.phase = TRANSITIONS[this.phase][input] ?? this.phase;
    if (this.#settled) this.#unansweredMs = null;
  }
}

/**
 * Server time minus client time, estimated from requests and replies: positive if the server's clock is ahead.
 *
 * The server replied at some time during the round trip, so a sample is wrong by at most half of it. The sample
 * with the shortest round trip among the last few is used. Samples that contradict each other mean that a clock
 * was set: then only the newest is kept.
 */
export class ClockOffset {
  /** The estimate in ms; 0 before the first sample. */
  ms = 0;
  #samples: { roundTrip: number; offset: number }[] = [];

  learn(sentMs: number, serverMs: number, receivedMs: number): void {
    const roundTrip = receivedMs - sentMs;
    if (roundTrip < 0) {
      // our clock was set back in between
      this.#samples = [];
      this.ms = 0;
      return;
    }
    const offset = serverMs - (sentMs + receivedMs) / 2;
    // The 2 ms: both clocks are read in whole milliseconds.
    const agrees = this.#samples.every(
      (other) => Math.abs(offset - other.offset) <= (roundTrip + other.roundTrip) / 2 + 2,
    );
    this.#samples = [...(agrees ? this.#samples.slice(-7) : []), { roundTrip, offset }];
    const best = this.#samples.reduce((a, b) => (b.roundTrip < a.roundTrip ? b : a));
    this.ms = Math.round(best.offset);
  }
}
