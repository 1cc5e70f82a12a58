// Bytes, seconds and counts as a reader of each language writes them.

/** Writes amounts in one language. */
export class Amounts {
  readonly #tag: string;

  constructor(tag: string) {
    this.#tag = tag;
  }

  /** A number with at most three digits that mean something. */
  count(value: number): string {
    return new Intl.NumberFormat(this.#tag, value < 1000 ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: 0 }).format(value);
  }

  /** Bytes, in thousands. */
  bytes(value: number): string {
    const units = ['byte', 'kilobyte', 'megabyte', 'gigabyte', 'terabyte'];
    let size = value;
    let step = 0;
    while (size >= 1000 && step < units.length - 1) {
      size /= 1000;
      step += 1;
    }
    const format: Intl.NumberFormatOptions = { style: 'unit', unit: units[step] as string, unitDisplay: step === 0 ? 'long' : 'short', maximumSignificantDigits: 3 };
    return new Intl.NumberFormat(this.#tag, format).format(size);
  }

  /** Seconds, in milliseconds below one. */
  seconds(value: number): string {
    const [amount, unit] = value < 0.9995 ? [value * 1000, 'millisecond'] : value < 120 ? [value, 'second'] : value < 7200 ? [value / 60, 'minute'] : [value / 3600, 'hour'];
    const digits = amount < 1 ? { maximumSignificantDigits: 1 } : { maximumSignificantDigits: 3 };
    return new Intl.NumberFormat(this.#tag, { style: 'unit', unit, unitDisplay: 'short', ...digits }).format(amount);
  }

  /** A share of one. */
  share(value: number): string {
    return new Intl.NumberFormat(this.#tag, { style: 'percent', maximumFractionDigits: 0 }).format(value);
  }

  /** A day of the last days by its name, an older one by its date. `now` and `then` in milliseconds. */
  day(then: number, now: number): string {
    const days = Math.round((startOfDay(then) - startOfDay(now)) / 86_400_000);
    if (days > -7) return new Intl.RelativeTimeFormat(this.#tag, { numeric: 'auto' }).format(days, 'day');
    return new Intl.DateTimeFormat(this.#tag, { dateStyle: 'medium' }).format(then);
  }

  /** A moment. */
  moment(then: number): string {
    return new Intl.DateTimeFormat(this.#tag, { dateStyle: 'medium', timeStyle: 'short' }).format(then);
  }
}

function startOfDay(moment: number): number {
  return new Date(moment).setHours(0, 0, 0, 0);
}
