import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { ClientSession, type Cursor, type SessionEvent } from "../src/session.js";
import type { Subscription } from "../src/frames.js";

// Written by `python -m tests.web.session_vectors`; a Python test holds it equal.
const FILE = new URL("../../test/client_session.json", import.meta.url);

interface Step {
  do: "start" | "receive" | "tick" | "subscribe" | "unsubscribe";
  text?: string;
  ms?: number;
  at?: number;
  subscription?: Subscription;
  events?: unknown[];
  sent?: unknown[];
  phase?: string;
  state?: string;
  cursor?: [number, string | null];
  repeats?: number;
  offset?: number;
}

interface Case {
  test: string;
  options: {
    api_key: string;
    cursor: [number, string | null];
    subscription: Subscription | null;
    known_gap?: number | null;
    ping_ms?: number;
    login_ms?: number;
  };
  steps: Step[];
}

const cases = JSON.parse(readFileSync(FILE, "utf8")) as Case[];

function pair({ sequence, epoch }: Cursor): [number, string | null] {
  return [sequence, epoch];
}

function described(event: SessionEvent): unknown[] {
  switch (event.kind) {
    case "item": {
      const { value, cursor } = event;
      if (value === null) return ["none", pair(cursor)];
      if (value.type === "gap") return ["gap", value.after, value.next, value.reason, pair(cursor)];
      if (value.type === "order") return ["order", value.sequence, pair(cursor)];
      return [value.type, value.type === "heartbeat" ? value.head : value.revision, pair(cursor)];
    }
    case "state":
      return ["StateChanged", event.state];
    case "logged_in":
      return ["LoggedIn", event.epoch, event.user];
    case "refused":
      return ["Refused", event.message, event.code];
    case "evicted":
      return ["Evicted", event.message];
    case "warning":
      return ["ProtocolWarning"];
    case "disconnected":
      return ["Disconnected"];
  }
}

for (const [index, { test: name, options, steps }] of cases.entries()) {
  test(`${index}: ${name.replaceAll("_", " ")}`, () => {
    const [sequence, epoch] = options.cursor;
    const session = new ClientSession({
      apiKey: options.api_key,
      cursor: { sequence, epoch, revision: null },
      subscription: options.subscription,
      knownGap: options.known_gap ?? null,
      ...(options.ping_ms === undefined ? {} : { pingMs: options.ping_ms }),
      ...(options.login_ms === undefined ? {} : { loginMs: options.login_ms }),
    });
    const expected: Partial<Step> = {};
    for (const [number, step] of steps.entries()) {
      const { do: action, text = "", ms = 0, at = 0, subscription = {}, events = [], sent = [], ...state } = step;
      Object.assign(expected, state);
      let found: SessionEvent[] = [];
      if (action === "start") session.start();
      else if (action === "receive") found = session.receive(text, at);
      else if (action === "tick") found = session.tick(ms, at);
      else if (action === "subscribe") session.subscribe(subscription, at);
      else session.unsubscribe(at);
      const where = `step ${number}, ${action} ${text}`;
      assert.deepEqual(found.map(described), events, where);
      assert.deepEqual(session.toSend().map((frame) => JSON.parse(frame) as unknown), sent, where);
      const { phase, state: entered, repeats, clockOffset } = session;
      const now = { phase, state: entered, cursor: pair(session.cursor), repeats, offset: clockOffset.ms };
      assert.deepEqual(now, expected, where);
    }
  });
}

test("there are cases", () => {
  assert.ok(cases.length > 50);
});
