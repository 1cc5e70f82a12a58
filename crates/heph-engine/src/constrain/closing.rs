//! The shortest way to the end of a shape, so that an answer is complete when its tokens run out.
//!
//! The way is searched greedily: what ends the answer first, then what closes, then the longest piece of what must
//! stand there. It is not always the shortest there is; it is the same for the same answer, and that suffices.

use std::collections::VecDeque;

use heph_types::TokenId;
use llguidance::Matcher;
use toktrie::TokEnv;

/// Shapes that take more tokens to close than this are cut where the tokens end.
const WAY_MAX: usize = 256;

/// Tokens by which one token may lengthen the way unnoticed: an object with a handful of required keys.
const SLACK: usize = 48;

/// After so many tokens the way is searched again in any case.
const STALE_AFTER: usize = 16;

/// How far an answer is from its end.
#[derive(Debug, Default, Clone)]
pub(super) struct Closing {
    /// The forced rest, once it has begun.
    way: Option<VecDeque<TokenId>>,
    /// The length of the way when it was last searched; nothing where there was none.
    known: Option<Option<usize>>,
    /// Tokens since then.
    since: usize,
}

impl Closing {
    /// The only token that may come now, where there is just room for the end.
    pub(super) fn next(&mut self, matcher: &Matcher, environment: &TokEnv, room: usize) -> Option<TokenId> {
        if let Some(way) = &self.way {
            return way.front().copied();
        }
        if !self.is_near(room) {
            return None;
        }
        let way = way(matcher.deep_clone(), environment);
        (self.known, self.since) = (Some(way.as_ref().map(VecDeque::len)), 0);
        let way = way.filter(|way| way.len() == room)?;
        let first = way.front().copied();
        self.way = Some(way);
        first
    }

    /// `token`, or the first one of the way to the end where `token` would lead too far from it.
    pub(super) fn instead(
        &mut self,
        matcher: &Matcher,
        environment: &TokEnv,
        token: TokenId,
        room: usize,
    ) -> TokenId {
        if let Some(way) = &mut self.way {
            way.pop_front();
            return token;
        }
        self.since += 1;
        if !self.is_near(room) {
            return token;
        }
        let mut after = matcher.deep_clone();
        let rest = after
            .consume_token(token.0)
            .ok()
            .and_then(|()| way(after, environment));
        let Some(mut back) = way(matcher.deep_clone(), environment) else {
            return token;
        };
        match rest {
            Some(rest) if rest.len() < room => token,
            // Where even the way back is too long, nothing is gained by leaving what the model wanted.
            _ if back.len() > room => token,
            _ => {
                let first = back.pop_front();
                self.way = Some(back);
                first.unwrap_or(token)
            }
        }
    }

    /// Whether the end may be out of reach soon, so that looking for it is worth its time.
    fn is_near(&self, room: usize) -> bool {
        match self.known {
            None => true,
            Some(Some(length)) => room <= length + SLACK || self.since >= STALE_AFTER,
            Some(None) => self.since >= STALE_AFTER,
        }
    }
}

/// Tokens that lead from here to the end, the end token left out; `None` where no end is near.
fn way(mut matcher: Matcher, environment: &TokEnv) -> Option<VecDeque<TokenId>> {
    let trie = environment.tok_trie();
    let mut way = VecDeque::new();
    while !matcher.is_stopped() {
        let mask = matcher.compute_mask().ok()?;
        if mask.is_allowed(trie.eos_token()) {
            return Some(way);
        }
        let mut best: Option<(Rank, u32)> = None;
        for token in mask.iter() {
            let rank = Rank::of(trie.token(token));
            if best.is_none_or(|(known, _)| rank > known) {
                best = Some((rank, token));
            }
        }
        let (_, token) = best?;
        if way.len() == WAY_MAX {
            return None;
        }
        matcher.consume_token(token).ok()?;
        way.push_back(TokenId(token));
    }
    (!matcher.is_error()).then_some(way)
}

/// How soon a token ends a shape: by its kind, then by its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(u8, usize);

impl Rank {
    fn of(bytes: &[u8]) -> Self {
        let closes = |b: &u8| matches!(b, b'}' | b']' | b'"');
        let kind = match bytes {
            [] => 0,
            [first, ..] if first.is_ascii_whitespace() => 1,
            all if all.contains(&b',') => 2,
            all if all.iter().all(closes) => 4,
            _ => 3,
        };
        Self(kind, bytes.len())
    }
}
