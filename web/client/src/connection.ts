/** The connection to one server: it feeds the session, reconnects after every failure, and fills the inbox. */

import { APIStatusError, AuthenticationError, PTNError } from "./errors.js";
import type { Subscription } from "./frames.js";
import { REPLACED_CODE, SHUTTING_DOWN_CODE, type Link, type LinkEnd } from "./links.js";
import {
  ClientSession,
  ClockOffset,
  type Cursor,
  type SessionEvent,
  type State,
  type StreamItem,
} from "./session.js";
import { ReconnectBackoff, sleep, type Timing } from "./timing.js";

/** Something that is wrong: with the connection or, as its heartbeats tell, with the server. */
export interface StreamProblem {
  code: string;
  sentence: string;
  remedy: string;
}

/** What `onState` gets. `connection` is the state in fewer words. */
export interface StreamState {
  state: State;
  connection: "connected" | "stale" | "reconnecting" | "stopped";
  problems: StreamProblem[];
}

const REMEDIES = {
  unreachable: "Check the address, the network and any proxy between; the client goes on trying",
  login_refused: "Check the API key; the server's operator can tell whether it is valid, and its tier",
  evicted: "Run fewer connections with this key, or ask the operator for a higher limit",
  server_restarting: "Nothing: the server is restarted, and the client connects again",
  server_silent: "Nothing, if it passes: the client connects again; otherwise ask the operator",
};

/** How long a server that announced its restart may be unreachable. */
const RESTART_MS = 60_000;

interface Ending {
  kind: "lost" | "restarting" | "evicted" | "refused" | "failed" | "again";
  detail: string;
  error?: PTNError;
}

/** Whether a client should reconnect with the same login after this close code. */
export function shouldReturn(code: number | undefined): boolean {
  return code === undefined || code < 4100 || code > 4199;
}

/** Received items in order, bounded: the connection waits while it is full. For one producer and one consumer. */
export class Inbox {
  readonly #items: StreamItem[] = [];
  #filled: (() => void) | null = null;
  #drained: (() => void) | null = null;
  #closed = false;
  #error: unknown;

  constructor(private readonly limit = 1_000) {}

