import assert from "node:assert/strict";
import { test } from "node:test";
import { AuthenticationError, Mirror, SettingsError, type Position } from "../src/index.js";
import { event, events, heartbeat, json, QUICK, serving, until, type Answer, type Served } from "./serving.js";

const HEADERS = { "x-ptn-epoch": "e", "x-ptn-sequence": "4", "x-ptn-revision": "2" };
const options = { apiKey: "secret", miners: ["5A"], timing: QUICK, mendWithin: 0, onWarning: () => {} };

function order(uuid: string, price = 1): { order_uuid: string; price: number } {
  return { order_uuid: uuid, price };
}

function position(uuid: string, fields: object = {}): object {
  return { miner_hotkey: "5A", position_uuid: uuid, trade_pair: ["BTCUSD"], close_ms: 0, ...fields };
}

function snapshot(positions: object[], headers: Record<string, string> = HEADERS): Answer {
  return json({ "5A": { positions, thirty_day_returns: 1 } }, 200, headers);
}

/** Answers REST and the stream each with their own script. */
async function both(t: Parameters<typeof serving>[0], rest: Answer[], streams: Answer[]): Promise<Served> {
  const [restLeft, streamsLeft] = [[...rest], [...streams]];
  const next = (answers: Answer[]): Answer | undefined => (answers.length > 1 ? answers.shift() : answers[0]);
  return serving(t, (request, response) => {
    next(request.url?.startsWith("/stream") === true ? streamsLeft : restLeft)?.(request, response);
  });
}

function uuids({ orders = [] }: Position): string[] {
  return orders.map(({ order_uuid }) => order_uuid);
}

test("orders, changes and removals are applied to the snapshot", async (t) => {
  const added = { order: order("o2"), position: position("p", { close_ms: null }), n_orders: 2 };
  const { url, requests } = await both(
    t,
    [snapshot([position("p", { orders: [order("o1")] }), position("q", { orders: [] })])],
    [
      events([
        heartbeat(4, { revision: 2 }),
        event("order", "e:5:2", { sequence: 5, timestamp: 1, data: added }),
        event("order", "e:6:2", {
          sequence: 6,
          timestamp: 1,
          data: { order: order("o3"), position: position("new"), n_orders: 1 },
        }),
        event("position", "e:6:3", {
          type: "position",
          revision: 3,
          after: 6,
          position: position("p", { current_return: 2 }),
          orders: [order("o1", 9), order("o0")],
          order_uuids: ["o0", "o1", "o2", "unknown"],
        }),
        event("removed", "e:6:4", { type: "removed", revision: 4, after: 6, positions: [["5A", "q"], ["5A", "x"]] }),
      ]),
    ],
  );
  const changes: string[] = [];
  const mirror = new Mirror(url, { ...options, onChange: (_, uuid) => changes.push(uuid) });
  await mirror.loaded();
  const before = mirror.position("5A", "p");
  assert.equal(before?.close_ms, null);
  await until(() => changes.length === 6);
  assert.deepEqual(changes, ["p", "q", "p", "new", "p", "q"]);
  const after = mirror.position("5A", "p");
  assert.deepEqual([after && uuids(after), after?.current_return, after?.orders?.[1]?.price], [["o0", "o1", "o2"], 2, 9]);
  assert.deepEqual(before && uuids(before), ["o1"], "a position is replaced, not modified");
  assert.deepEqual(mirror.positions().map((p) => p.position_uuid), ["p", "new"]);
  assert.equal(mirror.cursor, "e:6:4");
  assert.equal(requests[0]?.url, "/miner-positions?miner=5A");
  assert.equal(requests[1]?.url, "/stream?miner=5A&format=delta&updates=true&after=e%3A4%3A2");
  await mirror.close();
  assert.equal(mirror.size, 2, "still readable");
});

test("positions are chosen by miner and status", async (t) => {
  const closed = position("c", { is_closed_position: true, close_ms: 7 });
  const { url } = await both(t, [snapshot([position("p"), closed])], [events([heartbeat(4)])]);
  const mirror = new Mirror(url, options);
  await mirror.loaded();
  const chosen = (filters: object): string[] => mirror.positions(filters).map((p) => p.position_uuid);
  assert.deepEqual(chosen({ status: "open" }), ["p"]);
  assert.deepEqual(chosen({ status: "closed", miner: "5A" }), ["c"]);
  assert.deepEqual(chosen({ miner: "5B" }), []);
  assert.equal(mirror.position("5A", "c")?.close_ms, 7);
  await mirror.close();
});

