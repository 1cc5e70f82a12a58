// Which of the page's languages a reader wants.

/** The first of `wishes` (`de-AT`, `en`) whose language is among `known`, or English. */
export function spoken(wishes: readonly string[], known: readonly string[]): string {
  const asked = wishes.map((wish) => wish.split('-')[0]?.toLowerCase() ?? '');
  return asked.find((wish) => known.includes(wish)) ?? 'en';
}
