//! Receipts: what left for an answer, where to, by which rule, and who computed what; signed, so that nobody changes it later.
//!
//! A receipt is text: a line that names its form, a line of JSON, and a line for each signature. The first signature is that of the
//! machine that asked; nodes sign the same body and that first signature. What the body says of other machines is what the first
//! signer says: a counter-signature tells that its signer agrees. Nodes need not see a receipt to vouch for their part of it: each
//! signs what it computed for a session ([`to_state`]), and the body holds these statements.

use std::collections::BTreeSet;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use heph_types::hex;
use serde::{Deserialize, Serialize};

use crate::label::Level;
use crate::policy::Kind;

/// No receipt is longer, in bytes.
pub const BYTES_MAX: usize = 64 << 10;

/// No receipt has more signatures.
pub const SIGNATURES_MAX: usize = 64;

const FORM: &str = "heph-receipt 1";
const CONTEXT: &[u8] = b"heph receipt v1\n";
const COUNTER_CONTEXT: &[u8] = b"heph receipt v1, counter-signed\n";
const STATEMENT_CONTEXT: &[u8] = b"heph computed v1\n";

/// What a receipt says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// The request, 16 bytes in hexadecimal.
    pub id: String,
    /// When the answer was done, in seconds since 1970.
    pub at: u64,
    /// The model's name.
    pub model: String,
    /// The hash of its file, in hexadecimal.
    pub file: String,
    /// How its weights are kept, as `Q4_K_M`.
    pub precision: String,
    /// What its bits are worth, as `exact`.
    pub exactness: String,
    /// How the answer was computed, as `layered`.
    pub mode: String,
    /// Machines that took part, by their keys in hexadecimal or, where they have none, by name; the other fields name them by
    /// their place in this list.
    pub nodes: Vec<String>,
    /// Who computed which tokens and layers.
    pub places: Vec<Place>,
    /// What crossed the network.
    pub bytes: Vec<Bytes>,
    /// What nodes say that they computed, each signed by the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub computed: Vec<Computed>,
    /// Rules of the policy that let it leave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// How many things were replaced by pseudonyms before it left.
    #[serde(default)]
    pub replaced: u32,
    /// What it cost, in credits.
    #[serde(default)]
    pub credits: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub answer_tokens: u32,
    /// Milliseconds until the first token.
    pub first_ms: u32,
    /// Milliseconds until the last.
    pub total_ms: u32,
    /// Whether what others computed was checked, and how.
    pub checked: Checked,
}

/// A range of tokens and layers at a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The machine.
    pub node: u16,
    /// First position, and the first that it did not compute any more.
    pub tokens: (u32, u32),
    /// First layer, and the first that it did not compute any more.
    pub layers: (u16, u16),
}

/// What a node says that it computed for one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Computed {
    /// The machine; its entry in the list is its key.
    pub node: u16,
    /// The session, as the machine that asked called it.
    pub session: u64,
    /// First layer, and the first that it did not compute any more.
    pub layers: (u16, u16),
    /// First position, and the first that it did not compute any more.
    pub tokens: (u32, u32),
    /// Its signature of [`to_state`], in hexadecimal.
    pub signature: String,
}

/// What a node signs where it says what it computed: with the model of the body, for the machine `desk` that asked.
pub fn to_state(
    desk: &[u8; 32],
    model: &[u8; 32],
    session: u64,
    layers: (u16, u16),
    tokens: (u32, u32),
) -> Vec<u8> {
    let mut bytes = [STATEMENT_CONTEXT, desk, model, &session.to_le_bytes()].concat();
    for layer in [layers.0, layers.1] {
        bytes.extend(layer.to_le_bytes());
    }
    for token in [tokens.0, tokens.1] {
        bytes.extend(token.to_le_bytes());
    }
    bytes
}

/// Bytes to and from a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bytes {
    /// The machine.
    pub node: u16,
    /// What kind of place it is.
    pub kind: Kind,
    /// The most private that went there.
    pub level: Level,
    /// Bytes that went there.
    pub up: u64,
    /// Bytes that came from there.
    pub down: u64,
    /// Whether they are of the model itself, and not of what was asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub weights: bool,
}

/// What was done to believe other machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checked {
    /// Everything was computed here.
    Here,
    /// Nothing was checked.
    Not,
    /// Some of it was computed again here.
    Sampled,
    /// All of it was.
    All,
}

