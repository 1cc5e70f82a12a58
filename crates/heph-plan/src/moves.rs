//! Small changes to a shape: a boundary moves, a node leaves, enters, is replaced or changes place.

use crate::request::DirectForwarding;
use crate::search::joined;
use crate::space::{DESK, Segment, Shape, Space};

/// By how many layers a boundary is moved.
const SHIFTS: [usize; 5] = [1, 2, 4, 8, 16];

/// Every shape one small change away whose stages are in order. Whether it keeps the rules is the score's affair.
pub(crate) fn neighbours(space: &Space, shape: &Shape) -> Vec<Shape> {
    let mut found = Vec::new();
    shift(shape, &mut found);
    drop_one(shape, &mut found);
    replace(space, shape, &mut found);
    split(space, shape, &mut found);
    swap(shape, &mut found);
    exchange(shape, &mut found);
    let well_formed = |s: &Vec<Segment>| well_formed(s, space.layers());
    let segments: Vec<_> = found.into_iter().map(joined).filter(well_formed).collect();
    let ways: &[bool] = match space.permitted.request.direct {
        DirectForwarding::Never => &[false],
        DirectForwarding::Allowed => &[false, true],
    };
    let with = |direct: bool| {
        let shapes = segments.iter().cloned();
        shapes.map(move |segments| Shape {
            segments,
            direct,
            ..shape.clone()
        })
    };
    ways.iter().flat_map(|direct| with(*direct)).collect()
}

fn shift(shape: &Shape, found: &mut Vec<Vec<Segment>>) {
    for at in 1..shape.segments.len() {
        for by in SHIFTS {
            let (left, right) = (shape.segments[at - 1], shape.segments[at]);
            let moved = [left.end.checked_sub(by), Some(left.end + by)];
            for border in moved.into_iter().flatten() {
                if border >= left.start && border <= right.end {
                    let mut segments = shape.segments.clone();
                    segments[at - 1].end = border;
                    segments[at].start = border;
                    found.push(segments);
                }
            }
        }
    }
}

/// A stage goes; a neighbour takes its layers.
fn drop_one(shape: &Shape, found: &mut Vec<Vec<Segment>>) {
    for at in 0..shape.segments.len() {
        let gone = shape.segments[at];
        let mut rest = shape.segments.clone();
        rest.remove(at);
        if let Some(left) = at.checked_sub(1) {
            let mut segments = rest.clone();
            segments[left].end = gone.end;
            found.push(segments);
        }
        if at < rest.len() {
            rest[at].start = gone.start;
            found.push(rest);
        }
    }
}

fn unused(space: &Space, shape: &Shape) -> Vec<usize> {
    let used = |site: &usize| !shape.segments.iter().any(|g| g.site == *site);
    (0..space.sites.len()).filter(used).collect()
}

fn replace(space: &Space, shape: &Shape, found: &mut Vec<Vec<Segment>>) {
    for site in unused(space, shape) {
        for at in 0..shape.segments.len() {
            let mut segments = shape.segments.clone();
            segments[at].site = site;
            found.push(segments);
        }
    }
}

/// A new node, or the desk, takes one layer or half of a stage, before or after it.
fn split(space: &Space, shape: &Shape, found: &mut Vec<Vec<Segment>>) {
    let layers = space.layers();
    let mut sites = unused(space, shape);
    sites.push(DESK);
    sites.dedup();
    for site in sites {
        for (at, segment) in shape.segments.iter().enumerate() {
            let length = segment.end - segment.start;
            if length == 0 {
                continue;
            }
            for part in [1, length / 2, length.saturating_sub(1)] {
                for border in [segment.start + part, segment.end - part] {
                    for site_first in [true, false] {
                        let mut segments = shape.segments.clone();
                        let (mut left, mut right) = (*segment, *segment);
                        left.end = border;
                        right.start = border;
                        if site_first {
                            left.site = site
                        } else {
                            right.site = site
                        }
                        segments.splice(at..=at, [left, right]);
                        found.push(segments);
                    }
                }
            }
        }
        // The desk may keep nothing but the head.
        let last = shape.segments.last().filter(|g| site == DESK && g.site != DESK);
        found.extend(last.map(|_| {
            let head = Segment {
                site,
                start: layers,
                end: layers,
            };
            shape.segments.iter().copied().chain([head]).collect()
        }));
    }
}

/// Two nodes change places, their ranges staying where they are.
fn swap(shape: &Shape, found: &mut Vec<Vec<Segment>>) {
    for a in 0..shape.segments.len() {
        for b in a + 1..shape.segments.len() {
            let mut segments = shape.segments.clone();
            let site = segments[a].site;
            segments[a].site = segments[b].site;
            segments[b].site = site;
            found.push(segments);
        }
    }
}

/// Two neighbours change places and take the lengths of their ranges with them.
fn exchange(shape: &Shape, found: &mut Vec<Vec<Segment>>) {
    for at in 1..shape.segments.len() {
        let (left, right) = (shape.segments[at - 1], shape.segments[at]);
        let border = left.start + (right.end - right.start);
        let mut segments = shape.segments.clone();
        segments[at - 1] = Segment {
            end: border,
            start: left.start,
            ..right
        };
        segments[at] = Segment {
            start: border,
            end: right.end,
            ..left
        };
        found.push(segments);
    }
}

/// All layers in order, no node twice but the desk at both ends, no empty stage but a head at the desk.
fn well_formed(segments: &[Segment], layers: usize) -> bool {
    let covers =
        segments.first().is_some_and(|g| g.start == 0) && segments.last().is_some_and(|g| g.end == layers);
    let last = segments.len().saturating_sub(1);
    let full = |(at, g): (usize, &Segment)| {
        g.start < g.end || g.start == g.end && at == last && at > 0 && g.site == DESK
    };
    let place = |at: usize| at == 0 || at == last;
    let once = |(at, g): (usize, &Segment)| {
        let others = segments
            .iter()
            .enumerate()
            .filter(|(other, o)| *other != at && o.site == g.site);
        match g.site {
            DESK => place(at),
            _ => others.count() == 0,
        }
    };
    covers && segments.iter().enumerate().all(full) && segments.iter().enumerate().all(once)
}
