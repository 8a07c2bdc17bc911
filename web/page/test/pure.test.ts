import assert from "node:assert/strict";
import { test } from "node:test";
import type { LeaderboardEntry, OrderMessage } from "ptn-api-client";
import { applied, matchingMiners, netOf, phaseOf, sortedBy } from "../src/pure/board.ts";
import { curveOf, sparkline, underwater } from "../src/pure/curve.ts";
import { errorSentence } from "../src/pure/errors.ts";
import * as format from "../src/pure/format.ts";
import { pairOf } from "../src/pure/model.ts";
import { exposures, holdersOf } from "../src/pure/pairs.ts";
import { linkTo, parseRoute } from "../src/pure/route.ts";
import { measures } from "../src/pure/statistics.ts";
import { extended, matching, pace, tapeOrder, type TapeOrder } from "../src/pure/tape.ts";
import { verdict, type Facts } from "../src/pure/verdict.ts";
import { fitting, rowWindow } from "../src/pure/window.ts";

function miner(hotkey: string, changes: Partial<LeaderboardEntry> = {}): LeaderboardEntry {
  return {
    hotkey,
    rank: 1,
    thirty_day_returns: 1,
    all_time_returns: 1,
    n_positions: 0,
    percentage_profitable: 0,
    open_positions: Object.keys(changes.net_leverage ?? {}).length,
    net_leverage: {},
    last_order: null,
    phase: "MAINCOMP",
    elimination: null,
    drawdown: null,
    curve: null,
    ...changes,
  };
}

function order(sequence: number, changes: Partial<TapeOrder> = {}): TapeOrder {
  return {
    sequence,
    uuid: `order-${sequence}`,
    seenMs: 1000 * sequence + 10,
    processedMs: 1000 * sequence,
    arrivedMs: 1000 * sequence + 30,
    hotkey: "5A",
    pair: "BTCUSD",
    side: "LONG",
    leverage: 0.1,
    price: 100,
    execution: "MARKET",
    action: "open",
    netLeverage: 0.1,
    closed: false,
    late: false,
    ...changes,
  };
}

const board = (...miners: LeaderboardEntry[]) => ({ tier: 100, delay_ms: 0, lookback_days: 180, miners });

test("numbers have a true minus sign, and zero has none", () => {
  assert.equal(format.gain(1.0432), "+4.32%");
  assert.equal(format.gain(0.9), "−10.00%");
  assert.equal(format.gain(0.999999), "0.00%");
  assert.equal(format.gain(250), "+24,900%");
  assert.equal(format.gain(null), "–");
  assert.equal(format.leverage(-0.5), "−0.500");
  assert.equal(format.percent(0.614), "61%");
  assert.equal(format.tone(format.gain(0.999999)), "");
  assert.equal(format.tone(format.gain(0.9)), "down");
});

test("prices keep about six digits", () => {
  assert.equal(format.price(72494.6), "72,494.6");
  assert.equal(format.price(1.12986), "1.12986");
  assert.equal(format.price(0.0000123456), "0.00001235");
  assert.equal(format.price(undefined), "–");
  assert.equal(format.price(Number.NaN), "–");
});

test("periods and times", () => {
  assert.deepEqual([59_000, 61_000, 7_200_000, 172_800_000, -5].map(format.period), ["59 s", "1 min", "2 h", "2 d", "0 s"]);
  assert.equal(format.delay(1500), "1.5 s");
  assert.equal(format.minute(1764410400000), "2025-11-29 10:00");
  assert.equal(format.moment(1764410400000), "29 Nov 2025, 10:00 UTC");
  assert.equal(format.minute(1e18), "–");
});

test("a hotkey is shortened at its middle, so that subaccounts differ", () => {
  assert.equal(format.shortHotkey("5EDpnvjz3g9edbS2j5Z2bwTnCYbksjCwfyt4Kj89Y4in1PVY_0"), "5EDpnv…PVY_0");
  assert.equal(format.shortHotkey("5A"), "5A");
});

