// The state of the page, and what keeps it current: the stream at tier 100, requests that are repeated otherwise.

import { batch, computed, signal } from "@preact/signals";
import { ApiError, get, type Answer } from "./api.ts";
import { applied } from "./pure/board.ts";
import { errorSentence } from "./pure/errors.ts";
import type { Board, Health, Message } from "./pure/model.ts";
import { extended, pace, tapeOrder, type TapeOrder } from "./pure/tape.ts";
import { followStream, type StreamEvents } from "./stream.ts";

const KEY = "ptn-key";
/** Orders that fill the tape at the start. */
const FIRST_ORDERS = 200;
const POLL_MS = { live: 5_000, delayed: 30_000, health: 5_000, hidden: 60_000 };

export type Session = { key: string; tier: number; alias: string };

export const session = signal<Session | null>(null);
/** Whether a stored key is being checked, and why the last one was refused. */
export const login = signal<{ busy: boolean; error: string }>({ busy: false, error: "" });
export const board = signal<Board | null>(null);
export const asOfMs = signal<number | null>(null);
export const boardError = signal("");
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
let boardAnswer: Answer<Board> | null = null;
let cursor: { epoch: string; sequence: number } | null = null;

export async function signIn(key: string): Promise<void> {
  login.value = { busy: true, error: "" };
  try {
    // Both at once: the leaderboard is drawn one round trip earlier.
    const [me, first] = await Promise.all([
      get<{ tier: number; alias: string }>("/me", key),
      get<Board>("/miners", key).catch((error: unknown) => error as Error),
    ]);
    sessionStorage.setItem(KEY, key);
    batch(() => {
      session.value = { key, tier: me.value.tier, alias: me.value.alias };
      login.value = { busy: false, error: "" };
      if (first instanceof Error) boardError.value = errorSentence(first);
      else takeBoard(first);
    });
    start();
  } catch (error) {
    const refused = error instanceof ApiError && error.status === 401;
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
  cursor = null;
  boardAnswer = null;
  batch(() => {
    session.value = null;
    board.value = null;
    boardError.value = "";
    asOfMs.value = null;
    tape.value = [];
    beat.value = null;
    gap.value = "";
    stream.value = { state: "off", sinceMs: 0, why: "" };
    login.value = { busy: false, error };
  });
}

/** Signs in with the key of this browser tab, if there is one. */
export function resumeSession(): void {
  const key = sessionStorage.getItem(KEY);
  if (key !== null) void signIn(key);
}

/** Requests with the session's key. A key that is no longer valid ends the session. */
export async function load<T>(path: string, known: Answer<T> | null = null): Promise<Answer<T>> {
  const key = session.peek()?.key ?? null;
  try {
    return await get<T>(path, key, known);
  } catch (error) {
    if (error instanceof ApiError && error.status === 401 && key === session.peek()?.key) {
      signOut("The key is no longer valid.");
    }
    throw error;
  }
}

function takeBoard(answer: Answer<Board>): void {
  boardError.value = "";
  if (answer === boardAnswer) return;
  boardAnswer = answer;
  const { value, epoch, sequence } = answer;
  // The stream may be ahead of the answer.
  const later = tape.peek().filter((order) => sequence !== null && order.sequence > sequence);
  board.value = applied(value, later.reverse());
  asOfMs.value = answer.asOfMs;
  if (epoch !== null && sequence !== null) cursor ??= { epoch, sequence };
}

function start(): void {
  const ending = new AbortController();
  stop = () => ending.abort();
  const { key, tier } = session.peek()!;
  const repeat = (ms: () => number, task: () => Promise<void>) => {
    const run = async () => {
      await task().catch(() => {});
      if (!ending.signal.aborted) timer = setTimeout(run, document.hidden ? POLL_MS.hidden : ms());
    };
    let timer = setTimeout(run, ms());
    const wake = () => {
      if (document.hidden) return;
      clearTimeout(timer);
      void run();
    };
    document.addEventListener("visibilitychange", wake, { signal: ending.signal });
    ending.signal.addEventListener("abort", () => clearTimeout(timer));
  };
  repeat(
    () => (tier >= 100 ? POLL_MS.live : POLL_MS.delayed),
    async () => {
      try {
        const answer = await load<Board>("/miners", boardAnswer);
        if (!ending.signal.aborted) takeBoard(answer);
      } catch (error) {
        boardError.value = errorSentence(error);
      }
    },
  );
  void checkHealth();
  repeat(() => POLL_MS.health, checkHealth);
  if (tier >= 100) void followOrders(key, ending.signal);
}

async function checkHealth(): Promise<void> {
  try {
    const answer = await get<Health>("/health", null);
    health.value = answer.value;
    unreachableSince.value = null;
  } catch {
    unreachableSince.value ??= Date.now();
  }
}

async function followOrders(key: string, signal: AbortSignal): Promise<void> {
  stream.value = { state: "connecting", sinceMs: Date.now(), why: "" };
  await fillTape(signal);
  if (signal.aborted) return;
  let pending: TapeOrder[] = [];
  let frame = 0;
  const flush = () => {
    frame = 0;
    const orders = pending.sort((a, b) => a.sequence - b.sequence);
    pending = [];
    batch(() => {
      tape.value = extended(tape.peek(), orders);
      const shown = board.peek();
      if (shown !== null) board.value = applied(shown, orders);
      now.value = Date.now();
    });
  };
  const events: StreamEvents = {
    onState: (state, why) => {
      if (state !== stream.peek().state || why !== stream.peek().why) {
        const same = state === stream.peek().state;
        stream.value = { state, why, sinceMs: same ? stream.peek().sinceMs : Date.now() };
      }
    },
    onOrder: (message: Message) => {
      pending.push(tapeOrder(message, Date.now()));
      if (document.hidden) {
        // A hidden page gets no animation frames.
        if (frame !== 0) cancelAnimationFrame(frame);
        if (pending.length >= 100) flush();
        else frame = requestAnimationFrame(flush);
      } else if (frame === 0) frame = requestAnimationFrame(flush);
    },
    onHeartbeat: (heartbeat) => {
      if (pending.length > 0 && document.hidden) flush();
      const ahead = Date.now() - heartbeat.timestamp;
      clockAheadMs.value = Math.abs(ahead) > 1000 ? ahead : 0;
      beat.value = {
        stale: heartbeat.stale,
        problems: heartbeat.problems ?? [],
        sourceMs: heartbeat.source_ms,
      };
    },
    onGap: (why) => {
      gap.value = why;
    },
    onRefused: (why) => signOut(why),
  };
  await followStream(key, cursor, events, signal);
}

/** Fills the tape with the orders before the stream begins. */
async function fillTape(signal: AbortSignal): Promise<void> {
  try {
    cursor ??= await head();
    const before = (after: number) => load<{ messages: Message[] }>(`/messages?after=${after}&format=delta`);
    const answer = await before(cursor.sequence - FIRST_ORDERS).catch((error: unknown) => {
      const oldest = error instanceof ApiError && error.code === "gone" ? error.body["oldest_sequence"] : null;
      if (typeof oldest !== "number") throw error;
      return before(oldest - 1);
    });
    if (signal.aborted) return;
    tape.value = extended(
      tape.peek(),
      answer.value.messages.map((message) => tapeOrder(message, null)),
    );
  } catch {
    // The stream fills the tape.
  }
}

async function head() {
  const answer = await load<{ head: number; epoch: string }>("/messages");
  return { epoch: answer.value.epoch, sequence: answer.value.head };
}

setInterval(() => {
  if (!document.hidden) now.value = Date.now();
}, 1000);
