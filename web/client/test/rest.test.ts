import assert from "node:assert/strict";
import { test } from "node:test";
import {
  APIStatusError,
  AuthenticationError,
  ClientError,
  InvalidInputError,
  PTNClient,
  RateLimitError,
  ServerError,
  ServerUnreachableError,
  SettingsError,
} from "../src/index.js";
import { json, serving, until, type Answer } from "./serving.js";

const retries = { times: 2, first: 1, longest: 5_000 };
const entry = { positions: [], thirty_day_returns: 1, all_time_returns: 1, n_positions: 0, percentage_profitable: 0 };

test("the key travels in a header only", async (t) => {
  const { url, requests } = await serving(t, json({ alias: "a" }));
  await new PTNClient(url, { apiKey: " secret\n" }).me();
  assert.equal(requests[0]?.headers.authorization, "Bearer secret");
  assert.equal(requests[0]?.url, "/me");
});

test("no key is sent without one", async (t) => {
  const { url, requests } = await serving(t, json({ error: "Unauthorized access" }, 401));
  const error = await new PTNClient(url).me().catch((e: unknown) => e);
  assert.equal(requests[0]?.headers.authorization, undefined);
  assert.ok(error instanceof AuthenticationError);
  assert.deepEqual([error.code, error.status], ["no_key", 401]);
});

test("a base address may have a path", async (t) => {
  const { url, requests } = await serving(t, json([]));
  await new PTNClient(`${url}/ptn`).hotkeys();
  assert.equal(requests[0]?.url, "/ptn/miner-hotkeys");
});

test("an unchanged document is the same object", async (t) => {
  const unchanged: Answer = (_, response) => response.writeHead(304).end();
  const { url, requests } = await serving(t, json(["5A"], 200, { etag: '"1"' }), unchanged);
  const client = new PTNClient(url);
  assert.equal(await client.hotkeys(), await client.hotkeys());
  assert.equal(requests[1]?.headers["if-none-match"], '"1"');
});

test("the cache forgets the least recently used result", async (t) => {
  const { url, requests } = await serving(t, json({}, 200, { etag: '"1"' }));
  const client = new PTNClient(url, { cache: 2 });
  for (const hotkey of ["a", "b", "a", "c", "a", "b"]) await client.miner(hotkey);
  const asked = requests.map(({ headers }) => headers["if-none-match"] !== undefined);
  assert.deepEqual(asked, [false, false, true, false, true, false]);
});

test("Retry-After is obeyed for 429 and 503", async (t) => {
  const busy = json({ error: "wait", code: "busy" }, 503, { "retry-after": "0" });
  const limited = json({ error: "wait" }, 429, { "retry-after": "0.05" });
  const { url, requests } = await serving(t, busy, limited, json(["5A"]));
  const started = performance.now();
  assert.deepEqual(await new PTNClient(url, { retries }).hotkeys(), ["5A"]);
  assert.ok(performance.now() - started >= 45);
  assert.equal(requests.length, 3);
});

test("a Retry-After that is too long is an error at once", async (t) => {
  const { url, requests } = await serving(t, json({ error: "wait" }, 429, { "retry-after": "60" }));
  const error = await new PTNClient(url, { retries }).hotkeys().catch((e: unknown) => e);
  assert.ok(error instanceof RateLimitError && error instanceof APIStatusError);
  assert.deepEqual([error.status, error.retryAfter, requests.length], [429, 60, 1]);
});

test("other errors are not retried", async (t) => {
  for (const [status, kind] of [
    [400, APIStatusError],
    [401, AuthenticationError],
    [403, AuthenticationError],
    [500, ServerError],
  ] as const) {
    const { url, requests } = await serving(t, json({ error: "no", code: "bad" }, status));
    const error = await new PTNClient(url, { apiKey: "k", retries }).hotkeys().catch((e: unknown) => e);
    assert.ok(error instanceof kind, String(error));
    assert.deepEqual([error.status, error.code, error.message, requests.length], [status, "bad", "no", 1]);
  }
});

test("a proxy's error page is told from the API's", async (t) => {
  const page: Answer = (_, response) => response.writeHead(403, { "content-type": "text/html" }).end("<h1>no</h1>");
  const { url } = await serving(t, page);
  const error = await new PTNClient(url, { apiKey: "k" }).hotkeys().catch((e: unknown) => e);
  assert.ok(error instanceof APIStatusError && !(error instanceof AuthenticationError));
  assert.equal(error.code, "foreign");
});

test("a redirect is an error, and the key does not follow it", async (t) => {
  const other = await serving(t, json([]));
  const redirect: Answer = (_, response) => response.writeHead(307, { location: other.url }).end();
  const { url } = await serving(t, redirect);
  const error = await new PTNClient(url, { apiKey: "k" }).hotkeys().catch((e: unknown) => e);
  assert.ok(error instanceof APIStatusError);
  assert.deepEqual([error.code, other.requests.length], ["redirect", 0]);
});

test("an unhealthy server's health is a result", async (t) => {
  const { url } = await serving(t, json({ status: "failing", problems: ["starting"] }, 503));
  assert.equal((await new PTNClient(url).health()).status, "failing");
});

test("a broken or incomplete response is asked for again", async (t) => {
  const broken: Answer = (request) => request.socket.destroy();
  const half: Answer = (_, response) => response.end('["5A"');
  const { url, requests } = await serving(t, broken, half, json(["5A"]));
  assert.deepEqual(await new PTNClient(url, { retries }).hotkeys(), ["5A"]);
  assert.equal(requests.length, 3);
});

