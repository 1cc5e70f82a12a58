//! What is set apart from where layers run: draft, chunk, codecs, forwarding.

use super::Search;
use crate::ground::DESK;
use crate::request::DirectForwarding;
use crate::space::{DRAFT_MAX, Shape};

/// Lengths of a draft that are tried.
const LENGTHS: [u16; 10] = [1, 2, 3, 4, 5, 6, 8, 10, 12, DRAFT_MAX];

/// One thing that is set apart from the stages.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Setting {
    Lossy(bool),
    Direct(bool),
    Draft(Option<(usize, u16)>),
    Chunk(usize),
}

impl Setting {
    fn put(self, shape: &mut Shape) {
        match self {
            Setting::Lossy(lossy) => shape.lossy = lossy,
            Setting::Direct(direct) => shape.direct = direct,
            Setting::Draft(draft) => shape.draft = draft,
            Setting::Chunk(chunk) => shape.chunk = chunk,
        }
    }
}

impl Search<'_, '_> {
    /// Sets, one after another, what does not move layers: draft, chunk, codecs, forwarding.
    pub(super) fn tune(&mut self, shape: &Shape) -> Option<(Shape, f64)> {
        let mut best = shape.clone();
        let mut trial = shape.clone();
        let mut cost = self.consider(&best).unwrap_or(f64::INFINITY);
        let settings: [fn(&Self, &Shape) -> Vec<Setting>; 4] =
            [Self::codecs, Self::ways, Self::drafts, Self::chunks];
        for _ in 0..2 {
            let before = cost;
            for set in settings {
                for setting in set(self, &best) {
                    trial.clone_from(&best);
                    setting.put(&mut trial);
                    let other = self.consider(&trial).unwrap_or(f64::INFINITY);
                    if other < cost {
                        cost = other;
                        std::mem::swap(&mut best, &mut trial);
                    }
                }
            }
            if cost == before {
                break;
            }
        }
        cost.is_finite().then_some((best, cost))
    }

    fn codecs(&self, shape: &Shape) -> Vec<Setting> {
        let codecs = &self.space.ground.permitted.codecs;
        let rounded = codecs.iter().any(|c| !c.codec.is_exact()) && shape.segments.len() > 1;
        rounded
            .then_some(Setting::Lossy(!shape.lossy))
            .into_iter()
            .collect()
    }

    fn ways(&self, shape: &Shape) -> Vec<Setting> {
        let direct = self.space.ground.permitted.request.direct == DirectForwarding::Allowed;
        let between = shape
            .segments
            .windows(2)
            .any(|p| p[0].site != DESK && p[1].site != DESK);
        let other = (direct && between).then_some(Setting::Direct(!shape.direct));
        other.into_iter().collect()
    }

    fn drafts(&self, shape: &Shape) -> Vec<Setting> {
        let mut settings = vec![Setting::Draft(None)];
        let drafts = &self.space.ground.permitted.request.drafts;
        for (source, draft) in drafts.iter().enumerate() {
            let lengths = LENGTHS.into_iter().filter(|l| *l <= draft.length_max);
            settings.extend(lengths.map(|length| Setting::Draft(Some((source, length)))));
        }
        settings.retain(|s| *s != Setting::Draft(shape.draft));
        settings
    }

    fn chunks(&self, shape: &Shape) -> Vec<Setting> {
        let all = (0..self.space.chunks.len()).filter(|chunk| *chunk != shape.chunk);
        all.map(Setting::Chunk).collect()
    }
}