test("a broken connection resumes, also the changes", async (t) => {
  const { url, requests } = await both(
    t,
    [snapshot([position("p")])],
    [events([heartbeat(4, { revision: 7 })], { end: true }), events([heartbeat(4, { revision: 7 })])],
  );
  const mirror = new Mirror(url, options);
  await until(() => requests.length === 3);
  assert.match(requests[2]?.url ?? "", /after=e%3A4%3A7$/);
  await mirror.close();
});

test("a gap loads a new snapshot, not older than the next heartbeat", async (t) => {
  const failed = { type: "resume_failed", reason: "epoch", epoch: "e2", oldest_sequence: 1, head: 60 };
  const gap = event("gap", "e2:60:9", failed);
  const later = { ...HEADERS, "x-ptn-epoch": "e2", "x-ptn-sequence": "61", "x-ptn-revision": "9" };
  const behind = { ...later, "x-ptn-revision": "8" };
  const { url, requests } = await both(
    t,
    [snapshot([position("p"), position("q")]), snapshot([], behind), snapshot([position("q")], later)],
    [events([gap, heartbeat(60, { epoch: "e2", revision: 9 })])],
  );
  const reasons: string[] = [];
  const mirror = new Mirror(url, { ...options, onGap: ({ reason }) => reasons.push(reason) });
  await until(() => mirror.size === 1);
  assert.deepEqual([reasons, requests.length, mirror.position("5A", "p")], [["epoch"], 4, undefined]);
  assert.equal(mirror.cursor, "e2:60:9");
  await mirror.close();
});

test("a clock that is set back delays no snapshot", async (t) => {
  const failed = { type: "resume_failed", reason: "epoch", epoch: "e2", oldest_sequence: 1, head: 60 };
  const later = { ...HEADERS, "x-ptn-epoch": "e2", "x-ptn-sequence": "60", "x-ptn-revision": "9" };
  let beat = (): void => {};
  const { url } = await both(
    t,
    [snapshot([position("p")]), snapshot([], later)],
    [
      (_, response) => {
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.write(event("gap", "e2:60:9", failed));
        beat = () => response.write(heartbeat(60, { epoch: "e2", revision: 9 }));
      },
    ],
  );
  let gaps = 0;
  const mirror = new Mirror(url, { ...options, onGap: () => (gaps += 1) });
  await until(() => gaps === 1);
  const { now } = Date;
  t.mock.method(Date, "now", () => now() - 3_600_000);
  beat();
  await until(() => mirror.size === 0);
  await mirror.close();
});

test("a refused key ends it", async (t) => {
  const { url } = await both(t, [json({ error: "no" }, 401)], []);
  const mirror = new Mirror(url, options);
  await assert.rejects(mirror.loaded(), AuthenticationError);
  await assert.rejects(mirror.ended(), AuthenticationError);
  await mirror.close();
});

test("a key that is revoked later ends it too", async (t) => {
  const { url } = await both(t, [snapshot([position("p")])], [json({ error: "no" }, 401)]);
  const mirror = new Mirror(url, options);
  await mirror.loaded();
  await assert.rejects(mirror.ended(), AuthenticationError);
});

test("a server that is starting is waited for", async (t) => {
  const starting = json({ error: "starting" }, 503, { "retry-after": "0" });
  const broken: Answer = (request) => request.socket.destroy();
  const { url } = await both(t, [starting, broken, starting, broken, snapshot([position("p")])], [events([heartbeat(4)])]);
  const mirror = new Mirror(url, { ...options, retries: { times: 1, first: 1 } });
  await mirror.loaded();
  assert.equal(mirror.size, 1);
  await mirror.close();
});

test("it can be closed while it waits for a server", async () => {
  const mirror = new Mirror("http://127.0.0.1:1", { ...options, timing: { ...QUICK, backoff: 60_000, backoffMax: 60_000 } });
  await mirror.close();
  assert.equal(mirror.size, 0);
});

test("an empty choice is an error", () => {
  assert.throws(() => new Mirror("http://localhost", { ...options, miners: [] }), SettingsError);
});
