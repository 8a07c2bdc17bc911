import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test, type TestContext } from "node:test";
import { WebSocket, WebSocketServer } from "ws";
import {
  APIStatusError,
  AuthenticationError,
  SettingsError,
  stream,
  type Gap,
  type OrderMessage,
  type Stream,
  type StreamMessage,
  type StreamState,
} from "../src/index.js";
import { event, events, heartbeat, json, order, QUICK, serving, until } from "./serving.js";

const options = { apiKey: "secret", timing: QUICK, onWarning: () => {} };

/** For tests in which the event loop may be busy for long. */
const patient = { ...options, timing: { ...QUICK, connect: 30_000 } };

/** Returns the next n messages, and closes the stream. */
async function take<M extends StreamMessage>(followed: Stream<M>, n: number): Promise<M[]> {
  const taken: M[] = [];
  for await (const message of followed) if (taken.push(message) === n) break;
  return taken;
}

function numbers(messages: OrderMessage[]): number[] {
  return messages.map(({ sequence }) => sequence);
}

// --- Server-Sent Events -------------------------------------------------------------------------------------

test("orders arrive with their cursor, and the key is in a header only", async (t) => {
  const { url, requests } = await serving(t, events([heartbeat(4), order(5), order(6, { revision: 3 })]));
  const followed = stream(url, { ...options, miners: "5A,5B", tradePairs: ["BTCUSD"], format: "delta" });
  assert.deepEqual(numbers(await take(followed, 2)), [5, 6]);
  assert.equal(followed.cursor, "e:6:3");
  assert.equal(requests[0]?.headers.authorization, "Bearer secret");
  assert.equal(requests[0]?.url, "/stream?miner=5A&miner=5B&trade_pair=BTCUSD&format=delta");
});

test("a broken connection resumes after the last order", async (t) => {
  const { url, requests } = await serving(
    t,
    events([heartbeat(4), order(5)], { end: true }),
    events([heartbeat(5), order(5, { replay: true }), order(6, { replay: true }), order(7)]),
  );
  const states: string[] = [];
  const followed = stream(url, { ...options, onState: ({ state }) => states.push(state) });
  assert.deepEqual(numbers(await take(followed, 3)), [5, 6, 7]);
  assert.equal(requests[1]?.url, "/stream?after=e%3A5%3A1");
  const expected = ["connecting", "live", "connecting", "live", "replaying", "live", "stopped"];
  assert.deepEqual(states, expected);
});

test("a heartbeat ends a replay", async (t) => {
  const { url } = await serving(t, events([heartbeat(5), order(6, { replay: true }), heartbeat(6), order(7)]));
  const states: string[] = [];
  const followed = stream(url, { ...options, after: "e:5", onState: ({ state }) => states.push(state) });
  await take(followed, 2);
  assert.deepEqual(states, ["connecting", "live", "replaying", "live", "stopped"]);
});

test("what cannot be resumed is a gap, and live orders follow", async (t) => {
  const failed = { type: "resume_failed", reason: "too_old", epoch: "e2", oldest_sequence: 50, head: 60 };
  const live = order(61, { epoch: "e2" });
  const { url } = await serving(t, events([event("gap", "e2:60:9", failed), heartbeat(60, { epoch: "e2" }), live]));
  const gaps: Gap[] = [];
  const followed = stream(url, { ...options, after: "e:5", onGap: (gap) => gaps.push(gap) });
  assert.deepEqual(numbers(await take(followed, 1)), [61]);
  assert.deepEqual(gaps, [{ type: "gap", after: 5, next: 61, reason: "too_old" }]);
});

test("a hole is asked for once more, then reported", async (t) => {
  const { url, requests } = await serving(t, events([heartbeat(4), order(5), order(8)]), events([heartbeat(5), order(8)]));
  const gaps: Gap[] = [];
  const followed = stream(url, { ...options, onGap: (gap) => gaps.push(gap) });
  assert.deepEqual(numbers(await take(followed, 2)), [5, 8]);
  assert.deepEqual(gaps, [{ type: "gap", after: 5, next: 8, reason: "hole" }]);
  assert.equal(requests.length, 2);
});

