/**
 * The errors of this package. Each has a `code`, a stable identifier for programs; messages are for people and
 * may change.
 *
 *     PTNError
 *     ├── SettingsError              an invalid option or address
 *     ├── InvalidInputError          a malformed frame or argument
 *     └── ClientError
 *         ├── ServerUnreachableError     no connection, it was lost, or it timed out
 *         ├── AuthenticationError        no key, an unknown one, or its tier is too low
 *         └── APIStatusError             a response with a status of 300 or above
 *             ├── RateLimitError             429: too many requests
 *             └── ServerError                500 and above
 */

export class PTNError extends Error {
  readonly code: string;

  constructor(message: string, code: string) {
    super(message);
    this.name = new.target.name;
    this.code = code;
  }
}

export class SettingsError extends PTNError {
  constructor(message: string) {
    super(message, "bad_setting");
  }
}

export class InvalidInputError extends PTNError {
  constructor(message: string, code = "invalid") {
    super(message, code);
  }
}

export class ClientError extends PTNError {
  constructor(message: string, code = "client_error") {
    super(message, code);
  }
}

export class ServerUnreachableError extends ClientError {
  constructor(message: string) {
    super(message, "unreachable");
  }
}

/** `status` is 401 or 403; undefined without a key, or if the stream refused the login. */
export class AuthenticationError extends ClientError {
  readonly status: number | undefined;

  constructor(message: string, code = "authentication", status?: number) {
    super(message, code);
    this.status = status;
  }
}

/**
 * A response with an error status; the message is the body's `error`. `code` is the body's, `foreign` for a
 * response of something else than the API, such as a proxy, or `redirect`.
 */
export class APIStatusError extends ClientError {
  readonly status: number;
  /** The seconds that the server asks to wait, if it does. */
  readonly retryAfter: number | undefined;

  constructor(message: string, status: number, code = "http_status", retryAfter?: number) {
    super(message, code);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export class RateLimitError extends APIStatusError {}

export class ServerError extends APIStatusError {}

/** The error for a response that is not the expected one. */
export function statusError(status: number, headers: Headers, body: string): ClientError {
  let message = "";
  let code: string | undefined;
  try {
    const decoded: unknown = JSON.parse(body);
    if (typeof decoded === "object" && decoded !== null) {
      const { error, code: given } = decoded as { error?: unknown; code?: unknown };
      if (typeof error === "string") message = error;
      if (typeof given === "string") code = given;
    }
  } catch {
    // not the API's JSON
  }
  const seconds = Number.parseFloat(headers.get("retry-after") ?? "");
  const retryAfter = Number.isFinite(seconds) ? Math.max(0, seconds) : undefined;
  if (message && (status === 401 || status === 403)) return new AuthenticationError(message, code, status);
  if (!message) {
    const redirected = status === 0 || (status >= 300 && status < 400); // browsers hide the status
    code = redirected ? "redirect" : "foreign";
    message = redirected
      ? "the server redirects to another address: use that one"
      : `status ${status} from something else than the API, such as a proxy`;
  }
  const kind = status === 429 ? RateLimitError : status >= 500 ? ServerError : APIStatusError;
  return new kind(message, status, code, retryAfter);
}

/** Words for anything that was thrown; never the options of a request, which hold the key. */
export function errorText(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause instanceof Error ? error.cause : undefined;
  const code = (cause as { code?: unknown } | undefined)?.code;
  const detail = cause?.message || (typeof code === "string" ? code : "");
  return detail ? `${error.message}: ${detail}` : error.message;
}
