/** Client of the PTN API: REST, the stream of orders, and a live mirror of positions. */

export type { Choice } from "./arguments.js";
export type { StreamProblem, StreamState } from "./connection.js";
export {
  APIStatusError,
  AuthenticationError,
  ClientError,
  InvalidInputError,
  PTNError,
  RateLimitError,
  ServerError,
  ServerUnreachableError,
  SettingsError,
} from "./errors.js";
export {
  tradePairId,
  type HeartbeatMessage,
  type OrderMessage,
  type PositionMessage,
  type RemovedMessage,
} from "./frames.js";
export type { WebSocketConstructor, WebSocketLike } from "./links.js";
export { Mirror, type MirrorOptions } from "./mirror.js";
export {
  PTNClient,
  type MessagePage,
  type MinerPositions,
  type OrderStatus,
  type PTNClientOptions,
  type RequestOptions,
  type Retries,
  type Tier,
} from "./rest.js";
export type { Cursor, Gap, GapReason, State, StreamItem } from "./session.js";
export { newOrder, Stream, stream, type StreamMessage, type StreamOptions } from "./stream.js";
export type { Timing } from "./timing.js";
export type * from "./types.js";
