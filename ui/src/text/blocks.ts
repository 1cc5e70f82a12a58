// Markdown as a list of blocks that grows at its end. While an answer streams, only the last block is read again: what
// stands before it cannot change, so the cost of a token does not grow with the answer.
import { Marked, type Token, type Tokens } from 'marked';

/** A paragraph, list, table or heading, ready to be shown; or code, which has a frame of its own. */
export type Block =
  | { kind: 'html'; html: string }
  | { kind: 'code'; code: string; language: string };

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

  constructor(clean: (html: string) => string) {
    this.#clean = clean;
  }

  /** The blocks of `text`, which begins with what was given last time; a text that does not is read from its start. */
  read(text: string): Block[] {
    if (!text.startsWith(this.#text)) {
      this.#done = 0;
      this.#count = 0;
      this.#blocks = [];
    }
    this.#text = text;
    const tokens = marked.lexer(text.slice(this.#done));
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
    return { kind: 'html', html: this.#clean(marked.parser([token])) };
  }
}

/** Text as HTML that shows it. */
export function escape(text: string): string {
  return text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}
