//! Small changes to a shape's stages: a border moves, a node leaves, enters, is replaced or changes place.

use crate::ground::DESK;
use crate::space::Segment;

/// By how many layers a border is moved.
const SHIFTS: [usize; 5] = [1, 2, 4, 8, 16];

/// Stages that a slide may span.
const SLIDE_MAX: usize = 6;

/// Stages to change, and who could enter.
pub(crate) struct From<'s> {
    pub(crate) segments: &'s [Segment],
    /// Nodes that have no layers yet.
    pub(crate) unused: &'s [usize],
}

/// Tries changes until one is taken; whether one was. A try may be out of order: see [`well_formed`].
pub(crate) type Family = fn(&From, &mut dyn FnMut(&mut Vec<Segment>) -> bool) -> bool;

/// All kinds of changes, small ones first.
pub(crate) const FAMILIES: [Family; 6] = [shift, exchange, drop_one, swap, replace, split];

/// Some layers go from one stage to another, those between sliding along.
fn shift(from: &From, take: &mut dyn FnMut(&mut Vec<Segment>) -> bool) -> bool {
    let mut segments = Vec::new();
    let count = from.segments.len();
    for length in 1..count.min(SLIDE_MAX) {
        for (left, by) in (0..count - length).flat_map(|left| SHIFTS.map(|by| (left, by))) {
            for grows in [true, false] {
                segments.clear();
                segments.extend_from_slice(from.segments);
                if slide(&mut segments, left, left + length, by, grows) && take(&mut segments) {
                    return true;
                }
            }
        }
    }
    false
}

/// Moves the borders between two stages by some layers; the left stage grows or the right one does.
fn slide(segments: &mut Vec<Segment>, left: usize, right: usize, by: usize, grows: bool) -> bool {
    let giver = segments[if grows { right } else { left }];
    if giver.end - giver.start < by {
        return false;
    }
    for border in left..right {
        let end = segments[border].end;
        let end = if grows { end + by } else { end - by };
        segments[border].end = end;
        segments[border + 1].start = end;
    }
    let (at, last) = (if grows { right } else { left }, segments.len() - 1);
    // Who has given everything is gone, but the desk at the end keeps the head.
    if segments[at].start == segments[at].end && at < last {
        segments.remove(at);
    }
    true
}

/// Two neighbours change places and take the lengths of their ranges with them.
fn exchange(from: &From, take: &mut dyn FnMut(&mut Vec<Segment>) -> bool) -> bool {
    let mut segments = Vec::new();
    (1..from.segments.len()).any(|at| {
        let (left, right) = (from.segments[at - 1], from.segments[at]);
        let border = left.start + (right.end - right.start);
        segments.clear();
        segments.extend_from_slice(from.segments);
        segments[at - 1] = Segment::new(right.site, left.start, border);
        segments[at] = Segment::new(left.site, border, right.end);
        take(&mut segments)
    })
}

/// A stage goes; a neighbour takes its layers.
fn drop_one(from: &From, take: &mut dyn FnMut(&mut Vec<Segment>) -> bool) -> bool {
    let mut segments = Vec::new();
    for at in 0..from.segments.len() {
        let gone = from.segments[at];
        for to_left in [true, false] {
            segments.clear();
            segments.extend_from_slice(from.segments);
            segments.remove(at);
            match (to_left, at.checked_sub(1)) {
                (true, Some(left)) => segments[left].end = gone.end,
                (false, _) if at < segments.len() => segments[at].start = gone.start,
                _ => continue,
            }
            if take(&mut segments) {
                return true;
            }
        }
    }
    false
}

/// Two nodes change places, their ranges staying where they are.
fn swap(from: &From, take: &mut dyn FnMut(&mut Vec<Segment>) -> bool) -> bool {
    let mut segments = Vec::new();
    let count = from.segments.len();
    let mut pairs = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b)));
    pairs.any(|(a, b)| {
        segments.clear();
        segments.extend_from_slice(from.segments);
        segments[a].site = from.segments[b].site;
        segments[b].site = from.segments[a].site;
        take(&mut segments)
    })
}