test("a filtered stream continues from the last heartbeat", async (t) => {
  const { url, requests } = await serving(
    t,
    events([heartbeat(4), order(7), heartbeat(20, { revision: 5 })], { end: true }),
    events([heartbeat(20), order(31)]),
  );
  const gaps: Gap[] = [];
  const followed = stream(url, { ...options, miners: "5A", onGap: (gap) => gaps.push(gap) });
  assert.deepEqual(numbers(await take(followed, 2)), [7, 31]);
  assert.deepEqual(gaps, []);
  assert.equal(requests[1]?.url, "/stream?miner=5A&after=e%3A20%3A5");
});

test("updates are yielded, and resumed from the last id", async (t) => {
  const position = { miner_hotkey: "5A", position_uuid: "p", trade_pair: ["BTCUSD"] };
  const changed = event("position", "e:4:8", { type: "position", revision: 8, after: 4, position });
  const removed = event("removed", "e:4:9", { type: "removed", revision: 9, after: 4, positions: [["5A", "p"]] });
  const { url, requests } = await serving(t, events([heartbeat(4), changed, removed], { end: true }), events([heartbeat(4), order(5)]));
  const found = await take(stream(url, { ...options, updates: true }), 3);
  assert.deepEqual(found.map(({ type }) => type), ["position", "removed", "order"]);
  assert.equal(requests[1]?.url, "/stream?updates=true&after=e%3A4%3A9");
});

test("a refused key ends the stream", async (t) => {
  const { url, requests } = await serving(t, json({ error: "Unauthorized access", code: "unauthorized" }, 401));
  const states: string[][] = [];
  const onState = ({ problems }: { problems: { code: string }[] }): void => void states.push(problems.map((p) => p.code));
  const error = await take(stream(url, { ...options, onState }), 1).catch((e: unknown) => e);
  assert.ok(error instanceof AuthenticationError);
  assert.equal(requests.length, 1);
  assert.deepEqual(states, [[], ["login_refused"], []]);
});

test("a refused key can be tried again", async (t) => {
  const { url } = await serving(t, json({ error: "no" }, 401), events([heartbeat(4), order(5)]));
  assert.deepEqual(numbers(await take(stream(url, { ...options, stopOnAuthError: false }), 1)), [5]);
});

test("an invalid request ends the stream, a busy server does not", async (t) => {
  const { url } = await serving(t, json({ error: "bad", code: "bad_parameter" }, 400));
  await assert.rejects(take(stream(url, options), 1), APIStatusError);
  const busy = json({ error: "wait" }, 503, { "retry-after": "0" });
  const again = await serving(t, busy, json({ error: "wait" }, 429), events([heartbeat(4), order(5)]));
  assert.deepEqual(numbers(await take(stream(again.url, options), 1)), [5]);
});

test("a proxy's page is retried", async (t) => {
  const { url } = await serving(
    t,
    (_, response) => response.writeHead(404, { "content-type": "text/html" }).end("<h1>"),
    (_, response) => response.writeHead(200, { "content-type": "text/html" }).end("<h1>"),
    events([heartbeat(4), order(5)]),
  );
  assert.deepEqual(numbers(await take(stream(url, options), 1)), [5]);
});

test("a silent connection is replaced", async (t) => {
  const { url } = await serving(t, events([heartbeat(4), order(5)]), events([heartbeat(5), order(6)]));
  const codes: string[] = [];
  const followed = stream(url, {
    ...options,
    timing: { ...QUICK, heartbeat: 40 },
    onState: ({ problems }) => codes.push(...problems.map(({ code }) => code)),
  });
  assert.deepEqual(numbers(await take(followed, 2)), [5, 6]);
  assert.ok(codes.includes("server_silent"));
});

test("a server that does not answer is given up in time", async (t) => {
  const { url } = await serving(t, () => {}, events([heartbeat(4), order(5)]));
  const timing = { ...QUICK, connect: 50 };
  assert.deepEqual(numbers(await take(stream(url, { ...options, timing }), 1)), [5]);
});

test("an evicted stream waits", async (t) => {
  const evicted = ": replaced by a newer connection of the same user\n\n";
  const { url } = await serving(t, events([heartbeat(4), evicted], { end: true }), events([heartbeat(4), order(5)]));
  const codes: string[] = [];
  const followed = stream(url, { ...options, onState: ({ problems }) => codes.push(...problems.map((p) => p.code)) });
  await take(followed, 1);
  assert.deepEqual([...new Set(codes)], ["evicted"]);
});