/// Why a receipt proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// It is longer than [`BYTES_MAX`] or has more than [`SIGNATURES_MAX`] signatures.
    #[error("this is too long for a receipt")]
    TooLong,
    /// It is none.
    #[error("this is no receipt; its first line would be `{FORM}`")]
    Form,
    /// What it says cannot be read.
    #[error("what the receipt says cannot be read: {0}")]
    Body(String),
    /// It names a machine that it does not list, or a range that ends before it begins.
    #[error("the receipt contradicts itself: {0}")]
    Contradiction(&'static str),
    /// A node did not sign what the receipt says that it computed.
    #[error("the node {0} did not sign what the receipt says that it computed")]
    Unstated(u16),
    /// A signature does not fit.
    #[error("signature {0} does not fit: the receipt was changed after it was signed")]
    Forged(usize),
    /// It has no signature.
    #[error("the receipt is not signed")]
    Unsigned,
}

/// A receipt whose signatures fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// What it says.
    pub body: Body,
    /// Keys of who signed: first the machine that asked, then those that agree.
    pub signers: Vec<[u8; 32]>,
}

impl Verified {
    /// Whether the machine at this place of the list signed for every layer and token that the receipt says it computed. The last
    /// token of an answer is chosen and goes in nowhere, and a stream that is left forgets the one before it.
    pub fn is_vouched_for(&self, node: u16) -> bool {
        let body = &self.body;
        let all = body.prompt_tokens.saturating_add(body.answer_tokens);
        // Who computed up to the end signs for all but its last two tokens, however many the receipt says that there are.
        let needed = |place: &Place| match place.tokens.1 < all {
            true => place.tokens.1,
            false => place.tokens.1.saturating_sub(2),
        };
        let covers = |stated: &Computed, place: &Place| {
            let (layers, tokens) = (stated.layers, stated.tokens);
            stated.node == node
                && layers.0 <= place.layers.0
                && place.layers.1 <= layers.1
                && tokens.0 <= place.tokens.0
                && needed(place) <= tokens.1
        };
        let mut places = body.places.iter().filter(|place| place.node == node).peekable();
        places.peek().is_some()
            && places.all(|place| body.computed.iter().any(|stated| covers(stated, place)))
    }
}

/// A receipt, signed by the machine that asked.
pub fn sign(body: &Body, key: &SigningKey) -> Result<String, ReceiptError> {
    sign_by(body, key.verifying_key().as_bytes(), |bytes| {
        key.sign(bytes).to_bytes()
    })
}

/// As [`sign`], where the key is somewhere else: `sign` makes the signature that fits the public `key`.
pub fn sign_by(
    body: &Body,
    key: &[u8; 32],
    sign: impl FnOnce(&[u8]) -> [u8; 64],
) -> Result<String, ReceiptError> {
    consistent(body)?;
    stated(body, key)?;
    let json = serde_json::to_string(body).map_err(|error| ReceiptError::Body(error.to_string()))?;
    let signature = sign(&[CONTEXT, json.as_bytes()].concat());
    let receipt = format!("{FORM}\n{json}\n{}", line(key, &signature));
    match receipt.len() > BYTES_MAX {
        true => Err(ReceiptError::TooLong),
        false => Ok(receipt),
    }
}

/// The receipt with one more signature. Whoever counter-signs looks at the body first: [`verify`] gives it.
pub fn counter_sign(receipt: &str, key: &SigningKey) -> Result<String, ReceiptError> {
    let parts = parts(receipt)?;
    verify(receipt)?;
    if parts.signatures.len() >= SIGNATURES_MAX {
        return Err(ReceiptError::TooLong);
    }
    let signature = key.sign(&counter_signed(parts.json, &parts.signatures[0].1));
    let signed = format!(
        "{}\n{}",
        receipt.trim_end_matches('\n'),
        line(key.verifying_key().as_bytes(), &signature.to_bytes())
    );
    verify(&signed)?;
    Ok(signed)
}

