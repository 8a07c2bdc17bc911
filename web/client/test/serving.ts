// A server for tests, on a free port, that answers from a script.

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";

export interface Served {
  url: string;
  requests: IncomingMessage[];
}

export type Answer = (request: IncomingMessage, response: ServerResponse) => void;

/** Serves until the test ends; request n gets answer n, later ones the last. */
export async function serving(t: TestContext, ...answers: Answer[]): Promise<Served> {
  const requests: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    const answer = answers[Math.min(requests.length, answers.length - 1)];
    requests.push(request);
    answer?.(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests };
}

export function json(value: unknown, status = 200, headers: Record<string, string> = {}): Answer {
  return (_, response) => {
    response.writeHead(status, { "content-type": "application/json", ...headers });
    response.end(JSON.stringify(value));
  };
}

/** An event stream of these events, which then stays open, or ends. */
export function events(texts: string[], { end = false } = {}): Answer {
  return (_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(texts.join(""));
    if (end) response.end();
  };
}

export function order(
  sequence: number,
  { epoch = "e", revision = 1, ...marks }: { epoch?: string; revision?: number; replay?: boolean; timestamp?: number } = {},
): string {
  const orders = [{ order_uuid: `o${sequence}`, processed_ms: Date.now() }];
  const position = { miner_hotkey: "5A", position_uuid: "p", trade_pair: ["BTCUSD"], orders };
  const data = { sequence, timestamp: Date.now(), data: { position }, ...marks };
  return event("order", `${epoch}:${sequence}:${revision}`, data);
}

export function heartbeat(head: number, { epoch = "e", revision = 1, stale = false } = {}): string {
  const data = { type: "heartbeat", head, revision, timestamp: Date.now(), source_ms: null, stale };
  return event("heartbeat", `${epoch}:${head}:${revision}`, data);
}

export function event(name: string, id: string, data: unknown): string {
  return `event: ${name}\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`;
}

/** Waits for a condition, longer than any machine takes. */
export async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 60_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`still not: ${String(condition)}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

export const QUICK = { connect: 30_000, backoff: 1, backoffMax: 5, tick: 10, refused: 1, eviction: 1, close: 50 };
