//! A line laid out anew in the middle of an answer, and who decides that it is.
//!
//! A stage that stays at its node with its layers keeps its seat. A stage that begins where one began before has its
//! history; one that begins at another layer gets it from the stage before, which replays from what it knows. The ids
//! are known always, so any layout can follow any other, and no bit changes.

use std::sync::Arc;
use std::time::Instant;

use heph_plan::replan::MoveBy;
use heph_types::{LayerRange, NodeId, Position};

use super::history::History;
use super::post::{Kind, Piece, Post};
use super::{Line, LineError, LineModel, Move, Placement};
use crate::seat::{Host, Seat, SeatError};

/// Decides where the layers of a line go when something happened to its nodes.
pub trait Steering: Send {
    /// A node was lost: the layout from here on, or `None` for the line's own rule, which gives each lost stage as it is
    /// to the node with the fewest layers.
    fn lost(&mut self, node: NodeId, now: &Standing) -> Option<Layout>;

    /// Looks at how the line stands, between two tokens of an answer. `None`: it goes on as it is.
    fn look(&mut self, now: &Standing) -> Option<Layout>;

    /// A node may hold only `room` bytes more than it does: a layout with which the rest of the answer fits. `None` where
    /// there is none.
    fn relieve(&mut self, _node: NodeId, _room: u64, _now: &Standing) -> Option<Layout> {
        None
    }
}

/// How a line stands.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Who holds which layers.
    pub stages: Vec<Placement>,
    /// Seconds that each stage takes for a token, its way there and back included, once enough were seen.
    pub seconds: Vec<Option<f64>>,
    /// Tokens in the caches.
    pub positions: usize,
    /// Tokens that the answer may still have.
    pub tokens_left: usize,
    /// The time on the line's clock.
    pub time: Instant,
}

/// A layout that is wanted.
#[derive(Clone)]
pub struct Layout {
    /// Who is to hold which layers.
    pub stages: Vec<Placement>,
    /// Why, in a sentence.
    pub why: String,
    /// Stages whose caches are to be sent to their new node; the others' are computed again. A stage that changes its
    /// layers as well, or whose old node is gone or at work, is computed again in any case.
    pub transfers: Vec<LayerRange>,
    /// Hosts that the line does not know yet.
    pub hosts: Vec<Arc<dyn Host>>,
}

impl Line {
    /// The line that follows `steering` when a node is lost, slows down or comes.
    pub fn with_steering(mut self, steering: Box<dyn Steering>) -> Self {
        self.steering = Some(steering);
        self
    }

    /// Lets the steering look, between two tokens. `tokens_left` is what the answer may still have. Returns whether the
    /// line was laid out anew.
    ///
    /// # Errors
    /// When a stage of the new layout finds no seat.
    pub fn steer(&mut self, tokens_left: usize) -> Result<bool, LineError> {
        self.tokens_left = tokens_left;
        if self.steering.is_none() {
            return Ok(false);
        }
        let standing = self.standing();
        let wanted = self
            .steering
            .as_mut()
            .and_then(|steering| steering.look(&standing));
        match wanted {
            Some(layout) => self.adopt(layout),
            None => Ok(false),
        }
    }

