//! Passes of rows through the stages of a shape: seconds and bytes. Passes of several numbers of rows are counted beside each
//! other where all of them will be asked for.

use crate::ground::DESK;
use crate::request::CodecProfile;
use crate::score::{FRAME_BYTES, HEAD_BYTES, ID_BYTES, TOKEN_BYTES};
use crate::space::{LANES, Phase, Segment, Shape, Space};
use core::array;

/// Which passes are counted beside each other: neighbours of one block.
pub(crate) struct Lanes<const N: usize> {
    /// Number of the first: see [`Space::number`].
    at: usize,
    rows: [f64; N],
    /// Tokens that the last stage tells.
    told: [f64; N],
    /// Whether a node with the whole model goes on by itself and only tells.
    streams: [bool; N],
}

impl Lanes<1> {
    /// One pass; `guesses` where what it answers is looked at before the next begins.
    pub(crate) fn one(space: &Space, phase: Phase, guesses: bool) -> Lanes<1> {
        let (rows, told, answers) = space.carried(phase);
        Lanes {
            at: space.number(phase),
            rows: [rows],
            told: [told],
            streams: [answers && !guesses],
        }
    }
}

impl Lanes<LANES> {
    /// All passes of a block. One row of the answer guesses nothing.
    pub(crate) fn block(space: &Space, block: usize) -> Lanes<LANES> {
        let at = block * LANES;
        let phase = |lane: usize| space.phases.get(at + lane).copied();
        let carried = |lane: usize| phase(lane).map_or((0.0, 0.0, false), |phase| space.carried(phase));
        Lanes {
            at,
            rows: array::from_fn(|lane| carried(lane).0),
            told: array::from_fn(|lane| carried(lane).1),
            streams: array::from_fn(|lane| phase(lane) == Some(Phase::Decode(1))),
        }
    }
}

/// Seconds and bytes of passes beside each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass<const N: usize> {
    pub(crate) seconds: [f64; N],
    /// Of these, spent computing at the desk.
    pub(crate) desk: [f64; N],
    /// Of these, spent by its first stage, through which rows leave.
    pub(crate) front: [f64; N],
    /// The busiest stage or wire besides that one: what a long row of chunks waits for.
    pub(crate) bottleneck: [f64; N],
    /// Of the seconds, spent by messages that are on their way, however short.
    pub(crate) way: [f64; N],
    /// Bytes away from the desk and towards it, as receipts count them.
    pub(crate) up: [f64; N],
    pub(crate) down: [f64; N],
}

impl<const N: usize> Default for Pass<N> {
    fn default() -> Pass<N> {
        let none = [0.0; N];
        Pass {
            seconds: none,
            desk: none,
            front: none,
            bottleneck: none,
            way: none,
            up: none,
            down: none,
        }
    }
}

impl<const N: usize> Pass<N> {
    /// Adds what a stage adds.
    pub(crate) fn add(&mut self, stage: &Pass<N>) {
        self.seconds = sum(&self.seconds, &stage.seconds);
        self.desk = sum(&self.desk, &stage.desk);
        self.front = sum(&self.front, &stage.front);
        self.bottleneck = larger(&self.bottleneck, &stage.bottleneck);
        self.way = sum(&self.way, &stage.way);
        self.up = sum(&self.up, &stage.up);
        self.down = sum(&self.down, &stage.down);
    }

    /// One of them.
    pub(crate) fn lane(&self, lane: usize) -> Pass<1> {
        Pass {
            seconds: [self.seconds[lane]],
            desk: [self.desk[lane]],
            front: [self.front[lane]],
            bottleneck: [self.bottleneck[lane]],
            way: [self.way[lane]],
            up: [self.up[lane]],
            down: [self.down[lane]],
        }
    }

    /// Half a round trip and the bytes of one message.
    fn cross(&mut self, round_trip: f64, rate: f64, message: &Message<N>) {
        let half = round_trip / 2.0;
        let busy: [f64; N] = array::from_fn(|lane| message.bytes[lane] / rate + message.work[lane]);
        self.seconds = array::from_fn(|lane| self.seconds[lane] + (half + busy[lane]));
        self.way = self.way.map(|way| way + half);
        self.bottleneck = larger(&self.bottleneck, &busy);
    }
}

fn sum<const N: usize>(a: &[f64; N], b: &[f64; N]) -> [f64; N] {
    array::from_fn(|lane| a[lane] + b[lane])
}

fn larger<const N: usize>(a: &[f64; N], b: &[f64; N]) -> [f64; N] {
    array::from_fn(|lane| a[lane].max(b[lane]))
}

/// One message, and the seconds of writing and reading it.
struct Message<const N: usize> {
    /// That keep the way busy.
    bytes: [f64; N],
    /// That receipts count.
    said: [f64; N],
    work: [f64; N],
}

