// Markdown as a list of blocks that grows at its end. While an answer streams, only the last block is read again: what
// stands before it cannot change, so the cost of a token does not grow with the answer.
import { Marked, type Token, type Tokens } from 'marked';

/** A paragraph, list, table or heading, ready to be shown; or code, which has a frame of its own. */
export type Block =
  | { kind: 'html'; html: string }
  | { kind: 'code'; code: string; language: string };

/** A formula in TeX as HTML, in a line of text or `alone`; `undefined` where it cannot be read. */
export type Formula = (tex: string, alone: boolean) => string | undefined;

/** Whether there may be a formula in `text`. */
export const mayHoldFormulas = (text: string): boolean => /\$|\\[([]/.test(text);

/** How formulas stand in text, by how they begin. None has an empty line in it, since what stands before one is read once, and none is so
 *  long that a beginning without an end would be looked for again and again. */
const ALONE = [/^\$\$((?:(?!\n\s*\n|\$\$)[^]){1,2000})\$\$[ \t]*(?:\n|$)/, /^\\\[((?:(?!\n\s*\n|\\\])[^]){1,2000})\\\][ \t]*(?:\n|$)/];
const WITHIN: [RegExp, boolean][] = [
  [/^\$\$((?:(?!\n\s*\n|\$\$)[^]){1,2000})\$\$/, true],
  [/^\\\[((?:(?!\n\s*\n|\\\])[^]){1,2000})\\\]/, true],
  [/^\\\(((?:(?!\n\s*\n|\\\))[^]){1,2000})\\\)/, false],
  // An amount of money is none: nothing blank within its signs, no digit behind it, and more than a number in it.
  [/^\$(?![\s$])(?!\d[\d.,\s-]*(?:\p{L}[^\\^_=]*)?\$)((?:\\[^\n]|[^\\$\n])*(?:\\[^\n]|[^\\$\s]))\$(?![\d$])/u, false],
];

/** Reads markdown in which formulas are shown by `formula`, or as they are written where there is none. */
function reads(formula?: Formula): Marked {
  const marked = new Marked({
    gfm: true,
    breaks: true,
    renderer: {
      // Not fetched: see `clean`.
      image({ href, text }: Tokens.Image): string {
        return `<a href="${escape(href)}">${escape(text || href)}</a>`;
      },
      // Written out, not obeyed.
      html({ text }: Tokens.HTML | Tokens.Tag): string {
        return escape(text);
      },
      checkbox({ checked }: Tokens.Checkbox): string {
        return checked ? '☑ ' : '☐ ';
      },
    },
  });
  const shown = ({ raw, tex, alone }: Tokens.Generic): string => formula?.(tex, alone) ?? escape(raw.trim());
  marked.use({
    extensions: [
      {
        name: 'alone',
        level: 'block',
        start: (text) => /(?<=\n)(?:\$\$|\\\[)/.exec(text)?.index,
        tokenizer(text): Tokens.Generic | undefined {
          const found = ALONE.map((form) => form.exec(text)).find((match) => match !== null);
          return found ? { type: 'alone', raw: found[0], tex: found[1], alone: true } : undefined;
        },
        renderer: (token) => `<p>${shown(token)}</p>`,
      },
      {
        name: 'within',
        level: 'inline',
        start: (text) => /\$|\\[([]/.exec(text)?.index,
        tokenizer(text): Tokens.Generic | undefined {
          // Many signs are none, and each of them would be looked at alone.
          const [signs] = /^\${3,}/.exec(text) ?? [];
          if (signs !== undefined) return { type: 'text', raw: signs, text: signs };
          for (const [form, alone] of WITHIN) {
            const found = form.exec(text);
            if (found) return { type: 'within', raw: found[0], tex: found[1], alone };
          }
          return undefined;
        },
        renderer: shown,
      },
    ],
  });
  return marked;
}

const plain = reads();

/** The text of one answer, read as it arrives. */
export class BlockReader {
  #text = '';
  /** How much of the text lies in blocks that are done. */
  #done = 0;
  #blocks: Block[] = [];
  /** How many of the blocks are done. */
  #count = 0;
  /** Makes HTML harmless: nothing that a model wrote is shown without it. */
  readonly #clean: (html: string) => string;
  readonly #marked: Marked;

  constructor(clean: (html: string) => string, formula?: Formula) {
    this.#clean = clean;
    this.#marked = formula ? reads(formula) : plain;
  }

  /** The blocks of `text`, which begins with what was given last time; a text that does not is read from its start. */
  read(text: string): Block[] {
    if (!text.startsWith(this.#text)) {
      this.#done = 0;
      this.#count = 0;
      this.#blocks = [];
    }
    this.#text = text;
    const tokens = this.#marked.lexer(text.slice(this.#done));
    const blocks = this.#blocks.slice(0, this.#count);
    const last = tokens.findLastIndex((token) => token.type !== 'space');
    let length = 0;
    tokens.forEach((token, i) => {
      if (i === last) {
        this.#done += length;
        this.#count = blocks.length;
      }
      length += token.raw.length;
      if (token.type !== 'space' && token.type !== 'def') blocks.push(this.#block(token));
    });
    this.#blocks = blocks;
    return blocks;
  }

  #block(token: Token): Block {
    if (token.type === 'code') {
      return { kind: 'code', code: token.text, language: (token.lang ?? '').split(/\s/)[0] ?? '' };
    }
    return { kind: 'html', html: this.#clean(this.#marked.parser([token])) };
  }
}

/** Text as HTML that shows it. */
export function escape(text: string): string {
  return text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}
