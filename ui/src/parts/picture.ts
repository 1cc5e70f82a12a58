// What a plan or a receipt looks like: for each range of tokens a bar of layers, cut where the machine changes.
import type { Receipt } from '../door/receipt';
import { layersOf, type Plan, type Sight } from '../door/shapes';

/** Layers `start` to before `end`, at the machine `place` of the picture. */
export interface Segment {
  start: number;
  end: number;
  place: number;
}

/** Tokens `from` to before `to`; all of them in a plan, which has none yet. */
export interface Bar {
  from: number;
  to: number;
  segments: Segment[];
}

/** A machine. */
export interface PicturePlace {
  node: string | null;
  name: string;
  here: boolean;
  role: string | null;
  sight: Sight;
  up: number;
  down: number;
}

export interface Picture {
  layers: number;
  bars: Bar[];
  places: PicturePlace[];
}

interface Span {
  from: number;
  to: number;
  start: number;
  end: number;
  node: string | null;
}

const SIGHTS: Sight[] = ['nothing', 'activations', 'text'];

/** The picture of a plan. */
export function ofPlan(plan: Plan): Picture {
  const places = gather(plan.stages.map((stage) => ({ ...stage, sight: stage.sees, up: 0, down: 0 })));
  const spans = plan.stages.map(({ layers, node }) => ({ from: 0, to: 1, ...layersOf(layers), node }));
  return picture(spans, places);
}

/** The picture of a receipt. */
export function ofReceipt(receipt: Receipt): Picture {
  const bytes = new Map(receipt.traffic.map((line) => [line.node, line]));
  const seen = receipt.places.map(({ node, name, role, saw }) => {
    const { up = 0, down = 0 } = bytes.get(node) ?? {};
    return { node, name, role, sight: saw, here: role === null, up, down };
  });
  // A machine that was sent something and computed nothing is part of the truth too.
  const silent = receipt.traffic
    .filter((line) => !receipt.places.some((place) => place.node === line.node) && line.up + line.down > 0)
    .map((line) => ({ node: line.node, name: line.name, role: '', sight: 'nothing' as Sight, here: false, up: line.up, down: line.down }));
  // A server of tools reads what it is told.
  const tools = (receipt.tools ?? []).map(({ server, up, down }) => {
    return { node: `tools:${server}`, name: server, role: '', sight: 'text' as Sight, here: false, up, down };
  });
  const spans = receipt.places.map(({ from, to, layers, node }) => ({ from, to, ...layersOf(layers), node }));
  return picture(spans, gather([...seen, ...silent, ...tools]));
}

/** Each machine once, this one first; it saw the most that any of its lines says. */
function gather(lines: PicturePlace[]): PicturePlace[] {
  const places = new Map<string | null, PicturePlace>();
  for (const { node, name, here, role, sight, up, down } of lines) {
    const known = places.get(node);
    if (!known) places.set(node, { node, name, here, role, sight, up, down });
    else if (SIGHTS.indexOf(sight) > SIGHTS.indexOf(known.sight)) known.sight = sight;
  }
  return [...places.values()].sort((a, b) => Number(b.here) - Number(a.here));
}

function picture(spans: Span[], places: PicturePlace[]): Picture {
  const place = (node: string | null): number => places.findIndex((known) => known.node === node);
  const cuts = [...new Set(spans.flatMap(({ from, to }) => [from, to]))].sort((a, b) => a - b);
  const bars: Bar[] = [];
  for (const [i, from] of cuts.slice(0, -1).entries()) {
    const to = cuts[i + 1] as number;
    const segments: Segment[] = [];
    const within = spans.filter((span) => span.from <= from && span.to >= to && span.end > span.start);
    for (const span of within.sort((a, b) => a.start - b.start)) {
      const last = segments.at(-1);
      if (last?.place === place(span.node) && last.end === span.start) last.end = span.end;
      else segments.push({ start: span.start, end: span.end, place: place(span.node) });
    }
    const before = bars.at(-1);
    if (before && JSON.stringify(before.segments) === JSON.stringify(segments)) before.to = to;
    else bars.push({ from, to, segments });
  }
  return { layers: Math.max(0, ...spans.map((span) => span.end)), bars, places };
}