  /** Appends an item; waits while the inbox is full. */
  async put(item: StreamItem): Promise<void> {
    while (this.#items.length >= this.limit && !this.#closed)
      await new Promise<void>((drained) => (this.#drained = drained));
    if (this.#closed) return;
    this.#items.push(item);
    this.#filled?.();
  }

  /** Waits for the next item; undefined after `close`. Throws the error of `close`, after the items before it. */
  async next(): Promise<StreamItem | undefined> {
    while (this.#items.length === 0 && !this.#closed)
      await new Promise<void>((filled) => (this.#filled = filled));
    const item = this.#items.shift();
    this.#drained?.();
    if (item === undefined && this.#error !== undefined) throw this.#error;
    return item;
  }

  /** Ends the inbox. Without an error queued items are discarded; before an error they are delivered. */
  close(error?: unknown): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#error = error;
    if (error === undefined) this.#items.length = 0;
    this.#filled?.();
    this.#drained?.();
  }
}

/** A connection that is kept up until it is stopped. */
export class Connection {
  readonly clockOffset = new ClockOffset();
  readonly #backoff: ReconnectBackoff;
  readonly #stop = new AbortController();
  #state: State = "stopped";
  #reported = "";
  #linkProblem: StreamProblem[] = [];
  #serverProblems: StreamProblem[] = [];
  #restartEnds = 0;
  #knownGap: number | null = null;
  #link: Link | null = null;
  #ending: Ending | null = null;

  constructor(
    private readonly options: {
      apiKey: string;
      subscription: Subscription;
      timing: Timing;
      inbox: Inbox;
      connect: (cursor: Cursor) => Link;
      onState: (state: StreamState) => void;
      onWarning: (message: string) => void;
      stopOnAuthError: boolean;
      clock: () => number;
    },
    /** Where to continue. */
    public cursor: Cursor,
  ) {
    this.#backoff = new ReconnectBackoff(options.timing);
  }

  get state(): StreamState {
    const words = { connecting: "reconnecting", stale: "stale", stopped: "stopped" } as const;
    const connection = words[this.#state as keyof typeof words] ?? "connected";
    return { state: this.#state, connection, problems: [...this.#linkProblem, ...this.#serverProblems] };
  }

  stop(): void {
    this.#stop.abort();
    this.#link?.close();
  }

  /** Connects and reconnects until it is stopped, or until a refusal is final. */
  async run(): Promise<void> {
    const { inbox, onWarning } = this.options;
    try {
      while (!this.#stop.signal.aborted) {
        this.#enter("connecting");
        const ending = await this.#connectOnce();
        if (this.#stop.signal.aborted) break;
        if (ending.kind === "again") continue;
        const { kind, detail, error } = ending;
        this.#report(kind, detail);
        const final = kind === "failed" || (kind === "refused" && this.options.stopOnAuthError);
        this.#enter("connecting");
        if (final) return inbox.close(error ?? new AuthenticationError(detail));
        const asked = error instanceof APIStatusError ? (error.retryAfter ?? 0) * 1_000 : 0;
        const delay = Math.min(asked, 6 * this.options.timing.backoffMax) + this.#backoff.after(kind === "evicted" || kind === "refused" ? kind : "lost");
        onWarning(`${detail}; retrying in ${(delay / 1_000).toFixed(1)} s`);
        await sleep(delay, this.#stop.signal);
      }
    } catch (error) {
      inbox.close(error); // a bug of this library, or an invalid setting: the iteration throws it
    } finally {
      this.#linkProblem = this.#serverProblems = [];
      this.#enter("stopped");
    }
  }

  #report(kind: Ending["kind"], detail: string): void {
    let code: keyof typeof REMEDIES = "unreachable";
    if (kind === "restarting") code = "server_restarting";
    if (kind === "evicted") code = "evicted";
    if (kind === "refused") code = "login_refused";
    const before = this.#linkProblem[0]?.code;
    const now = performance.now();
    if (kind === "restarting") this.#restartEnds = now + RESTART_MS;
    if (before === "server_silent") code = "server_silent";
    if (before === "server_restarting" && kind === "lost" && now < this.#restartEnds) code = "server_restarting";
    this.#linkProblem = [{ code, sentence: `Not connected: ${detail}`, remedy: REMEDIES[code] }];
    this.#serverProblems = [];
  }

  async #connectOnce(): Promise<Ending> {
    const { timing, clock } = this.options;
    const started = performance.now();
    this.#ending = null;
    const link = (this.#link = this.options.connect(this.cursor));
    const session = new ClientSession({
      apiKey: this.options.apiKey,
      cursor: this.cursor,
      subscription: this.options.subscription,
      knownGap: this.#knownGap,
      pingMs: timing.ping,
      // Over SSE the first event stands for the answer, and may be the first heartbeat.
      loginMs: link.oneWay ? 2 * timing.heartbeat : timing.connect,
      clockOffset: this.clockOffset,
      oneWay: link.oneWay,
    });
    let receiving = false;
    // Counts ticks during which the reader waits for a frame, not wall time: a slow consumer must not pass for a
    // silent server.
    const ticker = setInterval(() => {
      if (!receiving) return;
      for (const event of session.tick(timing.tick, clock())) void this.#handle(event, session, link);
      for (const frame of session.toSend()) link.send(frame);
    }, timing.tick);
    try {
      session.start();
      for (;;) {
        for (const frame of session.toSend()) link.send(frame);
        receiving = true;
        const arrival = await link.next();
        receiving = false;
        if (arrival === undefined) break;
        const { text, revision } = arrival;
        for (const event of session.receive(text, clock(), revision)) await this.#handle(event, session, link);
        if (session.phase === "broken") break;
      }
    } finally {
      clearInterval(ticker);
      link.close();
      this.#link = null;
    }
    this.#backoff.connectedFor(performance.now() - started);
    return ending(this.#ending, link.end);
  }

  async #handle(event: SessionEvent, session: ClientSession, link: Link): Promise<void> {
    switch (event.kind) {
      case "item": {
        const { value, cursor } = event;
        await this.options.inbox.put({ value, cursor });
        this.cursor = cursor;
        if (value?.type !== "heartbeat") return;
        this.#serverProblems = serverProblems(value.problems ?? [], value.stale);
        if (link.oneWay) this.#learnOffset(value.timestamp);
        this.#enter(this.#state);
        return;
      }
      case "state":
        if (event.state !== "stale") this.#linkProblem = [];
        this.#enter(event.state);
        return;
      case "refused":
        this.#ending = { kind: "refused", detail: `login refused: ${event.message}` };
        return;
      case "evicted":
        this.#ending = { kind: "evicted", detail: event.message };
        return;
      case "disconnected":
        // The next connection resumes before the gap; if it is there again, it is permanent.
        if (event.reason === "gap") this.#knownGap = session.cursor.sequence;
        else {
          const sentence = `The server is silent: ${event.detail}`;
          this.#linkProblem = [{ code: "server_silent", sentence, remedy: REMEDIES.server_silent }];
        }
        this.#ending ??= { kind: "lost", detail: event.detail };
        link.close();
        return;
      case "warning":
        this.options.onWarning(event.message);
        return;
      case "logged_in":
        return;
    }
  }

  #learnOffset(serverMs: number): void {
    const now = this.options.clock();
    this.clockOffset.learn(now, serverMs, now);
  }

  #enter(state: State): void {
    this.#state = state;
    const now = this.state;
    const key = [state, ...now.problems.map((problem) => problem.code)].join(" ");
    if (key === this.#reported) return;
    this.#reported = key;
    this.options.onState(now);
  }
}

function serverProblems(codes: string[], stale: boolean): StreamProblem[] {
  return (codes.length > 0 ? codes : stale ? ["source_stale"] : []).map((code) => ({
    code,
    sentence: `The server reports the problem ${code}`,
    remedy: "Ask the server's operator; /health has details",
  }));
}

/** Combines what the server reported before the end with how it ended, which takes precedence. */
function ending(reported: Ending | null, { code, reason, error, overflow }: LinkEnd): Ending {
  if (overflow === true && reported === null) return { kind: "again", detail: "more messages than are read" };
  if (error instanceof AuthenticationError)
    return reported ?? { kind: "refused", detail: `login refused: ${error.message}`, error };
  if (error instanceof APIStatusError) {
    const { status } = error;
    const temporary = status >= 500 || [408, 425, 429].includes(status);
    const ours = error.code !== "foreign" && error.code !== "redirect";
    return { kind: ours && !temporary ? "failed" : "lost", detail: error.message, error };
  }
  const closed = code === undefined ? undefined : `closed with ${code} ${reason ?? ""}`.trimEnd();
  const detail = closed ?? error?.message ?? (reason || "connection lost");
  // A code that forbids a return is a refusal, also without an answer to the login.
  if (!shouldReturn(code)) return reported ?? { kind: "refused", detail: `login refused: ${detail}` };
  if (code === SHUTTING_DOWN_CODE) return { kind: "restarting", detail };
  if (code === REPLACED_CODE) return reported ?? { kind: "evicted", detail };
  // A refusal with a code that invites a return is temporary: the server is full, or shutting down.
  if (code !== undefined && code >= 4000 && code <= 4099 && reported?.kind === "refused")
    return { kind: "lost", detail: reported.detail };
  return reported ?? { kind: "lost", detail };
}
