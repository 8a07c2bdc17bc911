/** Server frames as a client reads them: leniently, since a later server may send more. */

import { InvalidInputError } from "./errors.js";
import type { Heartbeat, MessageData, Order, Position, PositionsRemoved } from "./types.js";

/** One order. `data.position` has its orders up to this one, which is last; in format `delta` it has none. */
export interface OrderMessage {
  type: "order";
  sequence: number;
  timestamp: number;
  data: MessageData;
  late: boolean;
  replay: boolean;
}

/** A position that changed otherwise than by a new order: its summary and the orders that changed. */
export interface PositionMessage {
  type: "position";
  revision: number;
  after: number;
  position: Position;
  orders: Order[];
  order_uuids: string[] | null;
}

export type RemovedMessage = PositionsRemoved;
export type HeartbeatMessage = Heartbeat;

export interface LoginAccepted {
  type: "login";
  current_sequence: number;
  epoch: string | null;
  version: number;
  heartbeat_ms: number;
  user: string;
}

export interface SubscriptionAnswer {
  type: "subscription_status";
  status: string;
  action: string;
  message: string;
  sender_timestamp: unknown;
  received_timestamp: number | null;
  unknown_miners: string[];
}

export interface Resumed {
  type: "resumed";
  after: number;
  head: number;
}

export interface ResumeFailed {
  type: "resume_failed";
  reason: "epoch" | "too_old" | "future";
  epoch: string;
  oldest_sequence: number;
  head: number;
}

export type ServerFrame =
  | OrderMessage
  | { type: "batch"; messages: OrderMessage[] }
  | PositionMessage
  | RemovedMessage
  | HeartbeatMessage
  | LoginAccepted
  | SubscriptionAnswer
  | Resumed
  | ResumeFailed
  | { type: "pong"; client_timestamp: unknown; server_timestamp: number }
  | { type: "refusal"; message: string; code: string }
  | { type: "error"; message: string; code: string };

/** A client's choice of messages; the frame `subscribe` of the protocol. */
export interface Subscription {
  all?: boolean;
  miners?: string[];
  trade_pairs?: string[];
  format?: "full" | "delta";
  updates?: boolean;
  revision?: number;
}

type Check = (value: unknown) => boolean;

const isString: Check = (value) => typeof value === "string";
const isBoolean: Check = (value) => typeof value === "boolean";
const isInteger: Check = Number.isSafeInteger;
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isAny: Check = (value) => value !== undefined;
const listOf =
  (check: Check): Check =>
  (value) =>
    Array.isArray(value) && value.every(check);
const orNull =
  (check: Check): Check =>
  (value) =>
    value === null || check(value);
/** With a default, which stands for an absent value. */
const optional = (check: Check, value: unknown): [Check, unknown] => [check, value];
const isPosition: Check = (value) =>
  isObject(value) && isString(value["miner_hotkey"]) && isString(value["position_uuid"]);
const isPair: Check = (value) => Array.isArray(value) && value.length === 2 && value.every(isString);
const isReason: Check = (value) => value === "epoch" || value === "too_old" || value === "future";

type Shape = Record<string, Check | [Check, unknown]>;

