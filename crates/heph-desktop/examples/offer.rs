//! Signs a newer version of the window as a place for updates offers it, with a pair of keys that nobody else has: `offer FILE VERSION`.
//!
//! Writes one JSON object: `key` as `HEPH_UPDATE_KEY` takes it, the file's `signature` under that version, and one of `another` key.
//! Tests of the window offer such files. Who publishes versions keeps a key, and signs with `tauri signer sign --app-version`.

use std::error::Error;
use std::io::{Write, stdout};

use base64::Engine as _;
use minisign::KeyPair;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(file), Some(version)) = (words.next(), words.next()) else {
        return Err("offer FILE VERSION".into());
    };
    let bytes = std::fs::read(file)?;
    let comment = format!("timestamp:1\tversion:{version}");
    let signed = |keys: &KeyPair| {
        minisign::sign(Some(&keys.pk), &keys.sk, bytes.as_slice(), Some(&comment), None)
            .map(|signature| base64(signature.into_string()))
    };
    let (keys, another) = (
        KeyPair::generate_unencrypted_keypair()?,
        KeyPair::generate_unencrypted_keypair()?,
    );
    let offer = serde_json::json!({
        "key": base64(keys.pk.to_box()?.to_string()), "signature": signed(&keys)?, "another": signed(&another)?,
    });
    writeln!(stdout(), "{offer}")?;
    Ok(())
}

fn base64(text: String) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}