test("stale orders go to their callback", async (t) => {
  const { url } = await serving(t, events([heartbeat(4), order(5, { timestamp: 1 }), order(6)]));
  const stale: number[] = [];
  const followed = stream(url, { ...options, maxAgeMs: 60_000, onStale: ({ sequence }) => stale.push(sequence) });
  assert.deepEqual([numbers(await take(followed, 1)), stale], [[6], [5]]);
});

test("a malformed order is a gap, a malformed frame a warning", async (t) => {
  const unreadable = event("order", "e:5:1", { sequence: 5, timestamp: 1, data: { position: 7 } });
  const { url } = await serving(t, events([heartbeat(4), unreadable, event("order", "e:6:1", { sequence: "6" }), order(6)]));
  const [gaps, warnings]: [Gap[], string[]] = [[], []];
  const onWarning = (text: string): void => void warnings.push(text);
  const followed = stream(url, { ...options, onWarning, onGap: (gap) => gaps.push(gap) });
  assert.deepEqual(numbers(await take(followed, 1)), [6]);
  assert.deepEqual(gaps, [{ type: "gap", after: 4, next: 6, reason: "unreadable" }]);
  assert.match(warnings.join("\n"), /malformed frame/);
});

test("failing callbacks do not end the stream", async (t) => {
  const { url } = await serving(t, events([heartbeat(4), order(5)]));
  const fail = (): never => {
    throw new Error("my bug");
  };
  const failing = { ...options, onState: fail, onWarning: fail };
  assert.deepEqual(numbers(await take(stream(url, failing), 1)), [5]);
});

test("a wait that the server asks for is bounded", async (t) => {
  const limited = json({ error: "wait" }, 429, { "retry-after": "86400" });
  const { url } = await serving(t, limited, events([heartbeat(4), order(5)]));
  assert.deepEqual(numbers(await take(stream(url, options), 1)), [5]);
});

test("a signal holds no stream that has ended", async (t) => {
  const { url } = await serving(t, events([heartbeat(4), order(5)]));
  const { signal } = new AbortController();
  await take(stream(url, { ...options, signal }), 1);
  assert.deepEqual(getEventListeners(signal, "abort"), []);
});

test("a stream ends when its signal is aborted, and when it is closed", async (t) => {
  const { url } = await serving(t, events([heartbeat(4), order(5)]));
  const abort = new AbortController();
  for await (const _ of stream(url, { ...options, signal: abort.signal })) abort.abort();
  for await (const _ of stream(url, { ...options, signal: abort.signal })) assert.fail();
  const followed = stream(url, options);
  for await (const _ of followed) void followed.close();
  assert.equal(followed.state.state, "stopped");
});

test("senseless options are errors at once", () => {
  assert.throws(() => stream("http://localhost", { apiKey: "" }), AuthenticationError);
  assert.throws(() => stream("http://localhost", { ...options, after: "5" }), SettingsError);
  assert.throws(() => stream("http://localhost", { ...options, miners: [] }), SettingsError);
  assert.throws(() => stream("http://localhost", { ...options, after: "e:5", updates: true }), SettingsError);
  assert.throws(() => stream("ws://localhost", { ...options, transport: "sse" }), SettingsError);
  assert.throws(() => stream("http://localhost", { ...options, transport: "websocket", WebSocket }), SettingsError);
});

test("too many miners for a request are an error that names the remedy", async () => {
  const miners = Array.from({ length: 300 }, (_, n) => `${"5".repeat(45)}${n}`);
  await assert.rejects(take(stream("http://127.0.0.1:1", { ...options, miners }), 1), /websocket/);
});

// --- WebSocket ----------------------------------------------------------------------------------------------

const LOGIN = { status: "success", current_sequence: 4, tier: 100, epoch: "e", oldest_sequence: 1, version: 2, heartbeat_ms: 60_000 };
const CONFIRMED = { type: "subscription_status", status: "success", action: "subscribe", received_timestamp: 1 };

type Script = (socket: WebSocket, frames: AsyncGenerator<Record<string, unknown>>) => Promise<void>;

