// Which page is shown: the part of the address after #.

/** The pages. */
export type Page = 'chat' | 'folders' | 'nodes' | 'models' | 'egress' | 'settings';

const PAGES: readonly string[] = ['chat', 'folders', 'nodes', 'models', 'egress', 'settings'];

class Place {
  page = $state<Page>('chat');
  /** The chat that is shown; `null` for one that has no question yet. */
  chat = $state<string | null>(null);

  constructor() {
    this.#read();
    addEventListener('hashchange', () => this.#read());
  }

  #read(): void {
    const [, page = 'chat', id] = location.hash.split('/');
    this.page = (PAGES.includes(page) ? page : 'chat') as Page;
    if (this.page === 'chat') this.chat = id && /^[\w-]{1,64}$/.test(id) ? id : null;
  }

  /** The address of a chat, without a new entry in the browser's history where only the chat's name became known. */
  name(id: string): void {
    history.replaceState(null, '', `#/chat/${id}`);
    this.chat = id;
  }

  go(page: Page, id?: string): void {
    location.hash = id === undefined ? `#/${page}` : `#/${page}/${id}`;
  }
}

export const place = new Place();
