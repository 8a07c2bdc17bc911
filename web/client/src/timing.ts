/** Timeouts and delays of the stream, in milliseconds. */
export interface Timing {
  /** Timeout for the connection, for each step of the login, and for the answer to the subscribe. */
  connect: number;
  /** Longest wait for the closing handshake. */
  close: number;
  /** Interval of the WebSocket's pings; a version 1 server is silent after two of them. */
  ping: number;
  /** The heartbeat period that is assumed until the server has told its own; silent after two of them. */
  heartbeat: number;
  /** Resolution at which silence is measured. */
  tick: number;
  /** Longest delay before the first reconnection; doubles with every further one. */
  backoff: number;
  /** Longest delay before any reconnection: how much later than the server a bot is back. */
  backoffMax: number;
  /** Shortest delay after an eviction by a newer connection of the same user; doubles twice. */
  eviction: number;
  /** A connection that lasted this long resets the reconnection delay. */
  settled: number;
  /** Shortest delay after a refused login; the longest is twice that. */
  refused: number;
}

export const DEFAULT_TIMING: Readonly<Timing> = {
  connect: 10_000,
  close: 1_000,
  ping: 15_000,
  heartbeat: 15_000,
  tick: 250,
  backoff: 1_000,
  backoffMax: 10_000,
  eviction: 15_000,
  settled: 20_000,
  refused: 30_000,
};

/**
 * Exponential backoff: each delay is twice the one before, from `first` up to `max`. With `jitter` (a fraction)
 * every delay is shortened at random by up to that share; 1 is full jitter.
 */
export class Backoff {
  #next: number;

  constructor(
    private readonly first: number,
    private readonly max: number,
    private readonly jitter = 0,
    private readonly random: () => number = Math.random,
  ) {
    this.#next = first;
  }

  next(): number {
    const delay = Math.min(this.#next, this.max);
    this.#next = Math.min(delay * 2, this.max);
    return delay * (1 - this.jitter * this.random());
  }

  reset(): void {
    this.#next = this.first;
  }
}

/** Delays between connections, by the kind of failure. */
export class ReconnectBackoff {
  readonly #lost: Backoff;
  readonly #evicted: Backoff;
  readonly #refused: Backoff;

  constructor(
    private readonly timing: Timing,
    random: () => number = Math.random,
  ) {
    this.#lost = new Backoff(timing.backoff, Math.max(timing.backoff, timing.backoffMax), 1, random);
    // Half of twice the delay is the shortest one. It is never short: six clients of one key would otherwise
    // evict each other in circles.
    this.#evicted = new Backoff(2 * timing.eviction, 8 * timing.eviction, 0.5, random);
    this.#refused = new Backoff(2 * timing.refused, 2 * timing.refused, 0.5, random);
  }

  /**
   * Resets the delays after a connection that lasted. Clients that evict each other stay connected for a while
   * in turn, so the eviction delay is reset only by a connection that lasted much longer than any delay.
   */
  connectedFor(ms: number): void {
    if (ms >= this.timing.settled) this.#lost.reset();
    if (ms >= 40 * this.timing.eviction) this.#evicted.reset();
  }

  after(kind: "lost" | "evicted" | "refused"): number {
    return { lost: this.#lost, evicted: this.#evicted, refused: this.#refused }[kind].next();
  }
}

/** Resolves after `ms`, or early, when the signal is aborted. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const end = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal?.addEventListener("abort", end);
  });
}