impl Space<'_> {
    /// One pass through all stages of a shape whose ways are known.
    pub(crate) fn pass(&self, shape: &Shape, phase: Phase) -> Pass<1> {
        self.passes(shape, &Lanes::one(self, phase, shape.draft.is_some()))
    }

    /// As [`Space::pass`], of some beside each other.
    pub(crate) fn passes<const N: usize>(&self, shape: &Shape, lanes: &Lanes<N>) -> Pass<N> {
        let mut pass = Pass::default();
        for at in 0..shape.segments.len() {
            pass.add(&self.passes_of(shape, at, lanes));
        }
        pass
    }

    /// What one stage adds to a pass.
    pub(crate) fn pass_of(&self, shape: &Shape, at: usize, phase: Phase) -> Pass<1> {
        self.passes_of(shape, at, &Lanes::one(self, phase, shape.draft.is_some()))
    }

    fn passes_of<const N: usize>(&self, shape: &Shape, at: usize, lanes: &Lanes<N>) -> Pass<N> {
        let segment = shape.segments[at];
        let (sums, overhead) = (
            self.sums_from(segment.site, lanes.at),
            self.ground.sites[segment.site].overhead,
        );
        let mut seconds = sums
            .spans::<N>(segment.start, segment.end)
            .map(|span| overhead + span);
        if at + 1 == shape.segments.len() {
            seconds = sum(&seconds, &sums.heads::<N>());
        } else if segment.end == self.layers() {
            // A desk that only chooses is sent all rows.
            seconds = sum(&seconds, &sums.spared::<N>());
        }
        let mut pass = Pass {
            seconds,
            bottleneck: seconds,
            ..Pass::default()
        };
        match segment.site {
            DESK => {
                pass.desk = seconds;
                if at == 0 {
                    (pass.front, pass.bottleneck) = (seconds, [0.0; N]);
                }
            }
            _ => self.hop(shape, at, lanes, &mut pass),
        }
        pass
    }

    /// Adds the way to a remote stage, and back to the desk where it does not go on to a neighbour.
    fn hop<const N: usize>(&self, shape: &Shape, at: usize, lanes: &Lanes<N>, pass: &mut Pass<N>) {
        let site = &self.ground.sites[shape.segments[at].site];
        let ways = self.ways(shape, at);
        let (into, out) = self.codecs(shape, at, ways);
        let sent = self.message(into, lanes, &lanes.rows);
        let back = self.message(out, lanes, &lanes.told);
        let alone = (shape.segments.len() == 1).then_some(*pass);
        let remote = |other: Option<&Segment>| shape.direct && other.is_some_and(|g| g.site != DESK);
        let from_neighbour = at > 0 && remote(shape.segments.get(at - 1));
        let to_neighbour = remote(shape.segments.get(at + 1));
        match ways[0].filter(|_| from_neighbour) {
            Some(before) => pass.cross(before.round_trip, before.up, &sent),
            None => {
                pass.up = sum(&pass.up, &sent.said);
                pass.cross(site.way.round_trip, site.way.up, &sent);
            }
        }
        if !to_neighbour {
            pass.down = sum(&pass.down, &back.said);
            pass.cross(site.way.round_trip, site.way.down, &back);
        }
        let Some(alone) = alone else {
            return;
        };
        // The node goes on by itself and tells each token; only the telling can hold it up.
        for lane in (0..N).filter(|lane| lanes.streams[*lane]) {
            pass.seconds[lane] = alone.seconds[lane].max(back.bytes[lane] / site.way.down);
            pass.bottleneck[lane] = alone.bottleneck[lane];
            (pass.way[lane], pass.up[lane], pass.down[lane]) = (0.0, 0.0, back.said[lane]);
        }
    }

    /// Rows in a codec, or the ids of so many tokens.
    fn message<const N: usize>(
        &self,
        codec: Option<CodecProfile>,
        lanes: &Lanes<N>,
        tokens: &[f64; N],
    ) -> Message<N> {
        let width = f64::from(self.model.width);
        match codec {
            Some(codec) => Message {
                bytes: lanes
                    .rows
                    .map(|rows| FRAME_BYTES + rows * width * codec.bytes_per_number),
                said: lanes
                    .rows
                    .map(|rows| HEAD_BYTES + rows * width * codec.bytes_per_number),
                work: lanes.rows.map(|rows| rows * width * codec.seconds_per_number),
            },
            None => Message {
                bytes: tokens.map(|tokens| FRAME_BYTES + tokens * TOKEN_BYTES),
                said: tokens.map(|tokens| HEAD_BYTES + tokens * ID_BYTES),
                work: [0.0; N],
            },
        }
    }

    /// Rows that a pass carries, tokens that its last stage tells, and whether these are the answer's.
    fn carried(&self, phase: Phase) -> (f64, f64, bool) {
        match phase {
            Phase::Decode(rows) => (f64::from(rows), f64::from(rows), true),
            Phase::Prefill(chunk) => (f64::from(self.chunks[chunk].0), 1.0, false),
        }
    }
}
