// How fast bytes come, from what was reported and when.

/** Milliseconds that are looked back: long enough for a line that stutters, short enough to notice that it got slower. */
const BACK = 10_000;
/** Before this much time has passed nobody can say how fast it is, in milliseconds. */
const LEAST = 1000;

/** The speed of one download. */
export class Rate {
  #points: { at: number; done: number }[] = [];

  /** `done` bytes had come at `at`, in milliseconds. */
  add(at: number, done: number): void {
    const last = this.#points.at(-1);
    // What began anew, or was there already from an earlier try, is no speed.
    if (last && (done < last.done || at < last.at)) this.#points = [];
    this.#points.push({ at, done });
    while (this.#points.length > 2 && at - (this.#points[1]?.at ?? at) > BACK) this.#points.shift();
  }

  /** Bytes a second; `null` while it cannot be said. */
  get perSecond(): number | null {
    const [first, last] = [this.#points[0], this.#points.at(-1)];
    if (!first || !last || last.at - first.at < LEAST || last.done <= first.done) return null;
    return (1000 * (last.done - first.done)) / (last.at - first.at);
  }
}

/** Seconds that `bytes` take at `rate`; `null` where that cannot be said. */
export function secondsFor(bytes: number | null, rate: number | null): number | null {
  return bytes === null || rate === null || rate <= 0 ? null : Math.max(0, bytes) / rate;
}
