// Debian's chromium, and where it is.
import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';

const PLACES = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

/** Where a browser is, if there is one. */
export const executable = PLACES.find((place) => place && existsSync(place));

/** Opens a browser without a window. As root it has to do without its own sandbox. */
export function browser() {
  const args = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
  return chromium.launch({ executablePath: executable, args: [...args, '--disable-dev-shm-usage'] });
}