test("a silent server is unreachable after the timeout", async (t) => {
  const { url } = await serving(t, () => {});
  const client = new PTNClient(url, { timeout: 20, retries: { times: 0 } });
  await assert.rejects(client.hotkeys(), ServerUnreachableError);
  await assert.rejects(client.hotkeys({ timeout: 10 }), /nothing received for 10 ms/);
});

test("the timeout begins again with every part of a response", async (t) => {
  const slow: Answer = (_, response) => {
    let sent = 0;
    const timer = setInterval(() => {
      sent += 1;
      response.write(sent === 1 ? "[" : " ");
      if (sent < 15) return;
      clearInterval(timer);
      response.end("]");
    }, 100);
  };
  const { url } = await serving(t, slow);
  assert.deepEqual(await new PTNClient(url, { timeout: 1_000, retries: { times: 0 } }).hotkeys(), []);
});

test("an aborted request rejects with the signal's reason and is not repeated", async (t) => {
  const { url, requests } = await serving(t, () => {});
  const abort = new AbortController();
  const asked = new PTNClient(url, { retries }).hotkeys({ signal: abort.signal });
  await until(() => requests.length === 1);
  abort.abort(new Error("enough"));
  await assert.rejects(asked, /enough/);
  assert.equal(requests.length, 1);
});

test("an abort ends the wait before a retry", async (t) => {
  const { url } = await serving(t, json({ error: "wait" }, 503, { "retry-after": "5" }));
  const asked = new PTNClient(url, { retries: { ...retries, longest: 60_000 } });
  await assert.rejects(asked.hotkeys({ signal: AbortSignal.timeout(30) }), { name: "TimeoutError" });
});

test("a positions document has its cursors", async (t) => {
  const headers = { "x-ptn-epoch": "e", "x-ptn-sequence": "7", "x-ptn-revision": "9" };
  const { url, requests } = await serving(t, json({ "5A": entry }, 200, headers));
  const found = await new PTNClient(url).minerPositions({ tier: 100, miner: ["5A", "5B"], tradePair: "btc/usd" });
  assert.deepEqual([found.cursor, found.streamCursor, found.asOfMs], ["e:9", "e:7:9", null]);
  assert.equal(requests[0]?.url, "/miner-positions?tier=100&miner=5A&miner=5B&trade_pair=btc%2Fusd");
});

test("many miners are asked for in parts", async (t) => {
  const answer: Answer = (request, response) => {
    const miners = new URL(request.url ?? "", "http://x").searchParams.getAll("miner");
    response.setHeader("x-ptn-epoch", "e");
    response.setHeader("x-ptn-sequence", String(10 - requests.length));
    response.setHeader("x-ptn-revision", "1");
    const entries = miners.map((name) => [name, { ...entry, thirty_day_returns: Number(name.slice(-3)) }]);
    response.end(JSON.stringify(Object.fromEntries(entries)));
  };
  const { url, requests } = await serving(t, answer);
  const miner = Array.from({ length: 250 }, (_, n) => `${"5".repeat(45)}${String(n).padStart(3, "0")}`);
  const found = await new PTNClient(url).minerPositions({ miner });
  assert.deepEqual(Object.keys(found.miners), [...miner].reverse());
  assert.ok(requests.length > 1 && requests.every((request) => (request.url ?? "").length < 8_000));
  assert.equal(found.sequence, 10 - requests.length, "the lowest");
});

test("a filter of messages that is too long is applied here", async (t) => {
  const of = (miner_hotkey: string): object => ({
    sequence: 1,
    timestamp: 2,
    data: { position: { miner_hotkey, position_uuid: "p", trade_pair: ["BTCUSD"] } },
  });
  const { url, requests } = await serving(t, json({ messages: [of("5A"), of("5B")], next: 2, head: 2, epoch: "e" }));
  const miner = ["5A", ...Array.from({ length: 400 }, (_, n) => `${"x".repeat(40)}${n}`)];
  const page = await new PTNClient(url).messages(0, { miner, tradePair: "BTCUSD" });
  assert.deepEqual(page.messages.map(({ data }) => data.position.miner_hotkey), ["5A"]);
  assert.equal(requests[0]?.url, "/messages?after=0");
});

test("senseless arguments are errors before a request", async () => {
  const client = new PTNClient("http://127.0.0.1:1");
  await assert.rejects(client.minerPositions({ miner: [] }), SettingsError);
  await assert.rejects(client.minerPositions({ miner: " , " }), SettingsError);
  assert.throws(() => client.miner(""), InvalidInputError);
  assert.throws(() => new PTNClient("localhost"), SettingsError);
  assert.throws(() => new PTNClient("ws://localhost"), SettingsError);
  assert.throws(() => new PTNClient("http://user:secret@localhost"), /must not contain/);
  assert.throws(
    () => new PTNClient("http://localhost", { apiKey: "two words" }),
    (error) => error instanceof AuthenticationError && !error.message.includes("words"),
  );
});

test("errors never hold the key", async (t) => {
  const { url } = await serving(t, (request) => request.socket.destroy());
  const error: unknown = await new PTNClient(url, { apiKey: "secret-key", retries: { times: 0 } })
    .hotkeys()
    .catch((e: unknown) => e);
  assert.ok(error instanceof ClientError);
  assert.ok(!JSON.stringify(error, Object.getOwnPropertyNames(error)).includes("secret-key"));
});