/** Serves until the test ends; connection n is handled by script n, later ones by the last. */
async function socketServer(t: TestContext, ...scripts: Script[]): Promise<{ url: string; urls: string[] }> {
  const urls: string[] = [];
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  server.on("connection", (socket, request) => {
    const script = scripts[Math.min(urls.length, scripts.length - 1)];
    urls.push(request.url ?? "");
    void script?.(socket, received(socket));
  });
  await new Promise((resolve) => server.once("listening", resolve));
  t.after(() => {
    for (const socket of server.clients) socket.terminate();
    server.close();
  });
  return { url: `ws://127.0.0.1:${(server.address() as { port: number }).port}`, urls };
}

async function* received(socket: WebSocket): AsyncGenerator<Record<string, unknown>> {
  const queue: string[] = [];
  let wake = (): void => {};
  socket.on("message", (data) => {
    queue.push(String(data));
    wake();
  });
  for (;;) {
    while (queue.length === 0) await new Promise<void>((resolve) => (wake = resolve));
    const frame = JSON.parse(queue.shift() as string) as Record<string, unknown>;
    if (frame["type"] !== "ping") yield frame;
  }
}

function send(socket: WebSocket, ...frames: object[]): void {
  for (const frame of frames) socket.send(JSON.stringify(frame));
}

function message(sequence: number, marks: object = {}): object {
  const position = { miner_hotkey: "5A", position_uuid: "p", trade_pair: ["BTCUSD"], orders: [] };
  return { sequence, timestamp: Date.now(), data: { position }, ...marks };
}

test("the login is a frame, and a reconnection resumes", async (t) => {
  const logins: unknown[] = [];
  const first: Script = async (socket, frames) => {
    logins.push((await frames.next()).value);
    send(socket, LOGIN);
    logins.push((await frames.next()).value);
    send(socket, CONFIRMED, message(5));
    setTimeout(() => socket.close(4000, "server is shutting down"), 20);
  };
  const second: Script = async (socket, frames) => {
    logins.push((await frames.next()).value);
    send(socket, { ...LOGIN, current_sequence: 5 });
    await frames.next();
    send(socket, CONFIRMED, { type: "resumed", after: 5, head: 6 }, message(6, { replay: true }));
  };
  const { url, urls } = await socketServer(t, first, second);
  const problems = new Set<string>();
  const onState = (state: StreamState): void => state.problems.forEach(({ code }) => problems.add(code));
  const followed = stream(url, { ...options, WebSocket, miners: ["5A"], clock: () => 9, onState });
  assert.deepEqual(numbers(await take(followed, 2)), [5, 6]);
  assert.deepEqual([...problems], ["server_restarting"]);
  assert.deepEqual(logins, [
    { api_key: "secret", version: 2 },
    { type: "subscribe", sender_timestamp: 9, miners: ["5A"] },
    { api_key: "secret", version: 2, epoch: "e", last_sequence: 5 },
  ]);
  assert.deepEqual(urls, ["/", "/"]);
});

for (const [name, refuse] of Object.entries({
  "an error frame and its code": (socket: WebSocket) => {
    send(socket, { status: "error", message: "Invalid API key" });
    socket.close(4101, "invalid API key");
  },
  "a code alone": (socket: WebSocket) => socket.close(4103, "key revoked or downgraded"),
})) {
  test(`a login that is refused by ${name} ends the stream`, async (t) => {
    const { url, urls } = await socketServer(t, async (socket, frames) => {
      await frames.next();
      refuse(socket);
    });
    await assert.rejects(take(stream(url, { ...options, WebSocket }), 1), AuthenticationError);
    assert.equal(urls.length, 1);
  });
}

test("a temporary refusal is retried", async (t) => {
  const accept: Script = async (socket, frames) => {
    await frames.next();
    send(socket, LOGIN, CONFIRMED, message(5));
  };
  for (const code of [1006, 1011, 4002, 4005, 4006, 4007, 4099, 4200]) {
    const { url } = await socketServer(t, async (socket) => (code === 1006 ? socket.terminate() : socket.close(code)), accept);
    assert.deepEqual(numbers(await take(stream(url, { ...options, WebSocket }), 1)), [5], String(code));
  }
});