test("routes survive a round trip, and odd fragments show the leaderboard", () => {
  assert.deepEqual(parseRoute(linkTo("miners", "5A_0")), { view: "miners", item: "5A_0" });
  assert.deepEqual(parseRoute(linkTo("pairs", "a/b #1")), { view: "pairs", item: "a/b #1" });
  assert.deepEqual(parseRoute("#/orders/x"), { view: "orders", item: null });
  for (const odd of ["", "#", "#/nothing", "#/miners/%"]) assert.deepEqual(parseRoute(odd), { view: "miners", item: null });
});

test("an order changes the miner's leverage, open positions and last order", () => {
  const before = board(miner("5A", { net_leverage: { ETHUSD: 1 } }), miner("5B"));
  const after = applied(before, [order(1)]);
  assert.deepEqual(after.miners[0]!.net_leverage, { ETHUSD: 1, BTCUSD: 0.1 });
  assert.equal(after.miners[0]!.open_positions, 2);
  assert.equal(after.miners[0]!.last_order!.trade_pair, "BTCUSD");
  assert.equal(after.miners[1], before.miners[1]);
  assert.deepEqual(applied(after, [order(1)]), after, "again, it changes nothing");
  const closed = applied(after, [order(2, { closed: true, netLeverage: 0 })]);
  assert.deepEqual(closed.miners[0]!.net_leverage, { ETHUSD: 1 });
  assert.equal(closed.miners[0]!.open_positions, 1);
  assert.equal(applied(before, [order(1, { hotkey: "5C" })]), before);
  const older = applied(after, [order(0, { pair: "XRPUSD" })]);
  assert.equal(older.miners[0]!.last_order!.trade_pair, "BTCUSD");
});

test("filters of the leaderboard", () => {
  const miners = [
    miner("5Alpha", { net_leverage: { BTCUSD: 1 } }),
    miner("5Beta", { phase: "CHALLENGE" }),
    miner("5Gone", { elimination: { reason: "MDD", elimination_initiated_time_ms: 1 } }),
  ];
  const found = (filter: object) =>
    matchingMiners(miners, { text: "", phase: "", openOnly: false, ...filter }).map(({ hotkey }) => hotkey);
  assert.deepEqual(found({ text: "beta" }), ["5Beta"]);
  assert.deepEqual(found({ text: "btc/usd" }), ["5Alpha"]);
  assert.deepEqual(found({ text: "5 alp" }), ["5Alpha"]);
  assert.deepEqual(found({ phase: "ELIMINATED" }), ["5Gone"]);
  assert.deepEqual(found({ openOnly: true }), ["5Alpha"]);
  assert.equal(phaseOf(miners[2]!), "ELIMINATED");
  assert.equal(netOf(miner("5", { net_leverage: { A: 1, B: -0.25 } })), 0.75);
});

test("rows without a value are last in both directions, and ties keep their order", () => {
  const rows = [["a", 2], ["b", null], ["c", 1], ["d", 2]] as [string, number | null][];
  const names = (falling: boolean) => sortedBy(rows, (row) => row[1], falling).map(([name]) => name).join("");
  assert.equal(names(true), "adcb");
  assert.equal(names(false), "cadb");
});

test("the tape is newest first, without duplicates, and bounded", () => {
  let tape = extended([], [order(2), order(1)]);
  tape = extended(tape, [order(3), order(2)]);
  assert.deepEqual(tape.map(({ sequence }) => sequence), [3, 2, 1]);
  assert.equal(extended(tape, [order(1)]).length, 3);
  assert.deepEqual(extended(tape, [order(5), order(4)], 3).map(({ sequence }) => sequence), [5, 4, 3]);
  assert.equal(extended(tape, []), tape);
});

