// An answer whose door was started anew and knows it no more: asked again with the same seed it has the same words, and those that
// stand there already are passed over.

/** Takes the pieces of an answer that is made again and gives what is new of them. */
export class Again {
  /** What has to come first. */
  #due: string;

  /** `known` is what stands there. */
  constructor(known: string) {
    this.#due = known;
  }

  /** What of `piece` is new; `null` where it is another answer. */
  take(piece: string): string | null {
    const known = this.#due.slice(0, piece.length);
    if (!piece.startsWith(known)) return null;
    this.#due = this.#due.slice(known.length);
    return piece.slice(known.length);
  }

  /** Whether all that stood there came again. */
  get whole(): boolean {
    return this.#due === '';
  }
}

/** Whether an answer may be made again without being asked: only where it has the same words, and where making it does nothing
 *  else. A provider (`PROVIDER/MODEL`) promises neither, and tools act. */
export function repeats(wish: { model: string; servers: string[] }): boolean {
  return wish.servers.length === 0 && !wish.model.includes('/');
}
