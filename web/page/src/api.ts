// Requests to the server that this page came from. The key travels in a header only.

export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string,
    readonly body: Record<string, unknown> = {},
  ) {
    super(message);
  }
}

export type Answer<T> = {
  value: T;
  etag: string | null;
  epoch: string | null;
  sequence: number | null;
  /** The time up to which a delayed answer is complete. */
  asOfMs: number | null;
};

/** Returns `known` itself if the answer is still the same. */
export async function get<T>(path: string, key: string | null, known: Answer<T> | null = null): Promise<Answer<T>> {
  const headers: Record<string, string> = { Accept: "application/json" };
  if (key !== null) headers["Authorization"] = `Bearer ${key}`;
  if (known?.etag) headers["If-None-Match"] = known.etag;
  const response = await fetch(path, { headers, cache: "no-store", signal: AbortSignal.timeout(20_000) });
  if (response.status === 304 && known !== null) return known;
  const text = await response.text();
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    throw new ApiError("the answer is not from the API", response.status, "foreign");
  }
  // /health answers 503 with a body that says why.
  if (!response.ok && path !== "/health") {
    const { error, code } = body as { error?: string; code?: string };
    throw new ApiError(error ?? `status ${response.status}`, response.status, code ?? "", body as never);
  }
  const number = (name: string) => {
    const header = response.headers.get(name);
    return header === null ? null : Number(header);
  };
  return {
    value: body as T,
    etag: response.headers.get("ETag"),
    epoch: response.headers.get("X-PTN-Epoch"),
    sequence: number("X-PTN-Sequence"),
    asOfMs: number("X-PTN-As-Of"),
  };
}
