// The live stream, by Server-Sent Events over fetch: EventSource cannot send the key in a header.

import type { Message } from "./pure/model.ts";
import { EventParser } from "./pure/sse.ts";

export type Heartbeat = {
  timestamp: number;
  source_ms: number | null;
  stale: boolean;
  problems?: string[];
};

export type StreamEvents = {
  onState(state: "connecting" | "open" | "lost", why: string): void;
  onOrder(message: Message): void;
  onHeartbeat(heartbeat: Heartbeat): void;
  onGap(why: string): void;
  onRefused(why: string): void;
};

/** A connection without any event for this long is dead: heartbeats come every 15 s. */
const SILENCE_MS = 35_000;
const BACKOFF_MS = { first: 500, longest: 15_000 };

/** Follows the stream from the cursor until aborted, and reconnects without loss as long as the server allows. */
export async function followStream(
  key: string,
  cursor: { epoch: string; sequence: number } | null,
  events: StreamEvents,
  signal: AbortSignal,
): Promise<void> {
  let lastId = cursor === null ? null : `${cursor.epoch}:${cursor.sequence}`;
  let failures = 0;
  while (!signal.aborted) {
    const attempt = new AbortController();
    const abort = () => attempt.abort();
    signal.addEventListener("abort", abort);
    let silence = setTimeout(abort, SILENCE_MS);
    let why = "the connection was closed";
    try {
      const query = lastId === null ? "" : `&after=${lastId.split(":").slice(0, 2).join(":")}`;
      const response = await fetch(`/stream?format=delta${query}`, {
        headers: { Authorization: `Bearer ${key}`, Accept: "text/event-stream" },
        cache: "no-store",
        signal: attempt.signal,
      });
      if (response.status === 401 || response.status === 403) {
        events.onRefused("The key is no longer valid.");
        return;
      }
      if (!response.ok || response.body === null) throw new Error(`the server answered with ${response.status}`);
      events.onState("open", "");
      const parser = new EventParser();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        clearTimeout(silence);
        silence = setTimeout(abort, SILENCE_MS);
        for (const event of parser.push(value)) {
          failures = 0;
          if (event.id !== "") lastId = event.id;
          if (event.type === "order") events.onOrder(JSON.parse(event.data) as Message);
          else if (event.type === "heartbeat") events.onHeartbeat(JSON.parse(event.data) as Heartbeat);
          else if (event.type === "gap") events.onGap("Some orders were missed and cannot be sent again.");
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      why = error instanceof TypeError ? "the server cannot be reached" : (error as Error).message;
      if (attempt.signal.aborted) why = "the server fell silent";
    } finally {
      clearTimeout(silence);
      signal.removeEventListener("abort", abort);
    }
    if (signal.aborted) return;
    events.onState("lost", why);
    const longest = Math.min(BACKOFF_MS.longest, BACKOFF_MS.first * 2 ** failures);
    failures += 1;
    await new Promise((resolve) => setTimeout(resolve, longest * (0.5 + Math.random() / 2)));
  }
}
