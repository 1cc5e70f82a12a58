//! What a model is called among machines: the hash of its files.

use std::fs::File;
use std::path::Path;

use heph_types::ModelHash;

use super::{FileRecord, Found, StoreError};

impl Found {
    /// The hash of the model's files: of the file itself where there is one, else of all their hashes in order. Names do
    /// not count, so that the same weights are the same model on every machine. A model that is given by path is read
    /// through once.
    ///
    /// # Errors
    /// When a file cannot be read, or the record of a stored model holds something else than hashes.
    pub fn model_hash(&self) -> Result<ModelHash, StoreError> {
        let hashes = match self {
            Found::Bundled(model) => vec![blake3::hash(model.bytes)],
            Found::Stored(folder, record) => {
                let read = |file: &FileRecord| blake3::Hash::from_hex(&file.blake3);
                let hashes: Result<Vec<_>, _> = record.files.iter().map(read).collect();
                hashes.map_err(|cause| StoreError::Record {
                    path: folder.join(super::RECORD),
                    reason: cause.to_string(),
                })?
            }
            Found::Path(files) => files
                .paths()?
                .iter()
                .map(|path| hash_of(path))
                .collect::<Result<_, _>>()?,
        };
        Ok(ModelHash(match hashes[..] {
            [one] => one.into(),
            _ => {
                let all: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
                blake3::derive_key("HEPH 2026-11 model of several files", &all)
            }
        }))
    }
}

fn hash_of(path: &Path) -> Result<blake3::Hash, StoreError> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(StoreError::io("read", path))?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::bundled::STORY_DRAFT;
    use crate::cancel::Cancel;
    use crate::store::{Found, ModelName, Store, find_files};

    #[test]
    fn the_same_file_is_the_same_model_wherever_it_lies_and_whatever_it_is_called() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("renamed.gguf");
        fs::write(&path, STORY_DRAFT.bytes).unwrap();
        let store = Store::new(folder.path().join("models"));
        let name = ModelName::new("mine").unwrap();
        store.import(&path, &name, &Cancel::new(), &mut |_| {}).unwrap();
        let hash = Found::Bundled(STORY_DRAFT).model_hash().unwrap();
        assert_eq!(store.find("mine").unwrap().model_hash().unwrap(), hash);
        let found = Found::Path(find_files(&path).unwrap());
        assert_eq!(found.model_hash().unwrap(), hash);
        fs::write(&path, &STORY_DRAFT.bytes[1..]).unwrap();
        assert_ne!(found.model_hash().unwrap(), hash);
    }
}
