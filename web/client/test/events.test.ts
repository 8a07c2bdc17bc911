import assert from "node:assert/strict";
import { test } from "node:test";
import { EventParser } from "../src/events.js";

const TEXT = ": hello\n\nevent: order\r\nid: e:1:2\r\ndata: {}\r\n\r\nretry: 5\ndata:a\ndata: b\n\nid: x\n\nevent: lost\ndata: 1";
const EVENTS = [
  { event: "order", id: "e:1:2", data: "{}" },
  { event: "message", id: "e:1:2", data: "a\nb" },
];

test("a text in parts of any length has the same events", () => {
  for (let size = 1; size <= TEXT.length; size += 1) {
    const comments: string[] = [];
    const parser = new EventParser((comment) => comments.push(comment));
    const found = [];
    for (let at = 0; at < TEXT.length; at += size) found.push(...parser.events(TEXT.slice(at, at + size)));
    assert.deepEqual(found, EVENTS, `parts of ${size}`);
    assert.deepEqual(comments, ["hello"]);
  }
});

test("a long line is not copied for every part", () => {
  const parser = new EventParser();
  const part = "x".repeat(1_000);
  assert.deepEqual([...parser.events("data: ")], []);
  for (let n = 0; n < 30_000; n += 1) assert.deepEqual([...parser.events(part)], []);
  const [event] = parser.events("\n\n");
  assert.equal(event?.data.length, 30_000_000);
});
