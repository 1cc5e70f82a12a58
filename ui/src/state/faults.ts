// Where the page itself failed, since it was opened: kinds and places, nothing of what was said.
import { fault, FAULTS_MAX } from '../text/report';

export const faults: string[] = [];

function note(error: unknown): void {
  faults.push(fault(error));
  if (faults.length > FAULTS_MAX) faults.shift();
}

/** Notes faults from now on. Called once, by the page. */
export function noteFaults(): void {
  addEventListener('error', (event) => note(event.error));
  addEventListener('unhandledrejection', (event) => note(event.reason));
}
