// A program that uses every public name; the types are checked, nothing runs.

import {
  APIStatusError,
  AuthenticationError,
  ClientError,
  InvalidInputError,
  Mirror,
  newOrder,
  PTNClient,
  PTNError,
  RateLimitError,
  ServerError,
  ServerUnreachableError,
  SettingsError,
  Stream,
  stream,
  tradePairId,
  type Choice,
  type Cursor,
  type Gap,
  type GapReason,
  type Health,
  type HeartbeatMessage,
  type MessagePage,
  type MinerEntry,
  type Leaderboard,
  type LeaderboardEntry,
  type MinerPositions,
  type MirrorOptions,
  type Order,
  type OrderMessage,
  type OrderStatus,
  type Position,
  type PositionMessage,
  type PTNClientOptions,
  type RemovedMessage,
  type RequestOptions,
  type Retries,
  type State,
  type StreamItem,
  type StreamMessage,
  type StreamOptions,
  type StreamProblem,
  type StreamState,
  type Tier,
  type Timing,
  type WebSocketConstructor,
  type WebSocketLike,
} from "ptn-api-client";

const retries: Retries = { times: 1, first: 100, longest: 1_000 };
const clientOptions: PTNClientOptions = { apiKey: "key", timeout: 1_000, retries, cache: 2, fetch };
const client = new PTNClient("http://localhost:48888", clientOptions);
const request: RequestOptions = { signal: AbortSignal.timeout(1_000), timeout: 500 };
const tier: Tier = 30;
const status: OrderStatus = "filled";
const miners: Choice = ["5A"];

export async function rest(): Promise<void> {
  const found: MinerPositions = await client.minerPositions({ tier, miner: miners, tradePair: "BTCUSD", status: "open" }, request);
  for (const [hotkey, entry] of Object.entries(found.miners)) show(hotkey, entry);
  if (found.cursor !== null) {
    const { removed, positions, miners: totals } = await client.changes(found.cursor);
    const [[hotkey, uuid] = ["", ""]] = removed;
    const changed: Position[] = Object.values(positions).flat();
    const best: number[] = Object.values(totals).map((total) => total.thirty_day_returns);
    console.log(hotkey, uuid, changed.length, best);
  }
  const entry: MinerEntry = await client.miner("5A", request);
  const rows: Leaderboard = await client.miners();
  const row: LeaderboardEntry | undefined = rows.miners[0];
  const hotkeys: string[] = await client.hotkeys();
  const filled: number | undefined = (await client.orders("5A", { status })).filled?.length;
  const limits = await client.limitOrders("5A", { status: ["unfilled", "cancelled"] });
  console.log(entry.n_positions, row?.curve?.[0]?.[1], hotkeys, filled, limits.unfilled);
  console.log((await client.statistics({ checkpoints: false })).data, (await client.minerStatistics("5A")).hotkey);
  console.log((await client.eliminations())[0]?.hotkey, (await client.validatorCheckpoint()).positions);
  console.log((await client.perfLedger("5A")).cps, await client.debtLedgers(), (await client.debtLedger("5A")).hotkey);
  console.log((await client.emissionsLedger("5A")).checkpoints, (await client.penaltyLedger("5A")).checkpoints);
  console.log((await client.challengePeriod("5A", { history: true })).challenge_period.bucket);
  console.log((await client.accountSnapshots("5A", { limit: 1 })).snapshots[0]?.equity);
  console.log((await client.collateral({ hotkey: "5A", mostRecent: true })).data, await client.minerSelections());
  console.log(await client.entities(), await client.entity("5A"), await client.entityEndpoint({ subaccount: "5A_0" }));
  console.log((await client.tradePairs({ assetClass: "forex" })).allowed[0]?.trade_pair_id);
  const health: Health = await client.health();
  console.log((await client.me()).tier, health.status);
  const page: MessagePage = await client.messages(found.sequence ?? -1, { epoch: found.epoch ?? "", limit: 1, format: "delta" });
  for (const message of page.messages) take(message);
}

function show(hotkey: string, { positions }: MinerEntry): void {
  for (const position of positions) {
    const orders: Order[] = position.orders ?? [];
    console.log(hotkey, tradePairId(position), orders.length);
  }
}

function take(message: OrderMessage): void {
  const order: Order | undefined = newOrder(message);
  if (!message.replay && !message.late) console.log(message.sequence, order?.price, message.data.position.net_leverage);
}

const timing: Partial<Timing> = { backoff: 100, heartbeat: 30_000 };
const made: WebSocketConstructor = WebSocket;
const options: StreamOptions = {
  apiKey: "key",
  transport: "websocket",
  after: null,
  miners,
  tradePairs: "BTCUSD",
  format: "full",
  onGap: ({ after, next, reason }: Gap) => console.log(after, next, reason satisfies GapReason),
  onState: ({ state, connection, problems }: StreamState) => {
    const problem: StreamProblem | undefined = problems[0];
    console.log(state satisfies State, connection, problem?.code, problem?.sentence, problem?.remedy);
  },
  onStale: (message: OrderMessage) => console.log(message.sequence),
  maxAgeMs: 1_000,
  onWarning: (text: string) => console.log(text),
  stopOnAuthError: false,
  timing,
  signal: AbortSignal.timeout(1_000),
  fetch,
  WebSocket: made,
  clock: Date.now,
};

export async function follow(): Promise<void> {
  const orders: Stream = stream("ws://localhost:8765", options);
  for await (const message of orders) {
    take(message);
    const age: number = orders.ageMs(message);
    const cursor: string | null = orders.cursor;
    console.log(age, cursor, orders.state.state, orders.clockOffsetMs);
  }
  await orders.close();
  const all: Stream<StreamMessage> = client.stream({ updates: true });
  for await (const message of all) {
    if (message.type === "order") take(message);
    else if (message.type === "position") console.log((message satisfies PositionMessage).position.current_return);
    else console.log((message satisfies RemovedMessage).positions[0]?.[1]);
  }
  for await (const item of new Stream("http://localhost:48888", { apiKey: "key" }).items()) {
    const { value, cursor }: StreamItem = item;
    if (value?.type === "heartbeat") console.log((value satisfies HeartbeatMessage).head);
    console.log((cursor satisfies Cursor).sequence);
  }
}

export async function mirror(): Promise<void> {
  const chosen: MirrorOptions = { apiKey: "key", miners, streamURL: "ws://localhost:8765", mendWithin: 1_000, retries };
  const live = new Mirror("http://localhost:48888", { ...chosen, onChange: (hotkey, uuid) => console.log(hotkey, uuid) });
  try {
    await live.loaded();
    const position: Position | undefined = live.position("5A", "uuid");
    console.log(position?.close_ms, live.positions({ miner: "5A", status: "open" }), live.size, live.cursor, live.state);
    await live.ended();
  } catch (error) {
    if (error instanceof AuthenticationError) console.log(error.status);
    else if (error instanceof RateLimitError || error instanceof ServerError) console.log(error.retryAfter);
    else if (error instanceof APIStatusError) console.log(error.status);
    else if (error instanceof ServerUnreachableError || error instanceof ClientError) console.log(error.message);
    else if (error instanceof SettingsError || error instanceof InvalidInputError) console.log(error.code);
    else if (error instanceof PTNError) console.log(error.name);
  } finally {
    await live.close();
  }
}

export const sockets: WebSocketLike[] = [];
