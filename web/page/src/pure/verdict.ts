// Whether what the page shows is current, in one word, and why not.

import { period } from "./format.ts";
import type { Health } from "./model.ts";

export type Facts = {
  tier: number;
  health: Health | null;
  beat: { stale: boolean; problems: string[]; sourceMs: number | null } | null;
  stream: { state: "off" | "connecting" | "open" | "lost"; sinceMs: number; why: string };
  unreachableSinceMs: number | null;
  /** Since when the leaderboard cannot be loaded, though the server answers. */
  boardFailingSinceMs: number | null;
  nowMs: number;
};
export type Verdict = { kind: "good" | "warn" | "bad" | "quiet"; word: string; why: string };

export function verdict(facts: Facts): Verdict {
  const { tier, health, beat, stream, unreachableSinceMs, boardFailingSinceMs, nowMs } = facts;
  const live = tier >= 100;
  const since = (ms: number) => `for ${period(nowMs - ms)}`;
  if (live && stream.state === "lost") {
    return { kind: "bad", word: "Reconnecting", why: `${stream.why}, ${since(stream.sinceMs)}; shown is the last state` };
  }
  if (unreachableSinceMs !== null) {
    const why = `the server does not answer ${since(unreachableSinceMs)}`;
    // A live stream without REST: orders arrive, but returns do not change.
    return live && stream.state === "open"
      ? { kind: "warn", word: "Orders live", why: `${why}; returns may be old` }
      : { kind: "bad", word: "Reconnecting", why: `${why}; shown is the last state` };
  }
  if (live && stream.state !== "open") return { kind: "quiet", word: "Connecting", why: "" };
  const problems = [...new Set([...(health?.problems ?? []), ...(beat?.problems ?? [])])];
  if (health?.source?.stale || beat?.stale) {
    const reason = health?.source?.reason || problems.filter((code) => code !== "source_stale").join(", ");
    return { kind: "bad", word: "Stale", why: words(reason || "the source is silent") };
  }
  if (health !== null && health.status !== "ok" && health.status !== "degraded") {
    return { kind: "bad", word: health.status === "starting" ? "Starting" : "Failing", why: words(problems.join(", ")) };
  }
  if (boardFailingSinceMs !== null) {
    const why = `the leaderboard cannot be loaded ${since(boardFailingSinceMs)}`;
    return live
      ? { kind: "warn", word: "Orders live", why: `${why}; returns may be old` }
      : { kind: "bad", word: "Not current", why: `${why}; shown is the last state` };
  }
  const word = live ? "Live" : tier >= 30 ? "Partly live" : "Delayed";
  if (problems.length > 0) return { kind: "warn", word: `${word}, degraded`, why: words(problems.join(", ")) };
  return { kind: live ? "good" : "quiet", word, why: "" };
}

function words(codes: string): string {
  return codes.replaceAll("_", " ");
}
