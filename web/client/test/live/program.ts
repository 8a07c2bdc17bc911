// What the programs of the tests against a real server share; tests/web/test_typescript_client.py runs them.

/** Timeouts and delays for tests. */
export const QUICK = { connect: 5_000, backoff: 50, backoffMax: 300, heartbeat: 2_000, tick: 50, settled: 1_000 };

export function environment(): { apiKey: string; url: string; restURL: string; orders: number } {
  const { PTN_API_KEY, PTN_URL, PTN_REST_URL, PTN_ORDERS } = process.env;
  return {
    apiKey: PTN_API_KEY ?? "",
    url: PTN_URL ?? "",
    restURL: PTN_REST_URL ?? "",
    orders: Number(PTN_ORDERS ?? "0"),
  };
}

/** Prints one line of JSON. */
export function say(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}
