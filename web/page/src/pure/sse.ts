// Server-Sent Events from chunks of text, as the HTML standard defines them.

export type ServerEvent = { type: string; id: string; data: string };

export class EventParser {
  private rest = "";
  private event: ServerEvent = { type: "", id: "", data: "" };

  /** Returns the events that are complete with this chunk. */
  push(chunk: string): ServerEvent[] {
    const lines = (this.rest + chunk).split("\n");
    this.rest = lines.pop()!;
    const complete: ServerEvent[] = [];
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line === "") {
        if (this.event.data !== "") complete.push(this.event);
        this.event = { type: "", id: "", data: "" };
        continue;
      }
      const colon = line.indexOf(":");
      if (colon === 0) continue;
      const field = colon === -1 ? line : line.slice(0, colon);
      const value = colon === -1 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (field === "event") this.event.type = value;
      else if (field === "id") this.event.id = value;
      else if (field === "data") this.event.data += (this.event.data === "" ? "" : "\n") + value;
    }
    return complete;
  }
}