/// Checks every signature of a receipt and what it says of itself. Which of the signers one knows is for the caller to say.
pub fn verify(receipt: &str) -> Result<Verified, ReceiptError> {
    let parts = parts(receipt)?;
    let (_, first) = parts.signatures.first().ok_or(ReceiptError::Unsigned)?;
    for (n, (key, signature)) in parts.signatures.iter().enumerate() {
        let signed = match n {
            0 => [CONTEXT, parts.json.as_bytes()].concat(),
            _ => counter_signed(parts.json, first),
        };
        let fits = VerifyingKey::from_bytes(key)
            .and_then(|key| key.verify_strict(&signed, &Signature::from_bytes(signature)));
        fits.map_err(|_| ReceiptError::Forged(n + 1))?;
    }
    let keys: BTreeSet<&[u8; 32]> = parts.signatures.iter().map(|(key, _)| key).collect();
    if keys.len() < parts.signatures.len() {
        return Err(ReceiptError::Contradiction("one machine signed it twice"));
    }
    let body: Body =
        serde_json::from_str(parts.json).map_err(|error| ReceiptError::Body(error.to_string()))?;
    consistent(&body)?;
    stated(&body, &parts.signatures[0].0)?;
    Ok(Verified {
        body,
        signers: parts.signatures.iter().map(|(key, _)| *key).collect(),
    })
}

struct Parts<'r> {
    json: &'r str,
    signatures: Vec<([u8; 32], [u8; 64])>,
}

fn parts(receipt: &str) -> Result<Parts<'_>, ReceiptError> {
    if receipt.len() > BYTES_MAX {
        return Err(ReceiptError::TooLong);
    }
    let mut lines = receipt.strip_suffix('\n').unwrap_or(receipt).split('\n');
    if lines.next() != Some(FORM) {
        return Err(ReceiptError::Form);
    }
    let json = lines.next().ok_or(ReceiptError::Form)?;
    let signatures: Option<Vec<_>> = lines.map(signature).collect();
    let signatures = signatures.ok_or(ReceiptError::Form)?;
    if signatures.len() > SIGNATURES_MAX {
        return Err(ReceiptError::TooLong);
    }
    Ok(Parts { json, signatures })
}

/// `signed KEY SIGNATURE`, small hexadecimal digits only, so that there is one way to write it.
fn signature(line: &str) -> Option<([u8; 32], [u8; 64])> {
    let (key, signature) = line.strip_prefix("signed ")?.split_once(' ')?;
    let small = |text: &str| !text.bytes().any(|b| b.is_ascii_uppercase());
    (small(key) && small(signature)).then_some((hex::read(key).ok()?, hex::read(signature).ok()?))
}

fn line(key: &[u8; 32], signature: &[u8; 64]) -> String {
    format!("signed {} {}\n", hex::write(key), hex::write(signature))
}

/// Whether each node signed what the body says that it computed, for the machine with the key `desk`.
fn stated(body: &Body, desk: &[u8; 32]) -> Result<(), ReceiptError> {
    let wrong = body.computed.iter().find(|stated| !is_stated(body, desk, stated));
    wrong.map_or(Ok(()), |stated| Err(ReceiptError::Unstated(stated.node)))
}

/// Whether its node signed this, for the machine with the key `desk` and the model of the body.
pub fn is_stated(body: &Body, desk: &[u8; 32], stated: &Computed) -> bool {
    let fits = || {
        let node: [u8; 32] = hex::read(body.nodes.get(usize::from(stated.node))?).ok()?;
        let model: [u8; 32] = hex::read(&body.file).ok()?;
        let signature: [u8; 64] = hex::read(&stated.signature).ok()?;
        let signed = to_state(desk, &model, stated.session, stated.layers, stated.tokens);
        let key = VerifyingKey::from_bytes(&node).ok()?;
        key.verify_strict(&signed, &Signature::from_bytes(&signature))
            .ok()
    };
    fits().is_some()
}

fn counter_signed(json: &str, first: &[u8; 64]) -> Vec<u8> {
    [COUNTER_CONTEXT, first, json.as_bytes()].concat()
}

fn consistent(body: &Body) -> Result<(), ReceiptError> {
    let known = |node: u16| usize::from(node) < body.nodes.len();
    let nodes = body
        .places
        .iter()
        .map(|p| p.node)
        .chain(body.bytes.iter().map(|b| b.node));
    if !nodes.into_iter().all(known) {
        return Err(ReceiptError::Contradiction(
            "it names a machine that it does not list",
        ));
    }
    let forward = |place: &Place| place.tokens.0 <= place.tokens.1 && place.layers.0 <= place.layers.1;
    if !body.places.iter().all(forward) {
        return Err(ReceiptError::Contradiction("a range ends before it begins"));
    }
    if body.first_ms > body.total_ms {
        return Err(ReceiptError::Contradiction(
            "its last token came before its first",
        ));
    }
    Ok(())
}
