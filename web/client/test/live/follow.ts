// Follows a stream until it has PTN_ORDERS orders and prints what it received, as one JSON line.

import { WebSocket } from "ws";
import { newOrder, stream, type Gap } from "../../src/index.js";
import { QUICK, environment, say } from "./program.js";

const { apiKey, url, orders: wanted } = environment();
const gaps: Gap[] = [];
const uuids: string[] = [];
const followed = stream(url, {
  apiKey,
  WebSocket,
  format: "delta",
  timing: QUICK,
  onGap: (gap) => gaps.push(gap),
  onState: ({ state }) => {
    if (state === "live") say({ state });
  },
  onWarning: () => {},
});
let last = -1;
for await (const message of followed) {
  if (message.sequence <= last) throw new Error(`${message.sequence} after ${last}`);
  last = message.sequence;
  uuids.push(newOrder(message)?.order_uuid ?? "");
  if (uuids.length === wanted) break;
}
say({ uuids, gaps });
