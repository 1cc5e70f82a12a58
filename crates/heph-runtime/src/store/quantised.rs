//! A model of the store in another format, as a model of its own.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};

use heph_engine::quantize::{self, FileType, QuantizeError};
use heph_engine::source::Source;
use heph_kernels::pool::Pool;

use super::{Errand, FileRecord, Format, ModelName, Origin, Progress, Record, Store, StoreError};
use crate::cancel::Cancel;

/// Why there is no such model.
#[derive(Debug, thiserror::Error)]
pub enum QuantisedError {
    /// The store has no place for it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be written in that format.
    #[error(transparent)]
    Format(QuantizeError),
}

/// Bytes of the weights of `source` in a file of this type; what stands before them is a few megabytes more.
pub fn bytes_as(source: &Source, file_type: FileType) -> u64 {
    let formats = quantize::plan(source, file_type);
    let sizes = formats.iter().filter_map(|(name, format)| {
        let spec = source.tensor(name)?.spec;
        let rows = (spec.rows as u64).saturating_mul(spec.experts as u64);
        Some((format.row_bytes(spec.cols)? as u64).saturating_mul(rows))
    });
    sizes.fold(0, u64::saturating_add)
}

impl Store {
    /// Writes `source`, which is called `of`, in another format as the model `name`. `progress` counts weights, not bytes.
    ///
    /// # Errors
    /// When the name is taken, the model cannot be said in that format, the disk is full, or `cancel` is raised; the store is
    /// then as it was.
    pub fn quantise(
        &self,
        (of, source): (&str, &Source),
        file_type: FileType,
        name: &ModelName,
        pool: &Pool,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Record, QuantisedError> {
        let staging = self.stage_as(name, Errand::Import)?;
        let file_name = format!("{name}.gguf");
        let path = staging.folder().join(&file_name);
        let made = || {
            let file = File::create(&path).map_err(StoreError::io("write", &path))?;
            let counted = Counted {
                file: BufWriter::new(file),
                hasher: blake3::Hasher::new(),
                bytes: 0,
                cancel,
            };
            let mut step = |p: quantize::Progress<'_>| {
                progress(Progress {
                    done: p.done,
                    total: Some(p.total),
                });
            };
            let known_as = source.config().name.as_deref().unwrap_or(of);
            let written = quantize::write(source, file_type, known_as, pool, counted, &mut step);
            let written = written.map_err(|error| match error {
                _ if cancel.is_raised() => StoreError::Stopped.into(),
                QuantizeError::Write(cause) => StoreError::io("write", &path)(cause).into(),
                error => QuantisedError::Format(error),
            })?;
            let (bytes, hash) = (written.bytes, written.hasher.finalize());
            let file = written.file.into_inner().map_err(io::IntoInnerError::into_error);
            let synced = file.and_then(|file| file.sync_all());
            synced.map_err(StoreError::io("write", &path))?;
            let record = FileRecord {
                name: file_name,
                bytes,
                blake3: hash.to_hex().to_string(),
                sha256: None,
            };
            let origin = Origin::Quantised {
                from: of.to_owned(),
                file_type: file_type.name().to_owned(),
            };
            Ok(staging.publish(Format::Gguf, vec![record], origin)?)
        };
        let made: Result<Record, QuantisedError> = made();
        if made.is_err() {
            // Best effort, as with an import.
            let _ = fs::remove_file(&path);
            staging.discard();
        }
        made
    }
}

/// A file that is hashed while it is written, and takes nothing more once somebody wants to stop.
struct Counted<'a> {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
    cancel: &'a Cancel,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancel.is_raised() {
            return Err(io::Error::other("stopped"));
        }
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundled;
    use crate::open;
    use crate::store::Found;

    #[test]
    fn a_model_is_written_in_another_format_and_found_by_its_name() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(home.path().join("models"));
        let source = open::open(&store.find(bundled::STORY.name).unwrap()).unwrap();
        let (name, pool) = (ModelName::new("story-small").unwrap(), Pool::new(2));
        let mut last = None;
        let mut make = |name: &ModelName, cancel: &Cancel| {
            let mut step = |p: Progress| last = Some(p);
            let of = (bundled::STORY.name, &source);
            store.quantise(of, FileType::Q8_0, name, &pool, cancel, &mut step)
        };
        let stopped = Cancel::new();
        stopped.raise();
        assert!(matches!(
            make(&name, &stopped),
            Err(QuantisedError::Store(StoreError::Stopped))
        ));
        assert!(matches!(
            store.find("story-small"),
            Err(StoreError::Unknown { .. })
        ));
        let record = make(&name, &Cancel::new()).unwrap();
        let Ok(Found::Stored(folder, found)) = store.find("story-small") else {
            panic!("it is not there");
        };
        assert_eq!(*found, record);
        let file = folder.join(&record.files[0].name);
        let bytes = fs::read(&file).unwrap();
        assert_eq!(record.files[0].blake3, blake3::hash(&bytes).to_hex().to_string());
        let told = bytes_as(&source, FileType::Q8_0);
        assert!(
            told <= record.bytes() && record.bytes() < told + (8 << 20),
            "{told} {}",
            record.bytes()
        );
        assert!(matches!(
            make(&name, &Cancel::new()),
            Err(QuantisedError::Store(StoreError::Taken(_)))
        ));
        assert!(last.is_some_and(|p| Some(p.done) == p.total));
    }
}
