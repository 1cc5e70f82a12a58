// Server-sent events, read from a body that comes in pieces of any size.

/** One event. */
export interface ServerEvent {
  id: string;
  data: string;
}

/** Longest event that is read, in characters: the door sends none above 1 MiB. */
const LENGTH_MAX = 4 << 20;

/** Takes text in pieces and gives the events that are complete. */
export class EventReader {
  #rest = '';
  #id = '';
  #data: string[] = [];

  /** Adds `piece`. */
  push(piece: string): ServerEvent[] {
    this.#rest += piece;
    if (this.#rest.length > LENGTH_MAX) throw new Error('an event is longer than any that the door sends');
    const events: ServerEvent[] = [];
    // A line ends with \n, \r\n or \r; a \r at the very end may be half of one.
    const lines = this.#rest.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? '';
    for (const line of lines) {
      const event = this.#line(line);
      if (event) events.push(event);
    }
    return events;
  }

  #line(line: string): ServerEvent | undefined {
    if (line === '') {
      if (this.#data.length === 0) return undefined;
      const event = { id: this.#id, data: this.#data.join('\n') };
      this.#data = [];
      return event;
    }
    const colon = line.indexOf(':');
    const [name, value] = colon < 0 ? [line, ''] : [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, '')];
    if (name === 'data') this.#data.push(value);
    if (name === 'id') this.#id = value;
    return undefined;
  }
}
