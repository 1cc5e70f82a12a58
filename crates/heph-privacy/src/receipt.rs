//! Receipts: what left for an answer, where to, by which rule, and who computed what; signed, so that nobody changes it later.
//!
//! A receipt is text: a line that names its form, a line of JSON, and a line for each signature. The first signature is that of the
//! machine that asked; nodes sign the same body and that first signature. What the body says of other machines is what the first
//! signer says: a counter-signature tells that its signer agrees.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::hex;
use crate::label::Level;
use crate::policy::Kind;

/// No receipt is longer, in bytes.
pub const BYTES_MAX: usize = 64 << 10;

/// No receipt has more signatures.
pub const SIGNATURES_MAX: usize = 64;

const FORM: &str = "heph-receipt 1";
const CONTEXT: &[u8] = b"heph receipt v1\n";
const COUNTER_CONTEXT: &[u8] = b"heph receipt v1, counter-signed\n";

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
    /// Machines that took part; the other fields name them by their place in this list.
    pub nodes: Vec<String>,
    /// Who computed which tokens and layers.
    pub places: Vec<Place>,
    /// What crossed the network.
    pub bytes: Vec<Bytes>,
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

/// A receipt, signed by the machine that asked.
pub fn sign(body: &Body, key: &SigningKey) -> Result<String, ReceiptError> {
    consistent(body)?;
    let json = serde_json::to_string(body).map_err(|error| ReceiptError::Body(error.to_string()))?;
    let signature = key.sign(&[CONTEXT, json.as_bytes()].concat());
    Ok(format!("{FORM}\n{json}\n{}", line(key, &signature)))
}

/// The receipt with one more signature. Whoever counter-signs looks at the body first: [`verify`] gives it.
pub fn counter_sign(receipt: &str, key: &SigningKey) -> Result<String, ReceiptError> {
    let parts = parts(receipt)?;
    verify(receipt)?;
    if parts.signatures.len() >= SIGNATURES_MAX {
        return Err(ReceiptError::TooLong);
    }
    let signature = key.sign(&counter_signed(parts.json, &parts.signatures[0].1));
    Ok(format!(
        "{}\n{}",
        receipt.trim_end_matches('\n'),
        line(key, &signature)
    ))
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
    let body: Body =
        serde_json::from_str(parts.json).map_err(|error| ReceiptError::Body(error.to_string()))?;
    consistent(&body)?;
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
    (small(key) && small(signature)).then_some((hex::read(key)?, hex::read(signature)?))
}

fn line(key: &SigningKey, signature: &Signature) -> String {
    format!(
        "signed {} {}\n",
        hex::write(key.verifying_key().as_bytes()),
        hex::write(&signature.to_bytes())
    )
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