fn replace(from: &From, take: &mut dyn FnMut(&mut Vec<Segment>) -> bool) -> bool {
    let mut segments = Vec::new();
    let with = from.unused.iter().chain([&DESK]);
    let mut pairs = with.flat_map(|site| (0..from.segments.len()).map(move |at| (*site, at)));
    pairs.any(|(site, at)| {
        segments.clear();
        segments.extend_from_slice(from.segments);
        segments[at].site = site;
        take(&mut segments)
    })
}

/// A new node, or the desk, takes one layer, half of a stage or all but one layer, before or after it.
fn split(from: &From, take: &mut dyn FnMut(&mut Vec<Segment>) -> bool) -> bool {
    let mut segments = Vec::new();
    for site in from.unused.iter().copied().chain([DESK]) {
        for (at, segment) in from.segments.iter().enumerate() {
            let length = segment.end - segment.start;
            let mut parts = [1, length / 2, length - length / 2, length.saturating_sub(1)];
            parts.sort_unstable();
            for (number, part) in parts.iter().enumerate() {
                if *part == 0 || *part >= length || parts[..number].contains(part) {
                    continue;
                }
                for new_first in [true, false] {
                    // The desk stands only at the ends.
                    let end = if new_first {
                        at == 0
                    } else {
                        at + 1 == from.segments.len()
                    };
                    if site == DESK && !end {
                        continue;
                    }
                    let border = segment.start + part;
                    let (mut left, mut right) = (*segment, *segment);
                    (left.end, right.start) = (border, border);
                    match new_first {
                        true => left.site = site,
                        false => right.site = site,
                    }
                    segments.clear();
                    segments.extend_from_slice(&from.segments[..at]);
                    segments.extend([left, right]);
                    segments.extend_from_slice(&from.segments[at + 1..]);
                    if take(&mut segments) {
                        return true;
                    }
                }
            }
        }
    }
    head_here(from, take)
}

/// The desk keeps nothing but the head.
fn head_here(from: &From, take: &mut dyn FnMut(&mut Vec<Segment>) -> bool) -> bool {
    let Some(last) = from.segments.last().filter(|g| g.site != DESK) else {
        return false;
    };
    let mut segments = from.segments.to_vec();
    segments.push(Segment::new(DESK, last.end, last.end));
    if take(&mut segments) {
        return true;
    }
    // Or the head instead of its first layers.
    let first = from.segments[0];
    if first.site != DESK || from.segments.len() < 2 {
        return false;
    }
    segments.clear();
    segments.extend_from_slice(&from.segments[1..]);
    segments[0].start = 0;
    segments.push(Segment::new(DESK, last.end, last.end));
    take(&mut segments)
}

/// All layers in order, no empty stage but a head at the desk, and the desk nowhere but at the ends. That no node comes
/// twice the changes see to.
pub(crate) fn well_formed(segments: &[Segment], layers: usize) -> bool {
    let (Some(first), Some(tail)) = (segments.first(), segments.last()) else {
        return false;
    };
    let last = segments.len() - 1;
    let full = |(at, g): (usize, &Segment)| {
        let at_an_end = at == 0 || at == last;
        let head = at == last && at > 0 && g.site == DESK;
        (g.start < g.end || g.start == g.end && head) && (g.site != DESK || at_an_end)
    };
    first.start == 0 && tail.end == layers && segments.iter().enumerate().all(full)
}

/// As [`well_formed`], of stages that nobody made by changes: each begins where the one before ends, and no other node than the desk comes
/// twice.
pub(crate) fn is_line(segments: &[Segment], layers: usize) -> bool {
    let joined = segments.windows(2).all(|two| two[0].end == two[1].start);
    let again =
        |at: usize| segments[at].site != DESK && segments[..at].iter().any(|g| g.site == segments[at].site);
    joined && well_formed(segments, layers) && !(0..segments.len()).any(again)
}
