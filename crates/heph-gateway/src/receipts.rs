//! What became of each answer, kept for a while.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heph_runtime::receipt::{Receipt, ToolLine, together};
use heph_runtime::service::{Ending, Outcome};
use serde_json::{Value, json};

use crate::engines::Writer;

/// Receipts that are kept; the oldest goes first.
const KEPT: usize = 1024;

/// The last receipts of this process.
#[derive(Debug, Default)]
pub(crate) struct Receipts(Mutex<VecDeque<Kept>>);

/// A receipt as it is told, and as it is signed where somebody asks for that. Told as text: a tree of values takes ten times as much,
/// in pieces that lie between all others for as long as it is kept.
#[derive(Debug)]
struct Kept {
    id: Box<str>,
    told: Box<str>,
    signs: Box<Receipt>,
}

impl Receipts {
    /// Keeps a receipt as it is told, and as it is signed where somebody asks for that.
    pub(crate) fn keep(&self, id: &str, told: &Value, signs: Receipt) {
        let receipt = Kept {
            id: id.into(),
            told: told.to_string().into(),
            signs: Box::new(signs),
        };
        let mut kept = self.lock();
        while kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(receipt);
    }

    /// The kept receipt of an answer with tools: with the bytes and credits of the rounds before, each by its id, and with
    /// what servers of tools were told. As it is told from now on; `None` where it is not kept.
    pub(crate) fn complete(&self, id: &str, rounds: &[String], tools: &[ToolLine]) -> Option<Value> {
        let mut kept = self.lock();
        let earlier = rounds.iter().filter(|round| *round != id);
        let earlier: Vec<Receipt> = earlier
            .filter_map(|round| kept.iter().find(|receipt| *receipt.id == **round))
            .map(|receipt| Receipt::clone(&receipt.signs))
            .collect();
        let receipt = kept.iter_mut().find(|receipt| &*receipt.id == id)?;
        let mut told: Value = serde_json::from_str(&receipt.told).ok()?;
        let mut whole = earlier
            .iter()
            .fold(Receipt::clone(&receipt.signs), Receipt::with_round);
        whole.tools_told(tools);
        for (name, value) in [
            ("traffic", json!(whole.traffic)),
            ("left", json!(whole.left)),
            ("price", json!(whole.price)),
            ("tools", json!(whole.tools)),
        ] {
            told[name] = value;
        }
        receipt.told = told.to_string().into();
        *receipt.signs = whole;
        Some(told)
    }

    /// The receipt as it is told, in JSON.
    pub(crate) fn find(&self, id: &str) -> Option<String> {
        let kept = self.lock();
        let receipt = kept.iter().find(|receipt| &*receipt.id == id)?;
        Some(receipt.told.to_string())
    }