const ORDER: Shape = {
  sequence: isInteger,
  timestamp: isInteger,
  data: isAny,
  late: optional(isBoolean, false),
  replay: optional(isBoolean, false),
};
const REFUSAL: Shape = { message: isString, code: optional(isString, "") };
const LOGIN: Shape = {
  current_sequence: isInteger,
  epoch: optional(orNull(isString), null),
  version: optional(isInteger, 1),
  heartbeat_ms: optional(isInteger, 0),
  user: optional(isString, ""),
};
const SHAPES: Record<string, Shape> = {
  batch: { messages: Array.isArray },
  error: { message: isString, code: isString },
  heartbeat: {
    head: isInteger,
    revision: isInteger,
    timestamp: isInteger,
    source_ms: orNull(isInteger),
    stale: isBoolean,
    problems: optional(listOf(isString), []),
  },
  pong: { client_timestamp: isAny, server_timestamp: isInteger },
  position: {
    revision: isInteger,
    after: isInteger,
    position: isPosition,
    orders: optional(listOf(isObject), []),
    order_uuids: optional(orNull(listOf(isString)), null),
  },
  removed: { revision: isInteger, after: isInteger, positions: listOf(isPair) },
  resume_failed: { reason: isReason, epoch: isString, oldest_sequence: isInteger, head: isInteger },
  resumed: { after: isInteger, head: isInteger },
  subscription_status: {
    status: optional(isString, "success"),
    action: optional(isString, ""),
    message: optional(isString, ""),
    sender_timestamp: optional(() => true, null),
    received_timestamp: optional(orNull(isInteger), null),
    unknown_miners: optional(listOf(isString), []),
  },
};

/** Decodes any frame of a server; null for an unknown one, which is to be ignored. Throws InvalidInputError. */
export function readFrame(text: string): ServerFrame | null {
  let frame: unknown;
  try {
    frame = JSON.parse(text);
  } catch {
    throw new InvalidInputError("not JSON", "not_json");
  }
  if (!isObject(frame)) throw new InvalidInputError("not an object", "bad_frame");
  const { type = "", status = "", sequence } = frame;
  if (!isString(type) || !isString(status)) throw new InvalidInputError("type: not a text", "bad_frame");
  if (type === "" && sequence !== undefined) return checked("order", ORDER, frame);
  if (type === "" && status === "success") return checked("login", LOGIN, frame);
  if (type === "" && status === "error") return checked("refusal", REFUSAL, frame);
  const shape = Object.hasOwn(SHAPES, type as string) ? SHAPES[type as string] : undefined;
  if (shape === undefined) return null;
  const read = checked(type as string, shape, frame);
  if (read.type === "batch") {
    for (const message of read.messages as unknown[]) {
      if (!isObject(message)) throw new InvalidInputError("messages: not an object", "bad_frame");
      checked("order", ORDER, message);
    }
  }
  return read;
}

/** Checks the fields and fills in defaults, in place: frames can be large. */
function checked(type: string, shape: Shape, frame: Record<string, unknown>): ServerFrame {
  for (const [field, rule] of Object.entries(shape)) {
    const [check, absent] = Array.isArray(rule) ? rule : [rule, undefined];
    if (frame[field] === undefined && Array.isArray(rule)) frame[field] = absent;
    else if (!check(frame[field])) throw new InvalidInputError(`${field}: missing or malformed`, "bad_frame");
  }
  frame["type"] = type;
  return frame as unknown as ServerFrame;
}

/** Whether an order's data can be used: a position with its key, and in format `delta` an order. */
export function isReadable(message: OrderMessage): boolean {
  const data: unknown = message.data;
  if (!isObject(data) || !isPosition(data["position"])) return false;
  const { order, n_orders: place } = data;
  return order === undefined || order === null || (isObject(order) && isInteger(place));
}

/** Whether it is an order that passes the subscription's filters, for servers that do not apply them. */
export function matches(message: OrderMessage, subscription: Subscription | null): boolean {
  // A validator's own server numbers its dashboards like orders.
  if (!isObject(message.data) || !("position" in message.data)) return false;
  const { miners, trade_pairs: pairs } = subscription ?? {};
  if (!isReadable(message)) return true; // reported when it is read
  const { position } = message.data;
  return (
    (miners === undefined || miners.includes(position.miner_hotkey)) &&
    (pairs === undefined || pairs.includes(tradePairId(position)))
  );
}

/** The id of a position's trade pair, such as BTCUSD; empty if it has none. */
export function tradePairId(position: { trade_pair?: unknown }): string {
  const pair = position.trade_pair;
  const id = Array.isArray(pair) ? pair[0] : isObject(pair) ? pair["trade_pair_id"] : pair;
  return typeof id === "string" ? id : "";
}
