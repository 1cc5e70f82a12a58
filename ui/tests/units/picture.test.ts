import assert from 'node:assert/strict';
import test from 'node:test';
import type { Receipt } from '../../src/door/receipt';
import type { Plan } from '../../src/door/shapes';
import { ofPlan, ofReceipt } from '../../src/parts/picture';

const place = (from: number, to: number, start: number, end: number, node: string) => ({
  from, to, layers: { start, end }, node, name: node, role: node === 'here' ? null : 'own', saw: node === 'here' ? ('nothing' as const) : ('activations' as const),
});
const receipt = (places: ReturnType<typeof place>[], traffic: Receipt['traffic'] = []): Receipt =>
  ({ places, traffic, moves: [] }) as unknown as Receipt;
const told = (from: Receipt): string[] => {
  const { bars, places } = ofReceipt(from);
  return bars.map((bar) => `${bar.from}..${bar.to} ` + bar.segments.map((s) => `${s.start}-${s.end}@${places[s.place]?.node}`).join(' '));
};

test('one machine is one bar', () => {
  assert.deepEqual(told(receipt([place(0, 57, 0, 4, 'here')])), ['0..57 0-4@here']);
});

test('a machine that was lost makes a second bar, and what stayed goes on', () => {
  const lines = [place(0, 90, 0, 6, 'here'), place(0, 40, 6, 18, 'b'), place(40, 90, 6, 18, 'c'), place(0, 90, 18, 24, 'here')];
  assert.deepEqual(told(receipt(lines)), ['0..40 0-6@here 6-18@b 18-24@here', '40..90 0-6@here 6-18@c 18-24@here']);
});

test('layers may be written in both ways that the door has', () => {
  const line = { ...place(0, 9, 0, 0, 'b'), layers: [0, 4] as const };
  assert.deepEqual(told({ places: [line], traffic: [] } as unknown as Receipt), ['0..9 0-4@b']);
});

test('neighbours at one machine are one piece', () => {
  assert.deepEqual(told(receipt([place(0, 9, 0, 2, 'b'), place(0, 9, 2, 4, 'b')])), ['0..9 0-4@b']);
});

test('a machine that was sent something is told even where it computed nothing', () => {
  const { places } = ofReceipt(receipt([place(0, 9, 0, 4, 'here')], [{ node: 'b', name: 'b', up: 9, down: 0 }]));
  assert.deepEqual(places.map(({ node, here, up }) => [node, here, up]), [['here', true, 0], ['b', false, 9]]);
});

test('a plan names each machine once, this one first, with the most that it would see', () => {
  const stage = (node: string, here: boolean, start: number, end: number, sees: string) => ({ node, name: node, here, role: 'own', layers: { start, end }, sees, memory_bytes: 0 });
  const plan = { stages: [stage('b', false, 0, 2, 'activations'), stage('here', true, 2, 3, 'nothing'), stage('b', false, 3, 4, 'text')] } as unknown as Plan;
  const { places, bars } = ofPlan(plan);
  assert.deepEqual(places.map(({ node, sight }) => [node, sight]), [['here', 'nothing'], ['b', 'text']]);
  assert.deepEqual(bars[0]?.segments.map((s) => s.place), [1, 0, 1]);
});

test('a head without layers takes no room', () => {
  const stage = (node: string, here: boolean, start: number, end: number) => ({ node, name: node, here, role: 'own', layers: { start, end }, sees: 'nothing', memory_bytes: 0 });
  const { bars, layers } = ofPlan({ stages: [stage('b', false, 0, 4), stage('here', true, 4, 4)] } as unknown as Plan);
  assert.equal(layers, 4);
  assert.equal(bars[0]?.segments.length, 1);
});

test('a server of tools that was told something is a place that read it', () => {
  const told = { ...receipt([place(0, 9, 0, 4, 'here')]), tools: [{ server: 'files', calls: 2, up: 120, down: 900 }] };
  const { places } = ofReceipt(told);
  assert.deepEqual(places.map(({ name, sight, here, up, down }) => [name, sight, here, up, down]), [['here', 'nothing', true, 0, 0], ['files', 'text', false, 120, 900]]);
});