    /// The receipt, signed by this machine; `None` where it is not kept.
    pub(crate) fn signed(&self, id: &str, home: &Path) -> Option<Result<String, String>> {
        let kept = self.lock();
        let receipt = kept.iter().find(|receipt| &*receipt.id == id)?.signs.clone();
        drop(kept);
        Some(receipt.signed_below(id, home))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    let cached = cached(outcomes);
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

/// What a signed receipt says of an answer that this machine alone computed.
pub(crate) fn here(writer: &Writer, outcomes: &[Outcome], total: Duration) -> Receipt {
    let count = |of: fn(&Outcome) -> usize| outcomes.iter().map(of);
    let first = outcomes.iter().map(|o| o.first_token).min().unwrap_or_default();
    let answer: usize = count(|o| o.answer_tokens).sum();
    let after = total.saturating_sub(first).as_secs_f64();
    let speed = match after > 0.0 {
        true => answer.saturating_sub(1) as f64 / after,
        false => 0.0,
    };
    let tokens = count(|o| o.prompt_tokens + o.answer_tokens).max().unwrap_or(0);
    Receipt {
        prompt_tokens: outcomes.first().map_or(0, |o| o.prompt_tokens),
        answer_tokens: answer,
        first_token_s: first.as_secs_f64(),
        tokens_per_s: speed,
        ..Receipt::here(&writer.name, writer.layers, tokens)
    }
    .with_model(writer.hash, writer.precision.clone())
}

/// The receipt of all choices of an answer that was not made by this machine's batch, as one: the first one's places, the bytes
/// and the tokens of all.
pub(crate) fn sum(outcomes: &[Outcome]) -> Option<Receipt> {
    let receipts: Vec<&Receipt> = outcomes.iter().filter_map(|o| o.elsewhere.as_deref()).collect();
    let mut sum: Receipt = (*receipts.first()?).clone();
    sum.traffic = together(receipts.iter().flat_map(|receipt| &receipt.traffic));
    sum.answer_tokens = outcomes.iter().map(|o| o.answer_tokens).sum();
    sum.price = receipts.iter().map(|receipt| receipt.price).sum();
    for left in receipts.iter().skip(1).flat_map(|receipt| &receipt.left) {
        if !sum.left.iter().any(|known| known.node == left.node) {
            sum.left.push(left.clone());
        }
    }
    Some(sum)
}

/// The receipt of an answer that was not made by this machine's batch; `None` where it was. Of several choices it tells the
/// first one's places, the bytes and the tokens of all, and each one by itself under `choices`.
pub(crate) fn elsewhere(id: &str, outcomes: &[Outcome], total: Duration) -> Option<Value> {
    let receipts: Vec<&Receipt> = outcomes.iter().filter_map(|o| o.elsewhere.as_deref()).collect();
    let sum = sum(outcomes)?;
    let mut told = serde_json::to_value(&sum).ok()?;
    told["id"] = json!(id);
    told["created_ms"] = json!(crate::house::now_ms());
    told["total_s"] = json!(total.as_secs_f64());
    told["cached_tokens"] = json!(cached(outcomes));
    // Such an answer may have nothing to confess, and the page reads the list anyway.
    told["degraded"] = json!(sum.degraded);
    if let Some(last) = outcomes.last() {
        told["finish"] = json!(finish(&last.ending));
    }
    name_layers(&mut told);
    if receipts.len() > 1 {
        told["choices"] = json!(receipts);
        told["choices"].as_array_mut()?.iter_mut().for_each(name_layers);
    }
    Some(told)
}

/// The door writes ranges of layers as `{"start": 0, "end": 4}`, `heph run --json` as `[0, 4]`.
fn name_layers(receipt: &mut Value) {
    for list in ["places", "moves"] {
        for line in receipt[list].as_array_mut().into_iter().flatten() {
            if let [start, end] = line["layers"].as_array().map_or(&[][..], Vec::as_slice) {
                line["layers"] = json!({ "start": start, "end": end });
            }
        }
    }
}

/// Tokens of the prompt that were there already. Choices of one prompt take from each other; what counts was there before all.
fn cached(outcomes: &[Outcome]) -> usize {
    outcomes.iter().map(|o| o.cached_tokens).min().unwrap_or(0)
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
    use heph_privacy::label::Label;
    use heph_privacy::policy::Kind;
    use heph_runtime::discretion::unsaid;
    use heph_runtime::receipt::TrafficLine;
    use heph_types::NodeId;

    use super::*;

    #[test]
    fn layers_are_told_by_name_wherever_an_answer_was_made() {
        let mut receipt = json!({
            "places": [{ "layers": [0, 4] }, { "layers": [4, 22] }],
            "moves": [{ "layers": [4, 22], "at": 7 }],
            "mode": "layered",
        });
        name_layers(&mut receipt);
        let named = |start, end| json!({ "start": start, "end": end });
        assert_eq!(receipt["places"][1]["layers"], named(4, 22));
        assert_eq!(receipt["moves"][0], json!({ "layers": named(4, 22), "at": 7 }));
        let told = receipt.clone();
        name_layers(&mut receipt);
        assert_eq!(receipt, told);
    }

    #[test]
    fn the_oldest_receipt_goes_first() {
        let receipts = Receipts::default();
        for n in 0..=KEPT {
            receipts.keep(&n.to_string(), &json!(n), Receipt::here("m", 1, n));
        }
        assert_eq!(receipts.find("0"), None);
        assert_eq!(receipts.find("1").as_deref(), Some("1"));
        let home = tempfile::tempdir().unwrap();
        assert!(receipts.signed("0", home.path()).is_none());
        let signed = receipts.signed("7", home.path()).unwrap().unwrap();
        let verified = heph_privacy::receipt::verify(&signed).unwrap();
        assert_eq!(
            (verified.body.model.as_str(), verified.body.places[0].tokens),
            ("m", (0, 7))
        );
        assert_eq!(verified.signers.len(), 1);
    }

    #[test]
    fn an_answer_by_tools_tells_what_left_in_all_its_rounds() {
        let (node, receipts) = (NodeId([7; 32]), Receipts::default());
        let round = |up| Receipt {
            traffic: vec![TrafficLine {
                node,
                name: "attic".to_owned(),
                up,
                down: 1,
            }],
            ..Receipt::here("m", 1, 3)
        };
        for (id, up) in [("r-1", 10), ("r-2", 200), ("r-3", 3000)] {
            receipts.keep(id, &json!({ "id": id, "traffic": [] }), round(up));
        }
        let call = |server: &str, label: Label| ToolLine {
            server: server.to_owned(),
            calls: 1,
            up: 50,
            down: 70,
            label,
            rules: [format!("mcp.json names {server}")].into(),
        };
        let tools = [
            call("files", unsaid()),
            call("mail", unsaid()),
            call("files", Label::mark("salaries")),
        ];
        let rounds = ["r-1", "r-3"].map(str::to_owned);
        let told = receipts.complete("r-3", &rounds, &tools).unwrap();
        assert_eq!(
            (&told["traffic"][0]["up"], &told["traffic"][0]["down"]),
            (&json!(3010), &json!(2))
        );
        assert_eq!(receipts.find("r-3"), Some(told.to_string()));
        let of = |at: usize| {
            (
                &told["tools"][at]["server"],
                &told["tools"][at]["up"],
                &told["tools"][at]["level"],
            )
        };
        assert_eq!(of(0), (&json!("files"), &json!(100), &json!("private")));
        assert_eq!(of(1), (&json!("mail"), &json!(50), &json!("internal")));
        let home = tempfile::tempdir().unwrap();
        let signed = receipts.signed("r-3", home.path()).unwrap().unwrap();
        let body = heph_privacy::receipt::verify(&signed).unwrap().body;
        let lines: Vec<_> = body
            .bytes
            .iter()
            .map(|line| {
                (
                    body.nodes[usize::from(line.node)].as_str(),
                    line.kind,
                    line.up,
                    line.down,
                )
            })
            .collect();
        let attic = node.to_string();
        assert_eq!(
            lines,
            [
                (attic.as_str(), Kind::Own, 3010, 2),
                ("files", Kind::ToolServer, 100, 140),
                ("mail", Kind::ToolServer, 50, 70)
            ]
        );
        assert_eq!(body.rules, ["mcp.json names files", "mcp.json names mail"]);
        assert!(signed.len() < 2048, "{} bytes", signed.len());
        assert_eq!(receipts.complete("r-9", &rounds, &tools), None);
    }
}
