// Formulas as MathML. Loaded when the first formula is shown: a chat without one never pays for it.
import temml from 'temml';

/** Longer formulas are shown as they are written: to read one takes the more the longer it is. */
const LENGTH_MAX = 2000;
/** Words of a formula that stand for others are replaced this often at most. */
const EXPANSIONS_MAX = 200;
const STYLE = / style="[^"]*"/g;

/** What is written in TeX as MathML, in a line of text or for itself; `undefined` where it cannot be read. Nothing in it loads or leads anywhere. */
export function formula(tex: string, alone: boolean): string | undefined {
  if (tex.length > LENGTH_MAX) return undefined;
  try {
    // Styles of their own are not obeyed here (the door's content policy); without them a formula stands nearly as it would.
    return temml.renderToString(tex, { displayMode: alone, trust: false, throwOnError: true, maxExpand: EXPANSIONS_MAX }).replace(STYLE, '');
  } catch {
    return undefined;
  }
}