    /// The steering's answer to a lost node, carried out; `None` where it has none that can be.
    pub(super) fn steered_past(&mut self, node: NodeId, error: &SeatError) -> Option<Result<(), LineError>> {
        let standing = self.standing();
        let mut layout = self.steering.as_mut()?.lost(node, &standing)?;
        layout.why = format!("{error}. {}", layout.why);
        match self.adopt(layout) {
            Ok(true) => Some(Ok(())),
            // A layout that is none, or that changes nothing, is no answer to a loss.
            Ok(false) | Err(LineError::Layout(_)) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Whether layers of one node can go to another where memory becomes short.
    pub fn can_relieve(&self) -> bool {
        self.steering.is_some() && self.hosts.len() > 1
    }

    /// Lays the line out anew because `node` may hold only `room` bytes more than it does. `tokens_left` is what the
    /// answer may still have. Returns whether it was: `false` where the steering knows no layout that fits.
    ///
    /// # Errors
    /// When a stage of the new layout finds no seat.
    pub fn relieve(&mut self, node: NodeId, room: u64, tokens_left: usize) -> Result<bool, LineError> {
        self.tokens_left = tokens_left;
        let standing = self.standing();
        let wanted = self.steering.as_mut();
        let Some(layout) = wanted.and_then(|steering| steering.relieve(node, room, &standing)) else {
            return Ok(false);
        };
        let lost = layout.stages.iter().any(|stage| self.is_lost(stage.node));
        if lost || layout.stages == standing.stages {
            return Ok(false);
        }
        let own = layout.stages.iter().filter(|stage| stage.node == node);
        let kept: Vec<_> = own.map(|stage| stage.layers).collect();
        // Said beforehand: the new layout drops the old stages before it opens its own.
        let hosts = self.hosts.iter().filter(|host| host.node() == node);
        hosts.for_each(|host| host.let_go(&kept));
        for at in 0..self.posts.len() {
            if self.posts[at].node == node {
                self.unseat(at);
            }
        }
        self.adopt(layout)
    }

    fn adopt(&mut self, layout: Layout) -> Result<bool, LineError> {
        for host in layout.hosts {
            // It was lost, and is back.
            self.lost.retain(|loss| loss.node != host.node());
            self.hosts.retain(|known| known.node() != host.node());
            self.hosts.push(host);
        }
        if layout.stages == self.stages() || layout.stages.iter().any(|stage| self.is_lost(stage.node)) {
            return Ok(false);
        }
        self.lay_out_with(&layout.stages, &layout.transfers, &layout.why)?;
        Ok(true)
    }

    fn standing(&self) -> Standing {
        Standing {
            stages: self.stages(),
            seconds: self.posts.iter().map(|post| post.tempo.even_row()).collect(),
            positions: self.tokens.len(),
            tokens_left: self.tokens_left,
            time: self.clock.now(),
        }
    }

    /// Lays the model out over other stages, whatever is under way. `why` is told with the moves.
    ///
    /// # Errors
    /// When the stages are not the model's layers in order, name no host, or find no seat.
    pub fn lay_out(&mut self, stages: &[Placement], why: &str) -> Result<(), LineError> {
        self.lay_out_with(stages, &[], why)
    }

    fn lay_out_with(
        &mut self,
        stages: &[Placement],
        transfers: &[LayerRange],
        why: &str,
    ) -> Result<(), LineError> {
        check(&self.model, &self.hosts, stages)?;
        let (now, held) = (self.clock.now(), self.held());
        self.note_moves(stages, why, now);
        let again = self.news_again(stages.len());
        for at in 0..self.posts.len() {
            let copies = self.posts[at].flight.iter_mut();
            copies
                .filter(|piece| piece.kind == Kind::Copy)
                .for_each(|piece| piece.cut(held));
            self.forgo(at, held);
        }
        let mut old = std::mem::take(&mut self.posts);
        old.iter_mut().for_each(|post| post.inputs.truncate(held));
        for (at, stage) in stages.iter().enumerate() {
            let inputs = self.inputs_of(stage, at, &mut old);
            let mut post = Post::vacant(stage, inputs, now);
            if let Some(keeper) = keeper(stage, stages.len() - 1 - at, &mut old) {
                (post.seat, post.opening) = (keeper.seat.take(), keeper.opening.take());
                std::mem::swap(&mut post.flight, &mut keeper.flight);
                std::mem::swap(&mut post.waiting, &mut keeper.waiting);
                std::mem::swap(&mut post.tempo, &mut keeper.tempo);
                (post.since, post.reach) = (keeper.since, keeper.reach);
            }
            self.posts.push(post);
        }
        let givers = self.givers(transfers, &mut old);
        for seat in old.iter().filter_map(|post| post.seat.as_ref()) {
            self.traffic += seat.traffic();
        }
        drop(old);
        self.posts[0].waiting.extend(again);
        // All at once, so that one catches up while the next is asked.
        let vacant = |line: &Self, at: usize| line.posts.get(at).is_some_and(|post| post.seat.is_none());
        for at in 0..stages.len() {
            if held > 0 && vacant(self, at) {
                self.open(at, None)?;
            }
        }
        for (at, mut giver) in givers {
            self.transfer(at, giver.as_mut(), held)?;
            self.traffic += giver.traffic();
        }
        Ok(())
    }

    /// The seats that give their caches to a stage of the new layout, with its number: those that are idle and whose stage
    /// goes to another node as it is.
    fn givers(&self, transfers: &[LayerRange], old: &mut [Post]) -> Vec<(usize, Box<dyn Seat>)> {
        let (count, was) = (self.posts.len(), old.len());
        let mut givers = Vec::new();
        for (at, post) in self.posts.iter().enumerate() {
            // The ids of what it was told do not go with a cache, and a stage that looks back at them needs them.
            let ids = at + 1 == count && self.sampling.looks_back();
            if ids || post.seat.is_some() || !transfers.contains(&post.layers) {
                continue;
            }
            let same = |(number, giver): &(usize, &mut Post)| {
                let last = (number + 1 == was) == (at + 1 == count);
                let idle = giver.flight.is_empty() && giver.waiting.is_empty();
                last && giver.layers == post.layers && idle && giver.seat.is_some()
            };
            let giver = old.iter_mut().enumerate().find(same);
            givers.extend(
                giver
                    .and_then(|(_, giver)| giver.seat.take())
                    .map(|seat| (at, seat)),
            );
        }
        givers
    }

    /// Gives a stage that was just opened what its old seat holds of the first `held` positions. What does not come is
    /// computed again.
    fn transfer(&mut self, at: usize, giver: &mut dyn Seat, held: usize) -> Result<(), LineError> {
        // Losing a node meanwhile may have changed the layout, and a stage that has yet to be told what goes in, or to tell
        // the next one what comes out, computes everything in any case.
        if self.posts.len() <= at || self.solid(at).min(self.known_after(at)) < held {
            return Ok(());
        }
        let mut to = 0;
        while to < held {
            let (first, end) = (Position(to as u32), Position(held as u32));
            // A node that does not give its cache was to be left anyway.
            let Ok(Some(part)) = giver.take_cache(first, end) else {
                break;
            };
            let Some(seat) = self.posts[at].seat.as_mut() else {
                break;
            };
            match seat.put_cache(&part) {
                Ok(true) => to += part.tokens as usize,
                Ok(false) => break,
                Err(error) => return self.replace(at, error),
            }
        }
        let post = &mut self.posts[at];
        post.reach = post.reach.max(to);
        post.waiting
            .retain(|piece| piece.kind == Kind::New || piece.end() > to);
        for piece in post.waiting.iter_mut().filter(|piece| piece.kind != Kind::New) {
            let had = to.saturating_sub(piece.first);
            *piece = Piece::new(piece.first + had, piece.tokens - had, 0, piece.kind);
        }
        if to == held {
            let layers = post.layers;
            let moved = self.moves.iter_mut().rev().find(|moved| moved.layers == layers);
            moved.into_iter().for_each(|moved| moved.by = MoveBy::Transfer);
        }
        Ok(())
    }

    /// The pieces that the first stage of the new layout has to be fed again, in order.
    fn news_again(&mut self, stages: usize) -> Vec<Piece> {
        let alone = self.is_whole();
        let mut news: Vec<Piece> = self.posts.iter_mut().flat_map(Post::take_news).collect();
        news.sort_by_key(|piece| piece.first);
        if let Some(stream) = &mut self.stream {
            stream.sent = false;
            // A node went on alone; from now on each token goes through several. The last one may wait already, where the
            // node was to answer it before it went on.
            let last = self.tokens.len() - 1;
            let waits = news.last().is_some_and(|piece| piece.end() > last);
            if alone && stages > 1 && !waits {
                news.push(Piece::new(last, 1, 1, Kind::New));
            }
        }
        news
    }

    /// What went into the layers of `stage` so far, if a stage began with them before.
    fn inputs_of(&self, stage: &Placement, at: usize, old: &mut [Post]) -> History {
        let fresh = || History::new(self.model.width, self.limits.history());
        if at == 0 {
            return fresh();
        }
        let begins = |post: &&mut Post| post.layers.start() == stage.layers.start();
        let same = old.iter_mut().skip(1).filter(begins);
        let same = same.max_by_key(|post| post.inputs.len());
        same.map_or_else(fresh, |post| std::mem::replace(&mut post.inputs, fresh()))
    }

    /// Tells which layers go to whom.
    fn note_moves(&mut self, stages: &[Placement], why: &str, noticed: Instant) {
        let holder = |stages: &[Placement], layer: usize| {
            let has = |stage: &&Placement| stage.layers.iter().contains(&layer);
            stages.iter().find(has).map(|stage| stage.node)
        };
        let (old, mut runs) = (self.stages(), Vec::<(usize, usize, NodeId, NodeId)>::new());
        for layer in 0..self.model.layers {
            let (Some(from), Some(to)) = (holder(&old, layer), holder(stages, layer)) else {
                continue;
            };
            match runs.last_mut() {
                Some(run) if (run.1, run.2, run.3) == (layer, from, to) => run.1 += 1,
                _ if from != to => runs.push((layer, layer + 1, from, to)),
                _ => {}
            }
        }
        for (start, end, from, to) in runs {
            let held = |post: &Post| post.layers.iter().any(|layer| (start..end).contains(&layer));
            let posts = (0..self.posts.len()).filter(|at| held(&self.posts[*at]));
            let computed = posts.map(|at| self.solid(at)).min().unwrap_or(0);
            self.note_move(Move {
                layers: self.model.range(start, end),
                from,
                to,
                why: why.to_owned(),
                lost: self.is_gone(from),
                by: MoveBy::Replay,
                at: Position(computed as u32),
                gap: None,
                silence: None,
                noticed,
            });
        }
    }
}

/// The old stage whose seat a new one goes on with, be it still opened: same node, same layers, and the line's last or not as before.
fn keeper<'a>(stage: &Placement, after: usize, old: &'a mut [Post]) -> Option<&'a mut Post> {
    let count = old.len();
    let same = |(at, post): &(usize, &mut Post)| {
        let (was_last, is_last) = (at + 1 == count, after == 0);
        let seated = (post.seat.is_some() || post.opening.is_some()) && was_last == is_last;
        seated && (post.node, post.layers) == (stage.node, stage.layers)
    };
    old.iter_mut().enumerate().find(same).map(|(_, post)| post)
}

