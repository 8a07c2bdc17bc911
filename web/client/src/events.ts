/** The format of Server-Sent Events. */

export interface ServerSentEvent {
  event: string;
  id: string;
  data: string;
}

/** A parser of the text of an event stream, in parts as they arrive. Lines end with LF or CRLF. */
export class EventParser {
  #line: string[] = []; // parts of the line that is not complete
  #data: string[] = [];
  #event = "";
  #id = "";

  constructor(private readonly onComment: (text: string) => void = () => {}) {}

  /** Yields the events that this part completes. */
  *events(part: string): Generator<ServerSentEvent> {
    let start = 0;
    for (let end = part.indexOf("\n"); end >= 0; end = part.indexOf("\n", start)) {
      const line = this.#line.join("") + part.slice(start, end);
      this.#line = [];
      start = end + 1;
      const event = this.#complete(line.endsWith("\r") ? line.slice(0, -1) : line);
      if (event !== null) yield event;
    }
    if (start < part.length) this.#line.push(part.slice(start));
  }

  #complete(line: string): ServerSentEvent | null {
    if (line === "") {
      const event = { event: this.#event || "message", id: this.#id, data: this.#data.join("\n") };
      const empty = this.#data.length === 0;
      this.#event = "";
      this.#data = [];
      return empty ? null : event;
    }
    const colon = line.indexOf(":");
    if (colon === 0) {
      this.onComment(line.slice(1).trim());
      return null;
    }
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "event") this.#event = value;
    else if (field === "id") this.#id = value;
    else if (field === "data") this.#data.push(value);
    return null;
  }
}
