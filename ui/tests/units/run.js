// Builds the unit tests and runs them in Node: the parts of the page that need no page.
import { spawnSync } from 'node:child_process';
import { buildUnits } from './build.js';

const { files } = await buildUnits('.units');
process.exit(spawnSync(process.execPath, ['--test', ...files], { stdio: 'inherit' }).status ?? 1);