/// Whether stages are the model's layers in order, each at a host.
pub(super) fn check(
    model: &LineModel,
    hosts: &[Arc<dyn Host>],
    stages: &[Placement],
) -> Result<(), LineError> {
    let mut next = 0;
    for stage in stages {
        let (start, end) = (stage.layers.start(), stage.layers.end());
        if start != next || end > model.layers {
            let why = format!("layers {start}..{end} follow layer {next} of {}", model.layers);
            return Err(LineError::Layout(why));
        }
        next = end;
        if !hosts.iter().any(|host| host.node() == stage.node) {
            return Err(LineError::Layout(format!("{} is no host", stage.node.short())));
        }
    }
    if stages.is_empty() || next != model.layers {
        let why = format!("they end with layer {next} of {}", model.layers);
        return Err(LineError::Layout(why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use heph_engine::model::{LoadOptions, Model, Packing};
    use heph_kernels::isa::Isa;
    use heph_kernels::pool::Pool;
    use heph_types::{ModelHash, Order, Reply, SessionId, StageSpec, TokenId};

    use super::*;
    use crate::bundled;
    use crate::cancel::Cancel;
    use crate::line::LineLimits;
    use crate::node::{Lent, Node, NodeCaps};
    use crate::seat::Bell;
    use crate::store::Found;

    /// The bundled model, as it is packed then, and a machine that lends it.
    fn lent(node: NodeId, packing: Packing) -> (Arc<Model>, LineModel, Arc<dyn Host>) {
        let hash = ModelHash([7; 32]);
        let source = crate::open::open(&Found::Bundled(bundled::STORY)).unwrap();
        let options = LoadOptions {
            context: Some(128),
            sessions: 2,
            packing,
            ..LoadOptions::default()
        };
        let model = Model::load(Arc::new(source), &options, &Pool::serial(), &mut |_| {}).unwrap();
        let model = Arc::new(model);
        let lent = Lent::new(Arc::clone(&model), Arc::new(Pool::serial()), Isa::best());
        let host = Node::new(node, NodeCaps::default()).with(hash, lent);
        (Arc::clone(&model), LineModel::of(hash, &model), Arc::new(host))
    }

    /// A machine that nobody reaches.
    struct Away(NodeId);

    impl Host for Away {
        fn node(&self) -> NodeId {
            self.0
        }

        fn open(&self, _: SessionId, _: &StageSpec, _: &Bell) -> Result<Box<dyn Seat>, SeatError> {
            Err(SeatError::Lost {
                node: self.0,
                why: "nobody is there".to_owned(),
            })
        }
    }

    /// What seats were handed and what they did, in order, by the first layer of each.
    type Told = Arc<Mutex<Vec<(&'static str, usize)>>>;

    /// A machine whose seats tell that.
    struct Telling(Arc<dyn Host>, Told);

    impl Host for Telling {
        fn node(&self) -> NodeId {
            self.0.node()
        }

        fn open(
            &self,
            session: SessionId,
            spec: &StageSpec,
            bell: &Bell,
        ) -> Result<Box<dyn Seat>, SeatError> {
            let (seat, told) = (self.0.open(session, spec, bell)?, Arc::clone(&self.1));
            Ok(Box::new(TellingSeat(seat, spec.layers.start(), told)))
        }
    }

    struct TellingSeat(Box<dyn Seat>, usize, Told);

    impl Seat for TellingSeat {
        fn node(&self) -> NodeId {
            self.0.node()
        }

        fn submit(&mut self, order: Order) -> Result<(), SeatError> {
            self.2.lock().unwrap().push(("handed", self.1));
            self.0.submit(order)
        }

        fn poll(&mut self) -> Result<Option<Reply>, SeatError> {
            let reply = self.0.poll()?;
            if reply.is_some() {
                self.2.lock().unwrap().push(("done", self.1));
            }
            Ok(reply)
        }
    }

    #[test]
    fn what_another_machine_waits_for_is_handed_out_before_this_one_computes() {
        let (here, there) = (NodeId([1; 32]), NodeId([2; 32]));
        let told = Told::default();
        let (_, model, own) = lent(here, Packing::AtLoad);
        let (_, _, other) = lent(there, Packing::AtLoad);
        let hosts = [own, other].map(|host| Arc::new(Telling(host, Arc::clone(&told))) as Arc<dyn Host>);
        let stage = |node, start, end| Placement {
            node,
            layers: model.range(start, end),
        };
        let stages = [stage(here, 0, 1), stage(there, 1, 3), stage(here, 3, 4)];
        let limits = LineLimits {
            chunk: 5,
            ..LineLimits::default()
        };
        let mut line = Line::new(model, hosts.to_vec(), &stages, limits).unwrap();
        let prompt: Vec<TokenId> = (5..25).map(TokenId).collect();
        line.feed(0, &prompt, 1);
        line.collect(&Cancel::new()).unwrap();
        let told = told.lock().unwrap();
        let at = |what, number: usize| {
            let times = told.iter().enumerate().filter(|(_, one)| **one == what);
            times.map(|(at, _)| at).nth(number).unwrap()
        };
        // The other machine has the next piece before the last layers here take the one before it.
        for piece in 0..3 {
            assert!(at(("handed", 1), piece + 1) < at(("done", 3), piece), "{told:?}");
        }
    }

    #[test]
    fn who_never_opened_a_stage_computed_none_of_what_was_fed() {
        let (away, there) = (NodeId([1; 32]), NodeId([2; 32]));
        let (_, model, host) = lent(there, Packing::AtLoad);
        let layers = model.range(0, model.layers);
        let stages = [Placement { node: away, layers }];
        let hosts = vec![Arc::new(Away(away)) as Arc<dyn Host>, host];
        let mut line = Line::new(model, hosts, &stages, LineLimits::default()).unwrap();
        let prompt: Vec<TokenId> = (5..25).map(TokenId).collect();
        line.feed(0, &prompt, 1);
        line.collect(&Cancel::new()).unwrap();
        let moved: Vec<_> = line
            .moves
            .iter()
            .map(|moved| (moved.from, moved.to, moved.at))
            .collect();
        assert_eq!(moved, [(away, there, Position(0))]);
    }

    #[test]
    fn passes_that_still_pack_weights_say_nothing_of_a_stage() {
        let node = NodeId([1; 32]);
        let (model, line_model, host) = lent(node, Packing::AsUsed);
        let layers = line_model.range(0, line_model.layers);
        let stages = [Placement { node, layers }];
        let mut line = Line::new(line_model, vec![host], &stages, LineLimits::default()).unwrap();
        let (mut unsettled, mut known) = (0, 0);
        for at in 0..60 {
            line.feed(at, &[TokenId(at as u32 + 5)], 1);
            line.collect(&Cancel::new()).unwrap();
            let seconds = line.standing().seconds[0];
            match model.is_settled() {
                true => known += usize::from(seconds.is_some()),
                false => {
                    unsettled += 1;
                    assert_eq!(seconds, None, "after token {at}");
                }
            }
        }
        assert!(unsettled > 5, "{unsettled} passes packed");
        assert!(known > 5, "{known} passes were known");
    }
}
