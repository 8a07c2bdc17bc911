// The state of the page, and what keeps it current: the stream at tier 100, requests that are repeated otherwise.

import { batch, computed, signal } from "@preact/signals";
import { AuthenticationError, PTNClient, type Stream } from "ptn-api-client";
import { applied } from "./pure/board.ts";
import { errorSentence } from "./pure/errors.ts";
import type { Board, Health, OrderMessage } from "./pure/model.ts";
import { extended, pace, tapeOrder, type TapeOrder } from "./pure/tape.ts";

const KEY = "ptn-key";
/** Earlier orders that fill the tape at the start, if the log has as many. */
const FIRST_ORDERS = 200;
const POLL_MS = { live: 5_000, delayed: 30_000, health: 5_000, hidden: 60_000 };
/** A lost connection shall be noticed and restored within seconds, since somebody is watching. */
const RECONNECT_MS = { backoff: 500 };
/** An answer may lack the orders that arrived this long before it. */
const BEHIND_MS = 10_000;

export type Session = { client: PTNClient; tier: number; alias: string };

export const session = signal<Session | null>(null);
/** Whether a stored key is being checked, and why the last one was refused. */
export const login = signal<{ busy: boolean; error: string }>({ busy: false, error: "" });
export const board = signal<Board | null>(null);
/** Why the leaderboard could not be loaded the last time, and since when it cannot. */
export const boardError = signal("");
export const boardFailingSince = signal<number | null>(null);
export const tape = signal<TapeOrder[]>([]);
export const health = signal<Health | null>(null);
/** Since when the server does not answer; null while it does. */
export const unreachableSince = signal<number | null>(null);
export type StreamState = { state: "off" | "connecting" | "open" | "lost"; sinceMs: number; why: string };
export const stream = signal<StreamState>({ state: "off", sinceMs: 0, why: "" });
/** What the last heartbeat stated. It is newer than the last answer of /health. */
export const beat = signal<{ stale: boolean; problems: string[]; sourceMs: number | null } | null>(null);
/** Orders that were missed and cannot be had again, as a sentence. */
export const gap = signal("");
export const now = signal(Date.now());
/** How far this computer's clock is ahead of the server's, if by more than a second. */
const clockAheadMs = signal(0);

export const isLive = computed(() => (session.value?.tier ?? 0) >= 100);
export const pulse = computed(() => pace(tape.value, now.value, clockAheadMs.value));

let stop: () => void = () => {};
let lastAnswer: Board | null = null;

export async function signIn(key: string): Promise<void> {
  login.value = { busy: true, error: "" };
  try {
    // Requests are repeated by their timers, so a failed one is not repeated at once.
    const client = new PTNClient("/", { apiKey: key, timeout: 20_000, retries: { times: 0 } });
    // Both at once: the leaderboard is drawn one round trip earlier.
    const [me, first] = await Promise.all([client.me(), client.miners().catch((error: unknown) => error as Error)]);
    sessionStorage.setItem(KEY, key);
    batch(() => {
      session.value = { client, tier: me.tier, alias: me.alias };
      login.value = { busy: false, error: "" };
      if (first instanceof Error) setBoardError(first);
      else board.value = lastAnswer = first;
    });
    start();
  } catch (error) {
    const refused = error instanceof AuthenticationError;
    if (refused) sessionStorage.removeItem(KEY);
    login.value = {
      busy: false,
      error: refused ? "The server does not know this key, or it has expired." : errorSentence(error),
    };
  }
}

export function signOut(error = ""): void {
  stop();
  stop = () => {};
  sessionStorage.removeItem(KEY);
  batch(() => {
    session.value = null;
    board.value = null;
    setBoardError(null);
    tape.value = [];
    beat.value = null;
    gap.value = "";
    stream.value = { state: "off", sinceMs: 0, why: "" };
    login.value = { busy: false, error };
  });
}

function setBoardError(error: unknown): void {
  boardError.value = error === null ? "" : errorSentence(error);
  boardFailingSince.value = error === null ? null : (boardFailingSince.peek() ?? Date.now());
}

/** Signs in with the key of this browser tab, if there is one. */
export function resumeSession(): void {
  const key = sessionStorage.getItem(KEY);
  if (key !== null) void signIn(key);
}

/** Requests something with the session's key. A key that is no longer valid ends the session. */
export async function load<T>(request: (client: PTNClient) => Promise<T>): Promise<T> {
  const { client } = session.peek()!;
  try {
    return await request(client);
  } catch (error) {
    const isCurrent = client === session.peek()?.client;
    if (isCurrent && error instanceof AuthenticationError && error.status !== 403) {
      signOut("The key is no longer valid.");
    }
    throw error;
  }
}

