// What tests before the scripted door stand on: the door, a browser, and their end.
import { after, before } from 'node:test';
import { scripted } from '../scripted.js';
import { browser, executable } from './browser.js';

/** Why there is no browser, if there is none. */
export const skip = executable ? false : 'chromium is not installed';

/** A scripted door and a browser for all tests of a file. Both are there when the first of them begins, and gone after the last. */
export function staged(script) {
  const stage = { door: undefined, chromium: undefined, address: () => `http://127.0.0.1:${stage.door.address().port}/` };
  before(async () => {
    if (skip) return;
    stage.door = scripted(script);
    await new Promise((ready) => stage.door.listen(0, '127.0.0.1', ready));
    stage.chromium = await browser();
  });
  after(async () => {
    await stage.chromium?.close();
    stage.door?.close();
    stage.door?.closeAllConnections();
  });
  return stage;
}
