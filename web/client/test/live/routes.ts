// Calls every method of the REST client and prints what each returned.

import { APIStatusError, AuthenticationError, PTNClient } from "../../src/index.js";
import { environment, say } from "./program.js";

const { apiKey, restURL } = environment();
const client = new PTNClient(restURL, { apiKey, cache: 100 });
const results: Record<string, string> = {};

async function call(name: string, ask: () => Promise<unknown>): Promise<void> {
  try {
    const first = await ask();
    const kept = first === (await ask());
    results[name] = typeof first === "object" && first !== null ? (kept ? "kept" : "read") : typeof first;
  } catch (error) {
    const known = error instanceof APIStatusError || error instanceof AuthenticationError;
    results[name] = known ? `${error.status} ${error.code}` : String(error);
  }
}

const [hotkey = ""] = await client.hotkeys();
const { cursor, streamCursor } = await client.minerPositions();
await call("minerPositions", () => client.minerPositions({ miner: hotkey, tradePair: "btc/usd", status: "closed" }));
await call("changes", () => client.changes(cursor ?? ""));
await call("miner", () => client.miner(hotkey));
await call("miners", () => client.miners());
await call("hotkeys", () => client.hotkeys());
await call("orders", () => client.orders(hotkey, { status: ["filled"] }));
await call("limitOrders", () => client.limitOrders("nobody"));
await call("statistics", () => client.statistics({ checkpoints: false }));
await call("minerStatistics", () => client.minerStatistics(hotkey));
await call("eliminations", () => client.eliminations());
await call("validatorCheckpoint", () => client.validatorCheckpoint());
await call("perfLedger", () => client.perfLedger(hotkey));
await call("debtLedgers", () => client.debtLedgers());
await call("debtLedger", () => client.debtLedger(hotkey));
await call("emissionsLedger", () => client.emissionsLedger(hotkey));
await call("penaltyLedger", () => client.penaltyLedger(hotkey));
await call("challengePeriod", () => client.challengePeriod(hotkey, { history: true }));
await call("accountSnapshots", () => client.accountSnapshots(hotkey, { limit: 2 }));
await call("collateral", () => client.collateral({ hotkey, mostRecent: true }));
await call("minerSelections", () => client.minerSelections());
await call("entities", () => client.entities());
await call("entity", () => client.entity(hotkey));
await call("entityEndpoint", () => client.entityEndpoint({ subaccount: "5A_0" }));
await call("tradePairs", () => client.tradePairs({ assetClass: "forex" }));
await call("messages", () => client.messages(-1, { limit: 1, miner: hotkey, format: "delta" }));
await call("me", () => client.me());
await call("health", () => client.health());
await call("wrong key", () => new PTNClient(restURL, { apiKey: "wrong" }).me());
await call("no key", () => new PTNClient(restURL).me());
await call("stream", async () => {
  for await (const { sequence } of client.stream({ after: streamCursor, miners: hotkey })) return { sequence };
  return null;
});
say({ results });
