//! Addresses of crypto currencies, by their checksums.

use sha2::{Digest, Sha256};
use sha3::Keccak256;

const BITCOIN: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const RIPPLE: &[u8; 58] = b"rpshnaf39wBUDNEGHJKLM4PQRST7VWXYZ2bcdeCg65jkm8oFqi1tuvAxyz";

/// What a word of letters and digits is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wallet {
    /// An address money can be sent to.
    Address(&'static str),
    /// A key that spends it.
    Key,
}

/// The wallet that `word` names.
pub(super) fn wallet(word: &[u8]) -> Option<Wallet> {
    match word.len() {
        42 if word.starts_with(b"0x") && ethereum(&word[2..]) => Some(Wallet::Address("ETH")),
        26..=36 | 51 | 52 => base58(word).or_else(|| bech32(word)),
        14..=110 => bech32(word),
        _ => None,
    }
}

/// Forty hexadecimal digits; where capitals and small letters are mixed, they are the checksum of EIP-55.
fn ethereum(hex: &[u8]) -> bool {
    if !hex.iter().all(u8::is_ascii_hexdigit) || hex.windows(8).any(|w| w.iter().all(|b| *b == w[0])) {
        return false;
    }
    let (upper, lower) = (
        hex.iter().any(u8::is_ascii_uppercase),
        hex.iter().any(u8::is_ascii_lowercase),
    );
    if !(upper && lower) {
        return true;
    }
    let hash = Keccak256::digest(hex.to_ascii_lowercase());
    hex.iter()
        .enumerate()
        .filter(|(_, b)| b.is_ascii_alphabetic())
        .all(|(i, b)| {
            let nibble = if i % 2 == 0 {
                hash[i / 2] >> 4
            } else {
                hash[i / 2] & 15
            };
            b.is_ascii_uppercase() == (nibble > 7)
        })
}

/// The bytes that `word` spells in base 58, at most 40.
fn spelled(word: &[u8], alphabet: &[u8; 58]) -> Option<Vec<u8>> {
    // Little end first while it is made.
    let mut bytes: Vec<u8> = Vec::with_capacity(40);
    for byte in word {
        let mut carry = alphabet.iter().position(|b| b == byte)? as u32;
        for place in &mut bytes {
            carry += u32::from(*place) * 58;
            *place = carry as u8;
            carry >>= 8;
        }
        while carry > 0 {
            bytes.push(carry as u8);
            carry >>= 8;
        }
    }
    let zeros = word.iter().take_while(|b| **b == alphabet[0]).count();
    bytes.extend(std::iter::repeat_n(0, zeros));
    bytes.reverse();
    Some(bytes)
}

/// Base 58 whose last four bytes are the double hash of the rest.
fn base58(word: &[u8]) -> Option<Wallet> {
    let alphabet = if word[0] == b'r' { RIPPLE } else { BITCOIN };
    let bytes = spelled(word, alphabet)?;
    let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    if Sha256::digest(Sha256::digest(body))[..4] != *check {
        return None;
    }
    match (body.len(), body[0]) {
        (21, _) if word[0] == b'r' => Some(Wallet::Address("XRP")),
        (21, 0 | 5 | 0x6f | 0xc4) => Some(Wallet::Address("BTC")),
        (21, 0x30 | 0x32) => Some(Wallet::Address("LTC")),
        (21, 0x1e | 0x16) => Some(Wallet::Address("DOGE")),
        (21, 0x4c | 0x10) => Some(Wallet::Address("DASH")),
        (21, 0x41) => Some(Wallet::Address("TRX")),
        (22, 0x1c) => Some(Wallet::Address("ZEC")),
        (33 | 34, 0x80 | 0xb0 | 0xef) => Some(Wallet::Key),
        _ => None,
    }
}

/// Heads of bech32 words that name a wallet, with the currency.
const HEADS: &[(&str, &str)] = &[
    ("bc", "BTC"),
    ("tb", "BTC"),
    ("ltc", "LTC"),
    ("addr", "ADA"),
    ("stake", "ADA"),
    ("cosmos", "ATOM"),
    ("bnb", "BNB"),
    ("osmo", "OSMO"),
    ("zs", "ZEC"),
];

/// The checksums of BIP 173 and BIP 350.
fn bech32(word: &[u8]) -> Option<Wallet> {
    const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    let lower = word.to_ascii_lowercase();
    if word != lower && word != word.to_ascii_uppercase() {
        return None;
    }
    let split = lower.iter().rposition(|b| *b == b'1')?;
    let (head, data) = (&lower[..split], &lower[split + 1..]);
    let (_, currency) = HEADS.iter().find(|(h, _)| h.as_bytes() == head)?;
    let values: Option<Vec<u32>> = data
        .iter()
        .map(|b| ALPHABET.iter().position(|a| a == b).map(|p| p as u32))
        .collect();
    let expanded = head
        .iter()
        .map(|b| u32::from(b >> 5))
        .chain([0])
        .chain(head.iter().map(|b| u32::from(b & 31)));
    let sum = expanded
        .chain(values.filter(|v| v.len() > 6)?)
        .fold(1_u32, |sum, value| {
            let top = sum >> 25;
            let next = (sum & 0x01ff_ffff) << 5 ^ value;
            [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3]
                .iter()
                .enumerate()
                .fold(next, |s, (i, g)| if top >> i & 1 == 1 { s ^ g } else { s })
        });
    matches!(sum, 1 | 0x2bc8_30a3).then_some(Wallet::Address(currency))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses that the standards themselves give as examples, and the first block's.
    const KNOWN: &[(&str, &str)] = &[
        ("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "BTC"),
        ("3P14159f73E4gFr7JterCCQh9QjiTjiZrG", "BTC"),
        ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "BTC"),
        (
            "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0",
            "BTC",
        ),
        ("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "ETH"),
        ("0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed", "ETH"),
        ("rHb9CJAWyB4rj91VRWn96DkukG4bwdtyTh", "XRP"),
    ];

    #[test]
    fn known_addresses_are_found_and_changed_ones_are_not() {
        for (address, currency) in KNOWN {
            assert_eq!(
                wallet(address.as_bytes()),
                Some(Wallet::Address(currency)),
                "{address}"
            );
            let mut changed = address.as_bytes().to_vec();
            let last = changed.len() - 2;
            changed[last] = if changed[last] == b'q' { b'p' } else { b'q' };
            assert_eq!(wallet(&changed), None, "{address}");
        }
    }
}
