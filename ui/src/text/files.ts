// Files in and out of the page.
import type { Attachment } from '../talk/tree';

/** So many files go with one question. */
export const FILES_MAX = 8;
/** Longest file, in bytes: the door takes bodies of 8 MiB, and eight files must fit. */
export const FILE_BYTES_MAX = 900_000;

/** Why a file was not taken. */
export type Refusal = { name: string; why: 'large' | 'not-text' | 'many' | 'unread' };

/** The kind of a file whose content nobody could read. */
const UNREAD = 'application/x-heph-unread';

/** Stands for a file that was brought and cannot be read: the person is told, as of others that are not taken. */
export function unread(name: string): File {
  return new File([], name, { type: UNREAD });
}

/** The bytes that `text` says in base64. */
export function ofBase64(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** Reads `files` as text, as far as they are text and there is room beside `have`. */
export async function readTexts(files: Iterable<File>, have: number): Promise<{ taken: Attachment[]; refused: Refusal[] }> {
  const taken: Attachment[] = [];
  const refused: Refusal[] = [];
  for (const file of files) {
    if (have + taken.length >= FILES_MAX) refused.push({ name: file.name, why: 'many' });
    else if (file.type === UNREAD) refused.push({ name: file.name, why: 'unread' });
    else if (file.size > FILE_BYTES_MAX) refused.push({ name: file.name, why: 'large' });
    else {
      const bytes = await file.arrayBuffer().catch(() => null);
      const content = bytes === null ? undefined : asText(bytes);
      if (bytes === null) refused.push({ name: file.name, why: 'unread' });
      else if (content === undefined) refused.push({ name: file.name, why: 'not-text' });
      else taken.push({ name: file.name, content });
    }
  }
  return { taken, refused };
}

/** The text that `bytes` are in UTF-8, or `undefined` where they are none. */
export function asText(bytes: ArrayBuffer): string | undefined {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    return text.includes('\0') ? undefined : text;
  } catch {
    return undefined;
  }
}

/** Hands `blob` to the browser as a download called `name`. */
export function save(blob: Blob, name: string): void {
  const address = URL.createObjectURL(blob);
  const link = document.createElement('a');
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
