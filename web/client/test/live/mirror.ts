// Mirrors the miners of PTN_MINERS; for each line on stdin, compares with REST until both are equal.

import { createInterface } from "node:readline";
import { isDeepStrictEqual } from "node:util";
import { WebSocket } from "ws";
import { Mirror, PTNClient, type Position } from "../../src/index.js";
import { QUICK, environment, say } from "./program.js";

const { apiKey, url, restURL } = environment();
const miners = (process.env["PTN_MINERS"] ?? "").split(",");
const client = new PTNClient(restURL, { apiKey });
let changes = 0;
const mirror = new Mirror(restURL, {
  apiKey,
  miners,
  streamURL: url,
  WebSocket,
  timing: QUICK,
  mendWithin: 100,
  onChange: () => (changes += 1),
  onWarning: () => {},
});
await mirror.loaded();
say({ loaded: mirror.size });
for await (const line of createInterface({ input: process.stdin })) {
  const started = Date.now();
  for (;;) {
    const { miners: entries } = await client.minerPositions({ miner: miners });
    const expected = sorted(Object.values(entries).flatMap(({ positions }) => positions));
    const found = sorted(mirror.positions());
    if (isDeepStrictEqual(found, expected)) {
      say({ [line]: { positions: found.length, orders: found.flatMap((p) => p.orders ?? []).length, changes } });
      break;
    }
    if (Date.now() - started > 40_000) {
      const different = found.filter((p, n) => !isDeepStrictEqual(p, expected[n]));
      throw new Error(`${found.length} of ${expected.length}: ${JSON.stringify(different).slice(0, 2_000)}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function sorted(positions: Position[]): Position[] {
  return positions
    .map((p) => ({ ...p, close_ms: p.is_closed_position === true ? p.close_ms : null })) // 0 in REST
    .sort((a, b) => (a.position_uuid < b.position_uuid ? -1 : 1));
}