test("what an order did to its position", () => {
  const did = (leverage: number, net: number, n: number, closed = false) =>
    tapeOrder(
      {
        type: "order",
        sequence: 1,
        timestamp: 2,
        late: false,
        replay: false,
        data: {
          order: { order_type: "LONG", leverage, processed_ms: 1, order_uuid: "o" },
          position: {
            miner_hotkey: "5A",
            position_uuid: "p",
            trade_pair: ["BTCUSD", "BTC/USD", 0, 0, 0],
            net_leverage: net,
            close_ms: closed ? 1 : null,
          },
          n_orders: n,
        },
      } satisfies OrderMessage,
      3,
    )!.action;
  assert.equal(did(0.1, 0.1, 1), "open");
  assert.equal(did(0.1, 0.3, 2), "add");
  assert.equal(did(-0.1, -0.3, 2), "add");
  assert.equal(did(-0.1, 0.3, 2), "reduce");
  assert.equal(did(-0.5, -0.2, 2), "flip");
  assert.equal(did(-0.5, 0, 3, true), "close");
  assert.equal(pairOf({ trade_pair: { trade_pair_id: "X" } }), "X");
  assert.equal(pairOf({ trade_pair: "Y" }), "Y");
});

test("filters of the tape", () => {
  const tape = [order(1), order(2, { pair: "ETHUSD", side: "SHORT", leverage: -0.5, action: "close" })];
  const found = (filter: object) =>
    matching(tape, { text: "", side: "", minLeverage: 0, ...filter }).map(({ sequence }) => sequence);
  assert.deepEqual(found({ text: "eth" }), [2]);
  assert.deepEqual(found({ text: "5a btc" }), [1]);
  assert.deepEqual(found({ side: "SHORT" }), [2]);
  assert.deepEqual(found({ side: "close" }), [2]);
  assert.deepEqual(found({ minLeverage: 0.25 }), [2]);
});

test("pace counts the last minute, and lag leaves out replayed and late orders", () => {
  const tape = [order(120), order(119, { arrivedMs: null }), order(118, { late: true, arrivedMs: 1e9 }), order(1)];
  assert.deepEqual(pace(tape, 121_000, 0), { perMinute: 3, lagMs: 30 });
  assert.deepEqual(pace(tape.slice(0, 1), 121_000, 20), { perMinute: 1, lagMs: 10 });
  const full = Array.from({ length: 2000 }, (_, n) => order(2, { seenMs: 120_000 - 10 * n }));
  assert.equal(pace(full, 120_000, 0).perMinute, 6003);
  assert.deepEqual(pace([], 0, 0), { perMinute: 0, lagMs: null });
});

test("exposure by pair, from live leverage", () => {
  const miners = [
    miner("5A", { net_leverage: { BTCUSD: 1, ETHUSD: 0.5 } }),
    miner("5B", { net_leverage: { BTCUSD: -0.25 }, rank: 2 }),
    miner("5C"),
  ];
  const [btc] = exposures(miners, [order(7)]);
  assert.equal(btc!.pair, "BTCUSD");
  assert.deepEqual([btc!.holders, btc!.longs, btc!.shorts, btc!.net, btc!.gross], [2, 1, 1, 0.75, 1.25]);
  assert.deepEqual([btc!.crowding, btc!.oneSided, btc!.orders, btc!.lastMs], [1, 0.8, 1, 7000]);
  assert.deepEqual(holdersOf(miners, "BTCUSD").map(({ hotkey }) => hotkey), ["5A", "5B"]);
});

test("curves", () => {
  assert.deepEqual(underwater([[1, 1], [2, 2], [3, 1], [4, 3]]), [0, 0, -0.5, 0]);
  const points = [{ last_update_ms: 1, prev_portfolio_ret: 1 }, {}, { last_update_ms: 1, prev_portfolio_ret: 2 }, { last_update_ms: 3, prev_portfolio_ret: 1.5 }];
  assert.deepEqual(curveOf(points), [[1, 1], [3, 1.5]]);
  assert.equal(curveOf([]), null);
  assert.equal(curveOf("x"), null);
  assert.equal(sparkline([[0, 1], [10, 2]], 100, 20), "0.0,18.0 100.0,2.0");
  assert.equal(sparkline([[5, 1], [5, 1]], 100, 20), "50.0,10.0 50.0,10.0");
});

