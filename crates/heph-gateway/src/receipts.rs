//! What became of each answer, kept for a while.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use heph_runtime::receipt::{Receipt, TrafficLine};
use heph_runtime::service::{Ending, Outcome};
use serde_json::{Value, json};

use crate::engines::Writer;

/// Receipts that are kept; the oldest goes first.
const KEPT: usize = 1024;

/// The last receipts of this process.
#[derive(Debug, Default)]
pub(crate) struct Receipts(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_id: HashMap<String, Value>,
    order: VecDeque<String>,
}

impl Receipts {
    pub(crate) fn keep(&self, id: &str, receipt: Value) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while kept.order.len() >= KEPT {
            if let Some(oldest) = kept.order.pop_front() {
                kept.by_id.remove(&oldest);
            }
        }
        kept.order.push_back(id.to_owned());
        kept.by_id.insert(id.to_owned(), receipt);
    }

    pub(crate) fn find(&self, id: &str) -> Option<Value> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .by_id
            .get(id)
            .cloned()
    }
}

/// The receipt of an answer that this machine alone computed, in the form of `heph run --json`.
pub(crate) fn local(
    id: &str,
    writer: &Writer,
    outcomes: &[Outcome],
    total: Duration,
    degraded: Option<&str>,
) -> Value {
    let prompt = outcomes.first().map_or(0, |o| o.prompt_tokens);
    let cached = outcomes.iter().map(|o| o.cached_tokens).min().unwrap_or(0);
    let answer: usize = outcomes.iter().map(|o| o.answer_tokens).sum();
    let first = outcomes.iter().map(|o| o.first_token).min().unwrap_or_default();
    let after = (total.saturating_sub(first)).as_secs_f64();
    let speed = if after > 0.0 {
        answer.saturating_sub(1) as f64 / after
    } else {
        0.0
    };
    let longest = outcomes
        .iter()
        .map(|o| o.prompt_tokens + o.answer_tokens)
        .max()
        .unwrap_or(0);
    json!({
        "id": id,
        "created_ms": crate::house::now_ms(),
        "mode": "local",
        "model": writer.name,
        "exactness": "exact",
        "places": [{
            "from": 0, "to": longest, "layers": { "start": 0, "end": writer.layers }, "node": null, "name": "here",
            "role": null, "saw": "nothing",
        }],
        "traffic": [],
        "moves": [],
        "degraded": degraded.into_iter().collect::<Vec<_>>(),
        "answered_from": null,
        "finish": outcomes.last().map_or("cancelled", |o| finish(&o.ending)),
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "answer_tokens": answer,
        "price": 0,
        "first_token_s": first.as_secs_f64(),
        "tokens_per_s": speed,
        "total_s": total.as_secs_f64(),
    })
}

/// The receipt of an answer that was not made by this machine's batch; `None` where it was. Of several choices it tells the
/// first one's places, the bytes and the tokens of all, and each one by itself under `choices`.
pub(crate) fn elsewhere(id: &str, outcomes: &[Outcome], total: Duration) -> Option<Value> {
    let receipts: Vec<&Receipt> = outcomes.iter().filter_map(|o| o.elsewhere.as_deref()).collect();
    let mut sum: Receipt = (*receipts.first()?).clone();
    sum.traffic = traffic(&receipts);
    sum.answer_tokens = outcomes.iter().map(|o| o.answer_tokens).sum();
    sum.price = receipts.iter().map(|receipt| receipt.price).sum();
    let mut told = serde_json::to_value(&sum).ok()?;
    told["id"] = json!(id);
    told["created_ms"] = json!(crate::house::now_ms());
    told["total_s"] = json!(total.as_secs_f64());
    // Such an answer may have nothing to confess, and the page reads the list anyway.
    told["degraded"] = json!(sum.degraded);
    if let Some(last) = outcomes.last() {
        told["finish"] = json!(finish(&last.ending));
    }
    if receipts.len() > 1 {
        told["choices"] = json!(receipts);
    }
    Some(told)
}

/// What went to and from each machine for all choices together.
fn traffic(receipts: &[&Receipt]) -> Vec<TrafficLine> {
    let mut sums: Vec<TrafficLine> = Vec::new();
    for line in receipts.iter().flat_map(|receipt| &receipt.traffic) {
        match sums.iter_mut().find(|sum| sum.node == line.node) {
            Some(sum) => (sum.up, sum.down) = (sum.up + line.up, sum.down + line.down),
            None => sums.push(line.clone()),
        }
    }
    sums
}

fn finish(ending: &Ending) -> &'static str {
    match ending {
        Ending::Stop | Ending::StopText(_) => "stop",
        Ending::Length => "length",
        Ending::Context => "context",
        Ending::Deadline => "deadline",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_receipt_goes_first() {
        let receipts = Receipts::default();
        for n in 0..=KEPT {
            receipts.keep(&n.to_string(), json!(n));
        }
        assert_eq!(receipts.find("0"), None);
        assert_eq!(receipts.find("1"), Some(json!(1)));
    }
}
