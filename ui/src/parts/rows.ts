// Where the rows of a long list lie, when their heights are only known once they have been shown.

/** Heights of rows and their sums, in CSS pixels. */
export class Rows {
  readonly #guess: number;
  #keys: string[] = [];
  /** What was measured, also of rows that are not in the list now. */
  readonly #measured = new Map<string, number>();
  /** Where each row begins; one entry more, the end of the last. */
  #tops = new Float64Array(1);
  /** Rows before this one have right tops. */
  #sure = 0;

  constructor(guess: number) {
    this.#guess = guess;
  }

  /** The list is now `keys`. */
  lay(keys: string[]): void {
    let same = 0;
    while (same < keys.length && keys[same] === this.#keys[same]) same += 1;
    this.#keys = keys;
    if (this.#tops.length < keys.length + 1) {
      const wider = new Float64Array(Math.max(64, 2 * keys.length));
      wider.set(this.#tops);
      this.#tops = wider;
    }
    this.#sure = Math.min(this.#sure, same);
  }

  /** Row `key` is `height` high. Gives by how much that moves what lies below it. */
  measure(key: string, index: number, height: number): number {
    if (this.#keys[index] !== key) return 0;
    const before = this.#measured.get(key) ?? this.#guess;
    if (before === height) return 0;
    this.#measured.set(key, height);
    this.#sure = Math.min(this.#sure, index);
    return height - before;
  }

  /** Where row `index` begins; for the number of rows, where the last one ends. */
  top(index: number): number {
    for (let i = this.#sure; i < index; i += 1) {
      this.#tops[i + 1] = (this.#tops[i] as number) + this.height(i);
    }
    this.#sure = Math.max(this.#sure, index);
    return this.#tops[index] as number;
  }

  /** How high row `index` is, or is thought to be. */
  height(index: number): number {
    return this.#measured.get(this.#keys[index] as string) ?? this.#guess;
  }

  /** Height of all of it. */
  total(): number {
    return this.top(this.#keys.length);
  }

  /** The row that covers `offset`. */
  at(offset: number): number {
    this.total();
    let [low, high] = [0, Math.max(0, this.#keys.length - 1)];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((this.#tops[middle] as number) <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}
