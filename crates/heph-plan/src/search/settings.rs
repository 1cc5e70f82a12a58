//! What is set apart from where layers run: draft, chunk, codecs, forwarding.

use super::{Search, forwards, mode};
use crate::request::DirectForwarding;
use crate::score::Reckoning;
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

impl<'s, 'a> Search<'s, 'a> {
    /// Sets, one after another, what does not move layers: draft, chunk, codecs, forwarding.
    pub(super) fn tune(&mut self, shape: &Shape) -> Option<(Shape, f64)> {
        let mut best = shape.clone();
        let mut trial = shape.clone();
        let mut reckonings: Vec<((bool, bool), Reckoning)> = Vec::new();
        let mut cost = self.reckoned(&best, f64::INFINITY, &mut reckonings);
        let settings: [fn(&Self, &Shape) -> Vec<Setting>; 4] =
            [Self::codecs, Self::ways, Self::drafts, Self::chunks];
        for _ in 0..2 {
            let before = cost;
            for set in settings {
                for setting in set(self, &best) {
                    trial.clone_from(&best);
                    setting.put(&mut trial);
                    let other = self.reckoned(&trial, cost, &mut reckonings);
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

    /// As [`Search::consider`], infinite instead of `None`, with what was counted for other shapes of the same stages.
    fn reckoned(
        &mut self,
        shape: &Shape,
        most: f64,
        reckonings: &mut Vec<((bool, bool), Reckoning<'s, 'a>)>,
    ) -> f64 {
        let Some(mode) = mode(self.space, shape) else {
            return f64::INFINITY;
        };
        let key = (shape.lossy, shape.direct);
        let at = reckonings.iter().position(|known| known.0 == key);
        let at = at.unwrap_or_else(|| {
            reckonings.push((key, Reckoning::new(self.space, shape)));
            reckonings.len() - 1
        });
        let score = reckonings[at].1.score_below(shape, self.most(mode, most));
        score.map_or(f64::INFINITY, |score| self.keep(shape, mode, score))
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
        let other = (direct && forwards(shape)).then_some(Setting::Direct(!shape.direct));
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
