//! A stage's place in a line, and the pieces of work on their way through it.

use std::collections::VecDeque;
use std::time::Instant;

use heph_types::{LayerRange, NodeId, Order, Position, Reply, TokenId};

use super::history::History;
use super::hops::Passage;
use super::opening::Opening;
use super::tempo::Tempo;
use super::{LineModel, Placement};
use crate::seat::Seat;

/// A stage's place in the line.
pub(super) struct Post {
    pub(super) node: NodeId,
    pub(super) layers: LayerRange,
    pub(super) seat: Option<Box<dyn Seat>>,
    /// A seat that its node was asked for.
    pub(super) opening: Option<Opening>,
    /// What went in; the first stage's are the line's tokens.
    pub(super) inputs: History,
    /// Under way at the seat, oldest first.
    pub(super) flight: VecDeque<Piece>,
    /// Not yet handed to the seat.
    pub(super) waiting: VecDeque<Piece>,
    /// Where the seat's cache ends once it has carried out its orders; guesses that were wrong included.
    pub(super) reach: usize,
    /// Since when the oldest piece under way is the oldest.
    pub(super) since: Instant,
    /// How fast the seat is.
    pub(super) tempo: Tempo,
    /// How many of its seats expired since the last news from one.
    pub(super) expired: usize,
    /// How its rows go on to the next stage.
    pub(super) onward: Passage,
}

impl Post {
    /// A stage that nobody holds yet.
    pub(super) fn vacant(stage: &Placement, inputs: History, since: Instant) -> Self {
        Self {
            node: stage.node,
            layers: stage.layers,
            seat: None,
            opening: None,
            inputs,
            flight: VecDeque::new(),
            waiting: VecDeque::new(),
            reach: 0,
            since,
            tempo: Tempo::default(),
            expired: 0,
            onward: Passage::Untried,
        }
    }

    /// Tells the seat that it holds too much from position `to` on, where it does. What it was given from there on becomes
    /// void with that, and waits again.
    pub(super) fn forget(&mut self, to: usize) {
        let Some(seat) = self.seat.as_mut().filter(|_| self.reach > to) else {
            return;
        };
        // A seat that cannot hear it says why when it is asked next.
        let _ = seat.submit(Order::Rollback(Position(to as u32)));
        self.reach = to;
        let void = |piece: &&mut Piece| {
            !piece.promised && piece.kind == Kind::New && piece.live > 0 && piece.first >= to
        };
        let mut again = Vec::new();
        for piece in self.flight.iter_mut().filter(void) {
            again.push(piece.again());
            piece.cut(0);
        }
        again.into_iter().for_each(|piece| self.wait_with(piece));
    }

    /// Lets a piece of news wait in its place.
    pub(super) fn wait_with(&mut self, piece: Piece) {
        let behind = |other: &Piece| other.kind == Kind::New && other.first > piece.first;
        let place = self.waiting.iter().position(behind);
        self.waiting.insert(place.unwrap_or(self.waiting.len()), piece);
    }

    /// Pieces whose results are news and still count.
    pub(super) fn news(&self) -> impl Iterator<Item = &Piece> {
        let open = self.flight.iter().chain(&self.waiting);
        open.filter(|piece| piece.kind == Kind::New && piece.live > 0)
    }

    /// Takes the news out; what of them is under way counts no more.
    pub(super) fn take_news(&mut self) -> Vec<Piece> {
        let news = self.news().copied().map(Piece::again).collect();
        self.waiting.retain(|piece| piece.kind != Kind::New);
        let under_way = self.flight.iter_mut().filter(|piece| piece.kind == Kind::New);
        under_way.for_each(|piece| piece.cut(0));
        news
    }
}

/// Consecutive tokens on their way through a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) first: usize,
    pub(super) tokens: usize,
    /// How many of them still count: a later feed may have taken the others' places.
    pub(super) live: usize,
    /// How many of the last of them are to be answered by a chosen token.
    pub(super) wanted: usize,
    pub(super) kind: Kind,
    /// Whether the node of the stage before hands its rows over.
    pub(super) promised: bool,
    /// Whether it has them, for all that is known here; or will never need them.
    pub(super) given: bool,
}

/// What a piece is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its result goes on to the next stage, and is answered.
    New,
    /// Its result is known already: it only fills a new seat's cache.
    Replay,
    /// Its result has gone on to the next stage, and is still to be remembered here.
    Copy,
    /// As replay, but the next stage begins at another layer than before and has yet to be told its result.
    Rebuild,
}

