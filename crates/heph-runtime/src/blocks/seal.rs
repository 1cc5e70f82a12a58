//! What keeps blocks on disk to those who have this folder's key: names that tell nothing, and bytes that do not either.
//!
//! The key lies in a private file apart from the blocks, so that a copy of these alone, or a disk that they went to, is worth
//! nothing. From it follow, by BLAKE3, a key for names and one for AES-256-GCM; a label that is to have blocks of its own would
//! have keys of its own.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use heph_engine::prefix::BlockKey;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// The file of the key, below HEPH's home folder.
const FILE: &str = "keys/prefixes";

/// Bytes of the key.
const KEY_BYTES: usize = 32;

/// What is sealed is longer by so much.
pub(super) const TAG_BYTES: usize = 16;

/// Bytes that are drawn anew for each seal.
pub(super) const FRESH_BYTES: usize = NONCE_LEN;

/// For what no label has keys of its own.
const UNLABELLED: &[u8] = b"";

/// What is drawn for one seal: never the same twice, with one chance in 2^32 at four billion blocks.
pub(super) type Fresh = [u8; FRESH_BYTES];

/// The keys of one folder.
#[derive(Debug)]
pub(super) struct Seal {
    names: [u8; KEY_BYTES],
    key: LessSafeKey,
}

impl Seal {
    /// With the key of `home`, which is made where there is none. A file that holds none is replaced: what was sealed with
    /// what it held is computed again.
    pub(super) fn of(home: &Path) -> io::Result<Self> {
        let path = home.join(FILE);
        let found = match fs::read(&path) {
            Ok(bytes) => bytes.try_into().ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let master = match found {
            Some(master) => master,
            None => made(&path)?,
        };
        Self::with(&master, UNLABELLED)
    }

    fn with(master: &[u8; KEY_BYTES], label: &[u8]) -> io::Result<Self> {
        let key = |purpose: &str| -> [u8; KEY_BYTES] {
            let mut hasher = blake3::Hasher::new_derive_key(purpose);
            hasher.update(master).update(label);
            hasher.finalize().into()
        };
        let sealing = UnboundKey::new(&AES_256_GCM, &key("HEPH 2026-11 seals of blocks on disk"));
        Ok(Self {
            names: key("HEPH 2026-11 names of blocks on disk"),
            key: LessSafeKey::new(sealing.map_err(io::Error::other)?),
        })
    }

    /// What the file of a block is called: nobody without the key can ask the folder for a prompt.
    pub(super) fn name(&self, block: &BlockKey) -> blake3::Hash {
        blake3::keyed_hash(&self.names, &block.0)
    }

    /// Something fresh.
    pub(super) fn fresh() -> io::Result<Fresh> {
        let mut fresh = [0; FRESH_BYTES];
        getrandom::fill(&mut fresh).map_err(io::Error::other)?;
        Ok(fresh)
    }

    /// Seals `bytes` in their place, together with `beside`, which is not hidden.
    pub(super) fn close(&self, fresh: Fresh, beside: &[u8], bytes: &mut Vec<u8>) -> io::Result<()> {
        let nonce = Nonce::assume_unique_for_key(fresh);
        let sealed = self.key.seal_in_place_append_tag(nonce, Aad::from(beside), bytes);
        sealed.map_err(io::Error::other)
    }

    /// What was sealed, in its place; `None` where a bit of it, of `beside` or of the key is another.
    pub(super) fn open(&self, fresh: Fresh, beside: &[u8], mut sealed: Vec<u8>) -> Option<Vec<u8>> {
        let nonce = Nonce::assume_unique_for_key(fresh);
        let opened = self.key.open_in_place(nonce, Aad::from(beside), &mut sealed);
        let length = opened.ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

/// A new key in the file, which only this user may read.
fn made(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let mut master = [0; KEY_BYTES];
    getrandom::fill(&mut master).map_err(io::Error::other)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // Files of this kind are private from the start.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&master)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(master)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_private_and_the_same_again() {
        let home = tempfile::tempdir().unwrap();
        let first = Seal::of(home.path()).unwrap();
        let block = BlockKey([7; 32]);
        assert_eq!(Seal::of(home.path()).unwrap().name(&block), first.name(&block));
        let path = home.path().join(FILE);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        fs::write(&path, "half of a key").unwrap();
        let other = Seal::of(home.path()).unwrap();
        assert_ne!(other.name(&block), first.name(&block));
        assert_eq!(Seal::of(home.path()).unwrap().name(&block), other.name(&block));
        let labelled = Seal::with(&[1; 32], b"a label").unwrap();
        assert_ne!(
            labelled.name(&block),
            Seal::with(&[1; 32], UNLABELLED).unwrap().name(&block)
        );
    }

    #[test]
    fn what_is_sealed_opens_whole_or_not_at_all() {
        let (ours, other) = (
            Seal::with(&[1; 32], b"").unwrap(),
            Seal::with(&[2; 32], b"").unwrap(),
        );
        let fresh = Seal::fresh().unwrap();
        assert_ne!(fresh, Seal::fresh().unwrap());
        let mut sealed = b"keys and values".to_vec();
        ours.close(fresh, b"beside", &mut sealed).unwrap();
        assert_eq!(sealed.len(), 15 + TAG_BYTES);
        assert_eq!(
            ours.open(fresh, b"beside", sealed.clone()).as_deref(),
            Some(&b"keys and values"[..])
        );
        assert_eq!(other.open(fresh, b"beside", sealed.clone()), None);
        assert_eq!(ours.open(fresh, b"beside it", sealed.clone()), None);
        for at in 0..sealed.len() * 8 {
            let mut wrong = sealed.clone();
            wrong[at / 8] ^= 1 << (at % 8);
            assert_eq!(ours.open(fresh, b"beside", wrong), None);
        }
        for length in 0..sealed.len() {
            assert_eq!(ours.open(fresh, b"beside", sealed[..length].to_vec()), None);
        }
    }
}
