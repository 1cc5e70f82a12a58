// What a person writes into a field of a bound, as the number that it means.

/** More than any machine has: numbers up to it are whole in JSON. */
const BYTES_MAX = 1e15;

/** Bytes of `text`, a number of `unit` bytes; `null` where nothing is written, which is no bound; `undefined` where it is no amount. */
export function bytesOf(text: string, unit: number): number | null | undefined {
  if (text.trim() === '') return null;
  const bytes = Math.round(Number(text) * unit);
  return bytes >= 1 && bytes <= BYTES_MAX ? bytes : undefined;
}

/** A share of the cores in percent, 1 to 100; `undefined` where it is none. */
export function shareOf(text: string): number | undefined {
  const share = Math.round(Number(text));
  return share >= 1 && share <= 100 ? share : undefined;
}