test("an eviction is told from a loss", async (t) => {
  const evict: Script = async (socket, frames) => {
    await frames.next();
    send(socket, LOGIN, { status: "error", message: "too many", code: "MAX_CONNECTIONS_EXCEEDED" });
    socket.close(4004);
  };
  const accept: Script = async (socket, frames) => {
    await frames.next();
    send(socket, LOGIN, CONFIRMED, message(5));
  };
  const { url } = await socketServer(t, evict, accept);
  const codes: string[] = [];
  const onState = ({ problems }: { problems: { code: string }[] }): void => void codes.push(...problems.map((p) => p.code));
  await take(stream(url, { ...options, WebSocket, onState }), 1);
  assert.deepEqual([...new Set(codes)], ["evicted"]);
});

test("a subscribe without an answer is given up in time, although heartbeats arrive", async (t) => {
  const beat = { type: "heartbeat", head: 4, revision: 1, timestamp: 1, source_ms: null, stale: false };
  const mute: Script = async (socket, frames) => {
    await frames.next();
    send(socket, LOGIN);
    const beats = setInterval(() => send(socket, beat), 10);
    socket.on("close", () => clearInterval(beats));
  };
  const accept: Script = async (socket, frames) => {
    await frames.next();
    send(socket, LOGIN, CONFIRMED, message(5));
  };
  const { url } = await socketServer(t, mute, accept);
  const codes: string[] = [];
  const onState = ({ problems }: { problems: { code: string }[] }): void => void codes.push(...problems.map((p) => p.code));
  const timing = { ...QUICK, connect: 200 };
  assert.deepEqual(numbers(await take(stream(url, { ...options, timing, WebSocket, onState }), 1)), [5]);
  assert.ok(codes.includes("server_silent"));
});

test("a server that never answers the handshake is given up in time", async (t) => {
  const { url } = await serving(t, () => {});
  const codes: string[] = [];
  const followed = stream(url.replace("http", "ws"), {
    ...options,
    WebSocket,
    timing: { ...QUICK, connect: 30 },
    onState: ({ problems }) => {
      codes.push(...problems.map(({ code }) => code));
      if (codes.length > 0) void followed.close();
    },
  });
  assert.deepEqual(await take(followed, 1), []);
  assert.equal(codes[0], "unreachable");
});

test("a slow reader slows the server down", async (t) => {
  const { url } = await socketServer(t, async (socket, frames) => {
    await frames.next();
    send(socket, LOGIN, CONFIRMED);
    for (let n = 5; n < 5_000; n += 1) send(socket, message(n));
  });
  const sockets: WebSocket[] = [];
  class Kept extends WebSocket {
    constructor(address: string) {
      super(address);
      sockets.push(this);
    }
  }
  let seen = 4;
  for await (const { sequence } of stream(url, { ...patient, WebSocket: Kept })) {
    assert.equal(sequence, (seen += 1));
    if (seen === 5) await until(() => sockets[0]?.isPaused === true);
    if (seen === 4_999) break;
  }
  assert.equal(sockets.length, 1);
});

test("a browser's WebSocket that cannot pause is closed and resumed", async (t) => {
  let closed = false;
  const serve: Script = async (socket, frames) => {
    socket.on("close", () => (closed = true));
    const { last_sequence: after = 4 } = (await frames.next()).value as { last_sequence?: number };
    send(socket, { ...LOGIN, current_sequence: after });
    await frames.next();
    send(socket, CONFIRMED);
    if (after > 4) send(socket, { type: "resumed", after, head: after });
    for (let n = after + 1; n < 25_000; n += 1) send(socket, message(n));
  };
  const { url, urls } = await socketServer(t, serve);
  class Unpausable extends WebSocket {
    override pause = undefined as unknown as () => void;
  }
  let seen = 4;
  for await (const { sequence } of stream(url, { ...patient, WebSocket: Unpausable })) {
    assert.equal(sequence, (seen += 1));
    if (seen === 5) await until(() => closed);
    if (seen === 24_999) break;
  }
  assert.equal(urls.length, 2);
});

test("without a WebSocket class the error says what to pass", { skip: "WebSocket" in globalThis }, () => {
  assert.throws(() => stream("ws://localhost", options), /pass WebSocket/);
});