test("statistics of any shape", () => {
  assert.deepEqual(measures(null), []);
  assert.deepEqual(measures({ scores: { sharpe: { value: 1.5, rank: 3, percentile: 90 }, odd: 7 }, weight: "x" }), [
    { name: "Sharpe", value: "1.500", rank: 3, percentile: 90 },
  ]);
});

test("columns that do not fit are left out by priority", () => {
  const columns = [0, 2, 1, 2].map((priority, index) => ({ key: index, width: 100, priority }));
  const keys = (width: number) => fitting(columns, width).map(({ key }) => key);
  assert.deepEqual(keys(400), [0, 1, 2, 3]);
  assert.deepEqual(keys(399), [0, 1, 2]);
  assert.deepEqual(keys(299), [0, 2]);
  assert.deepEqual(keys(10), [0]);
});

test("only rows in view are drawn", () => {
  assert.deepEqual(rowWindow(0, 280, 28, 1000, 5), { first: 0, last: 15 });
  assert.deepEqual(rowWindow(2800, 280, 28, 1000, 5), { first: 95, last: 115 });
  assert.deepEqual(rowWindow(1e9, 280, 28, 20, 5), { first: 5, last: 20 });
  assert.deepEqual(rowWindow(0, 280, 28, 0, 5), { first: 0, last: 0 });
});

test("the verdict names the reason", () => {
  const health = { status: "ok", problems: [], source: { stale: false, reason: "" }, log: {} } as unknown as Facts["health"];
  const facts: Facts = {
    tier: 100,
    health,
    beat: { stale: false, problems: [], sourceMs: 0 },
    stream: { state: "open", sinceMs: 0, why: "" },
    unreachableSinceMs: null,
    boardFailingSinceMs: null,
    nowMs: 60_000,
  };
  const word = (changes: Partial<Facts>) => verdict({ ...facts, ...changes }).word;
  assert.deepEqual(verdict(facts), { kind: "good", word: "Live", why: "" });
  assert.equal(word({ tier: 30, stream: { state: "off", sinceMs: 0, why: "" } }), "Partly live");
  assert.equal(word({ tier: 0 }), "Delayed");
  const failing = { boardFailingSinceMs: 30_000 };
  assert.deepEqual([word(failing), verdict({ ...facts, ...failing }).kind], ["Orders live", "warn"]);
  assert.match(verdict({ ...facts, ...failing }).why, /leaderboard cannot be loaded for .*; returns may be old/);
  assert.equal(word({ ...failing, tier: 30 }), "Not current");
  const lost = verdict({ ...facts, stream: { state: "lost", sinceMs: 50_000, why: "no connection" } });
  assert.equal(lost.word, "Reconnecting");
  assert.match(lost.why, /no connection, for 10 s/);
  assert.equal(word({ unreachableSinceMs: 0 }), "Orders live");
  assert.equal(word({ tier: 0, unreachableSinceMs: 0 }), "Reconnecting");
  const stale = verdict({ ...facts, beat: { stale: true, problems: ["source_stale", "mass_removal"], sourceMs: 0 } });
  assert.deepEqual([stale.word, stale.why], ["Stale", "mass removal"]);
  assert.equal(word({ beat: { stale: false, problems: ["not_watching"], sourceMs: 0 } }), "Live, degraded");
});

test("errors are sentences", () => {
  assert.equal(errorSentence(new TypeError("failed to fetch")), "The server cannot be reached.");
  assert.equal(errorSentence(Object.assign(new Error("no answer"), { code: "unreachable" })), "The server cannot be reached.");
  assert.equal(errorSentence(new Error("no such thing")), "No such thing.");
  assert.equal(errorSentence("x"), "Something went wrong.");
});