/** Repeats a task until the signal is aborted; rarely while the page is hidden, and at once when it is shown. */
function repeat(signal: AbortSignal, ms: number, task: () => Promise<void>): void {
  let timer = 0;
  let running = false;
  const run = async () => {
    clearTimeout(timer);
    if (running) return;
    running = true;
    await task();
    running = false;
    if (!signal.aborted) timer = window.setTimeout(run, document.hidden ? POLL_MS.hidden : ms);
  };
  timer = window.setTimeout(run, ms);
  document.addEventListener("visibilitychange", () => document.hidden || void run(), { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
}

function start(): void {
  const ending = new AbortController();
  stop = () => ending.abort();
  const { client, tier } = session.peek()!;
  repeat(ending.signal, tier >= 100 ? POLL_MS.live : POLL_MS.delayed, async () => {
    const sinceMs = Date.now() - BEHIND_MS;
    try {
      const answer = await load((c) => c.miners());
      if (ending.signal.aborted) return;
      setBoardError(null);
      // Without a change, the client returns the same object.
      if (answer === lastAnswer) return;
      lastAnswer = answer;
      const later = tape.peek().filter((order) => (order.arrivedMs ?? 0) > sinceMs);
      board.value = applied(answer, later.reverse());
    } catch (error) {
      if (!ending.signal.aborted) setBoardError(error);
    }
  });
  const checkHealth = async () => {
    try {
      const answer = await client.health();
      if (ending.signal.aborted) return;
      health.value = answer;
      unreachableSince.value = null;
    } catch {
      unreachableSince.value ??= Date.now();
    }
  };
  void checkHealth();
  repeat(ending.signal, POLL_MS.health, checkHealth);
  if (tier >= 100) void followOrders(client, ending.signal);
}

async function followOrders(client: PTNClient, signal: AbortSignal): Promise<void> {
  stream.value = { state: "connecting", sinceMs: Date.now(), why: "" };
  const start = await client.messages().catch(() => null);
  if (signal.aborted) return;
  let why = "";
  let begun = false;
  const setState = (state: StreamState["state"]) => {
    const old = stream.peek();
    const reason = state === "lost" ? why : "";
    if (state === old.state && reason === old.why) return;
    stream.value = { state, why: reason, sinceMs: state === old.state ? old.sinceMs : Date.now() };
  };
  const orders = new Batches(start?.head ?? -1);
  const following: Stream = client.stream({
    format: "delta",
    after: start && `${start.epoch}:${Math.max(start.head - FIRST_ORDERS, start.oldest - 1)}`,
    signal,
    timing: RECONNECT_MS,
    onWarning: (message) => (why = message),
    onState: ({ connection, problems }) => {
      why = problems[0]?.sentence ?? why;
      if (connection === "connected" || connection === "stale") setState("open");
      else if (connection === "reconnecting") setState(stream.peek().state === "connecting" ? "connecting" : "lost");
    },
    onGap: ({ reason }) => {
      // The numbers begin again: those of the former log would hide the new orders.
      if (reason === "epoch" || reason === "future") orders.restart();
      if (begun) gap.value = `Some orders were missed and cannot be sent again (${reason.replace("_", " ")}).`;
    },
  });
  try {
    for await (const { value } of following.items()) {
      if (value?.type !== "gap") begun = true;
      if (value?.type === "order") orders.add(value);
      else if (value?.type === "heartbeat") {
        orders.flushIfHidden();
        clockAheadMs.value = Math.abs(following.clockOffsetMs) > 1000 ? -following.clockOffsetMs : 0;
        beat.value = { stale: value.stale, problems: value.problems ?? [], sourceMs: value.source_ms };
      }
    }
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof AuthenticationError) signOut("The key is no longer valid.");
    else {
      why = errorSentence(error);
      setState("lost");
    }
  }
}

/** Orders that are drawn together, with the next frame. A hidden page has no frames, so it collects some. */
class Batches {
  private pending: TapeOrder[] = [];
  private frame = 0;

  /** The leaderboard contains the orders up to `head` already, and maybe later changes. */
  constructor(private head: number) {}

  /** Forgets all orders, because the numbers of the next ones may be smaller. */
  restart(): void {
    this.pending = [];
    this.head = -1;
    tape.value = [];
  }

  add(message: OrderMessage): void {
    const order = tapeOrder(message, Date.now());
    if (order === null) return;
    this.pending.push(order);
    if (this.pending.length >= 500) this.flush();
    else if (this.frame === 0) this.frame = requestAnimationFrame(() => this.flush());
  }

  flushIfHidden(): void {
    if (document.hidden && this.pending.length > 0) this.flush();
  }

  private flush(): void {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const orders = this.pending.sort((a, b) => a.sequence - b.sequence);
    this.pending = [];
    batch(() => {
      tape.value = extended(tape.peek(), orders);
      const shown = board.peek();
      if (shown !== null) board.value = applied(shown, orders.filter((order) => order.sequence > this.head));
      now.value = Date.now();
    });
  }
}

setInterval(() => {
  if (!document.hidden) now.value = Date.now();
}, 1000);
