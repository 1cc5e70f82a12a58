//! Reads a question while it is being written, so that little is left to read when it is sent.
//!
//! Whoever asks for a plan may wish it. Only a question that the batch of this machine would answer is read, and only while it
//! has nothing else to do; whoever really asks waits for one piece at most. What was read lies in memory, with the caches of the
//! same caller and label: nothing of it leaves this machine, nor is it written to a disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use heph_engine::batch::Asker;
use heph_engine::prefix::{Owner, Reach, Share};
use heph_engine::sample::SamplingOptions;
use heph_runtime::cancel::Cancel;
use heph_runtime::service::{Heard, Job};
use heph_types::TokenId;

use crate::ask::{Ask, Source};
use crate::engines::Writer;
use crate::error::Refusal;
use crate::house::Door;

/// Tokens that are read at once: what is asked meanwhile waits for no more than these.
const PIECE: usize = 256;

/// Fewer new tokens than these are left for when the question is sent.
const WORTH: usize = 16;

/// What was read ahead of questions.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// Counts questions: what was being written before another one is read no further.
    turn: AtomicU64,
    /// What was read last, and for whom.
    last: Mutex<Option<(Owner, Vec<TokenId>)>>,
}

impl Ahead {
    /// Something is asked, or something else is being written.
    pub(crate) fn turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// How many of `tokens` this owner had read already.
    fn known(&self, owner: Owner, tokens: &[TokenId]) -> usize {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let own = last.as_ref().filter(|(whose, _)| *whose == owner);
        own.map_or(0, |(_, read)| {
            read.iter().zip(tokens).take_while(|(a, b)| a == b).count()
        })
    }

    fn keep(&self, owner: Owner, tokens: &[TokenId]) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((owner, tokens.to_vec()));
    }
}

/// The tokens with which every prompt begins that goes on from what is being written: its last word may still grow.
pub(crate) fn settled(ask: &Ask, writer: &Writer, cancel: &Cancel) -> Result<Vec<TokenId>, Refusal> {
    let with = |more: &str| {
        let mut ask = ask.clone();
        if let Source::Chat(turns) = &mut ask.source
            && let Some(last) = turns.last_mut()
        {
            let words = last.content.rfind(char::is_whitespace).unwrap_or(0);
            last.content.truncate(words);
            last.content.push_str(more);
        }
        ask.prompts(writer, cancel)
            .map(|prompts| prompts.into_iter().next().unwrap_or_default())
    };
    let (short, long) = (with("")?, with(" x")?);
    let same = short.iter().zip(&long).take_while(|(a, b)| a == b).count();
    Ok(short[..same].to_vec())
}

/// How far what was not sent may be kept: never on a disk.
fn unsent(share: Share) -> Share {
    Share {
        reach: share.reach.min(Reach::Memory),
        ..share
    }
}

/// Reads `tokens` piece by piece, as long as `turn` is the last and nobody asks anything.
pub(crate) async fn read(door: Door, writer: Arc<Writer>, tokens: Vec<TokenId>, share: Share, turn: u64) {
    let share = unsent(share);
    if share.reach == Reach::Nowhere || tokens.len() >= writer.service.context() {
        return;
    }
    let known = door.ahead.known(share.owner, &tokens);
    if tokens.len() < known + WORTH {
        return;
    }
    let ends = (known..tokens.len())
        .step_by(PIECE)
        .map(|from| tokens.len().min(from + PIECE));
    for end in ends {
        let is_last = door.ahead.turn.load(Ordering::Acquire) == turn;
        if !is_last || writer.service.load().open > 0 {
            return;
        }
        let job = Job {
            prompt: tokens[..end].to_vec(),
            sampling: SamplingOptions::default(),
            // A prompt is read for the sake of a token.
            max_tokens: 1,
            stops: Vec::new(),
            constraint: None,
            logprobs: None,
            deadline: None,
            share,
            asker: Asker::default(),
        };
        let Ok(mut replies) = writer.service.submit(vec![job]) else {
            return;
        };
        for reply in &mut replies {
            while !matches!(reply.next().await, Heard::End(_)) {}
        }
        door.ahead.keep(share.owner, &tokens[..end]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner([1; 32]);

    #[test]
    fn what_was_not_sent_is_written_on_no_disk() {
        for (said, kept) in [
            (Reach::Disk, Reach::Memory),
            (Reach::Memory, Reach::Memory),
            (Reach::Nowhere, Reach::Nowhere),
        ] {
            let share = Share {
                owner: OWNER,
                reach: said,
            };
            assert_eq!(unsent(share), Share { reach: kept, ..share });
        }
    }

    #[test]
    fn only_what_is_new_to_its_owner_is_read() {
        let (ahead, tokens) = (Ahead::default(), [1, 2, 3, 4].map(TokenId));
        assert_eq!(ahead.known(OWNER, &tokens), 0);
        ahead.keep(OWNER, &tokens[..3]);
        assert_eq!(ahead.known(OWNER, &tokens), 3);
        assert_eq!(ahead.known(OWNER, &[1, 2, 9].map(TokenId)), 2);
        assert_eq!(ahead.known(Owner([2; 32]), &tokens), 0);
        assert_ne!(ahead.turn(), ahead.turn());
    }
}