impl Piece {
    /// Tokens `first..first + tokens`.
    pub(super) fn new(first: usize, tokens: usize, wanted: usize, kind: Kind) -> Self {
        let live = tokens;
        Self {
            first,
            tokens,
            live,
            wanted,
            kind,
            promised: false,
            given: false,
        }
    }

    /// What of it counts, as news that nobody has been given.
    pub(super) fn again(self) -> Self {
        Self::new(self.first, self.live, self.wanted, Kind::New)
    }

    /// Nobody waits for it any more, nor for its rows.
    pub(super) fn void(&mut self) {
        self.cut(0);
        self.given = true;
    }

    pub(super) fn end(&self) -> usize {
        self.first + self.live
    }

    /// The part of it before `to`.
    pub(super) fn cut(&mut self, to: usize) {
        let live = to.saturating_sub(self.first);
        if live < self.live {
            self.live = live;
            self.wanted = 0;
        }
    }
}

/// Rows of a piece that its stage has to answer.
pub(super) fn answers(piece: &Piece, last: bool) -> usize {
    match piece.kind {
        Kind::Replay => 0,
        Kind::New if last => piece.wanted,
        Kind::New | Kind::Rebuild | Kind::Copy => piece.tokens,
    }
}

/// Whether a reply is one to this piece of what was `fed`.
pub(super) fn fits(
    reply: &Reply,
    piece: &Piece,
    last: bool,
    model: &LineModel,
    fed: &[TokenId],
) -> Result<(), String> {
    // A piece that was cut while under way was sent whole.
    let sent = piece.tokens;
    let (count, first, wanted) = match reply {
        Reply::Rows { first, hidden } => {
            let shaped = hidden.width == model.width && hidden.rows.len().is_multiple_of(model.width.max(1));
            if last || !shaped {
                return Err("rows of another shape".to_owned());
            }
            // What became void while under way may be left out.
            let wanted = match piece.kind {
                _ if piece.live == 0 => hidden.tokens(),
                Kind::Replay => 0,
                Kind::New | Kind::Rebuild | Kind::Copy => sent,
            };
            (hidden.tokens(), first.index(), wanted)
        }
        Reply::Choices { first, tokens } => {
            if !last || tokens.iter().any(|token| token.index() >= model.vocab) {
                return Err("tokens that do not exist or were not asked for".to_owned());
            }
            let at = first.index() - 1.min(first.index());
            // How many were wanted when it was sent is forgotten once it was cut, and what was guessed wrong, too. Nobody uses any of it.
            if piece.live < sent {
                let within = piece.first <= at && at + tokens.len() <= piece.first + sent;
                return match within {
                    true => Ok(()),
                    false => Err(format!("for position {at}, asked for {}", piece.first)),
                };
            }
            let wanted = piece.wanted;
            // A peer leaves out what follows a guess that was wrong: nobody would use it.
            let guess = fed.get((first.index() + tokens.len()).saturating_sub(1));
            let ends_early = !tokens.is_empty() && guess.is_some() && tokens.last() != guess;
            let told = if ends_early {
                wanted.max(tokens.len())
            } else {
                tokens.len()
            };
            (told, at, wanted)
        }
    };
    if count != wanted {
        return Err(format!("{count} rows, asked for {wanted}"));
    }
    if first + count != piece.first + sent {
        return Err(format!(
            "for position {first}, asked for {}",
            piece.first + sent - wanted
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use heph_kernels::kv::KvFormat;
    use heph_types::{ModelHash, Position};

    use super::*;

    #[test]
    fn a_void_piece_is_answered_in_its_place_by_as_much_as_there_is() {
        let model = LineModel {
            hash: ModelHash([0; 32]),
            layers: 2,
            width: 8,
            vocab: 100,
            context: 64,
            kv_format: KvFormat::F16,
        };
        // Tokens 10..15, of which the last four are answered; the first wrong guess was before them.
        let whole = Piece::new(10, 5, 4, Kind::New);
        let mut void = Piece::new(10, 5, 4, Kind::New);
        void.cut(10);
        let told = |piece: &Piece, first: u32, count: usize| {
            let tokens = vec![TokenId(1); count];
            let reply = Reply::Choices {
                first: Position(first),
                tokens,
            };
            fits(&reply, piece, true, &model, &[]).is_ok()
        };
        assert!(
            told(&whole, 12, 4) && !told(&whole, 12, 1),
            "nothing was guessed wrong"
        );
        for (first, count) in [(12, 4), (12, 1), (11, 5), (15, 1)] {
            assert!(told(&void, first, count), "{count} at {first}");
        }
        for (first, count) in [(10, 1), (12, 5), (16, 1), (0, 1)] {
            assert!(!told(&void, first, count), "{count} at {first}");
        }
    }
}
