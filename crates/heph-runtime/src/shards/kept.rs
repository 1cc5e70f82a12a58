//! What is remembered on the disk: which layers were brought, and the outlines of files that were read through.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use heph_net::transfer::{FILE_BYTES_MAX, GROUP_BYTES, Outline};
use heph_types::{LayerRange, ModelHash, hex};
use serde::{Deserialize, Serialize};

use super::{FILES_MAX, Shard, ShardError, Shelf};

/// The record inside a model's folder.
const RECORD: &str = "part.json";

/// A record of 9,999 file names and as many ranges of layers is smaller.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// Ranges of layers that one record may hold: a model has no more that do not touch.
const RANGES_MAX: usize = 1_024;

/// The folder below HEPH's that holds outlines of files that are offered.
const OUTLINES: &str = "outlines";

/// Outlines that are kept; the oldest make room. One of 64 GiB has 32 MiB, one of 4 GiB has 2.
const OUTLINES_MAX: usize = 64;

/// An outline in bytes: the file's hash, and what travels.
const OUTLINE_BYTES_MAX: u64 = 32 + 8 + 32 * (FILE_BYTES_MAX / GROUP_BYTES);

/// What is remembered of one model.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// The only one so far is 1.
    version: u32,
    /// How many files the model has.
    files: usize,
    /// Layers that lie ready; no two ranges touch.
    layers: Vec<LayerRange>,
}

/// The folder's name: the hash in hexadecimal digits.
pub(super) fn name_of(model: ModelHash) -> String {
    hex::write(&model.0)
}

/// The model that a folder's name is of.
pub(super) fn model_of(name: &str) -> Option<ModelHash> {
    hex::read(name).ok().map(ModelHash)
}

/// Where the model's file with this number goes, counted from 0.
pub(super) fn file_in(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{:05}.gguf", number + 1))
}

impl Shelf {
    /// What lies ready of a model.
    pub(super) fn shards_of(&self, model: ModelHash) -> Result<Vec<Shard>, ShardError> {
        let folder = self.folder(model);
        let Some(record) = read_record(&folder)? else {
            return Ok(Vec::new());
        };
        let files: Vec<PathBuf> = (0..record.files).map(|number| file_in(&folder, number)).collect();
        let part = |layers| Shard {
            model,
            layers,
            files: files.clone(),
        };
        Ok(record.layers.into_iter().map(part).collect())
    }

    /// Remembers that these layers lie ready too, and gives the part that they belong to.
    pub(super) fn keep(
        &self,
        model: ModelHash,
        files: usize,
        layers: LayerRange,
    ) -> Result<Shard, ShardError> {
        let folder = self.folder(model);
        let mut ranges = read_record(&folder)?.unwrap_or_default().layers;
        ranges.push(layers);
        let ranges = joined(ranges);
        let record = Record {
            version: 1,
            files,
            layers: ranges,
        };
        let path = folder.join(RECORD);
        let text = serde_json::to_vec_pretty(&record).expect("numbers become JSON");
        replace(&path, &text).map_err(ShardError::disk("write", &path))?;
        let part = self.shard(model, layers)?;
        part.ok_or(ShardError::Kept { path })
    }
}

/// Ranges that touch or overlap become one.
fn joined(mut ranges: Vec<LayerRange>) -> Vec<LayerRange> {
    ranges.sort_by_key(|range| (range.start(), range.end()));
    let mut apart: Vec<LayerRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match apart.last_mut() {
            Some(last) if range.start() <= last.end() => {
                let end = last.end().max(range.end());
                *last = LayerRange::new(last.start(), end, end).expect("it ends after it starts");
            }
            _ => apart.push(range),
        }
    }
    apart
}

fn read_record(folder: &Path) -> Result<Option<Record>, ShardError> {
    let path = folder.join(RECORD);
    let bytes = match read_bounded(&path, RECORD_BYTES_MAX) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(ShardError::disk("read", &path))?,
    };
    let record: Option<Record> = serde_json::from_slice(&bytes).ok();
    let sound = |record: &Record| {
        record.version == 1 && (1..=FILES_MAX).contains(&record.files) && record.layers.len() <= RANGES_MAX
    };
    record.filter(sound).map(Some).ok_or(ShardError::Kept { path })
}

/// The outline of a file that was read through before and has not changed since; `None` where it has to be read.
pub(super) fn outline_of(home: &Path, path: &Path, file: &File) -> Option<Outline> {
    let kept = home.join(OUTLINES).join(key_of(path, file)?);
    let bytes = read_bounded(&kept, OUTLINE_BYTES_MAX).ok()?;
    let (hash, outline) = bytes.split_first_chunk()?;
    let outline = Outline::decode(*hash, outline)?;
    (outline.bytes() == file.metadata().ok()?.len()).then_some(outline)
}

/// Keeps an outline for the next start. It only saves time, so a disk that refuses costs nothing else.
pub(super) fn keep_outline_of(home: &Path, path: &Path, file: &File, outline: &Outline) {
    let folder = home.join(OUTLINES);
    let Some(key) = key_of(path, file) else { return };
    let _ = make_room(&folder).and_then(|()| {
        replace(
            &folder.join(key),
            &[&outline.hash()[..], &outline.encode()].concat(),
        )
    });
}

/// Names a file in the state that it is in: its path, its length, when it was written last.
fn key_of(path: &Path, file: &File) -> Option<String> {
    let about = file.metadata().ok()?;
    let written = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&about.len().to_le_bytes());
    hasher.update(&written.as_nanos().to_le_bytes());
    hasher.update(fs::canonicalize(path).ok()?.as_os_str().as_encoded_bytes());
    Some(hasher.finalize().to_hex().to_string())
}

fn make_room(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let entries = fs::read_dir(folder)?.flatten();
    let mut kept: Vec<_> = entries
        .map(|e| (e.metadata().and_then(|m| m.modified()).ok(), e.path()))
        .collect();
    kept.sort();
    let over = (kept.len() + 1).saturating_sub(OUTLINES_MAX);
    kept[..over]
        .iter()
        .try_for_each(|(_, path)| fs::remove_file(path))
}

fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > bytes_max {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long")),
        false => Ok(bytes),
    }
}

/// The new file or the old one, never a mixture.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut beside = tempfile::NamedTempFile::new_in(folder)?;
    beside.write_all(bytes)?;
    beside.as_file().sync_all()?;
    beside.persist(path).map_err(|refused| refused.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: usize, end: usize) -> LayerRange {
        LayerRange::new(start, end, 99).unwrap()
    }

    #[test]
    fn ranges_that_touch_are_one_part() {
        let joined = joined(vec![
            range(8, 9),
            range(0, 0),
            range(2, 4),
            range(0, 2),
            range(9, 9),
            range(6, 7),
        ]);
        assert_eq!(joined, [range(0, 4), range(6, 7), range(8, 9)]);
    }

    #[test]
    fn a_record_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for damage in [
            "",
            "{",
            "{\"version\":2,\"files\":1,\"layers\":[]}",
            "{\"version\":1,\"files\":0,\"layers\":[]}",
        ] {
            fs::write(folder.path().join(RECORD), damage).unwrap();
            assert!(
                matches!(read_record(folder.path()), Err(ShardError::Kept { .. })),
                "{damage}"
            );
        }
        fs::write(
            folder.path().join(RECORD),
            "{\"version\":1,\"files\":1,\"layers\":[[4,2]]}",
        )
        .unwrap();
        assert!(
            read_record(folder.path()).is_err(),
            "layers that end before they start"
        );
    }

    #[test]
    fn an_outline_is_taken_again_only_for_the_same_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("model");
        fs::write(&path, vec![1; 200_000]).unwrap();
        let outline = Outline::of(&mut File::open(&path).unwrap()).unwrap();
        keep_outline_of(home.path(), &path, &File::open(&path).unwrap(), &outline);
        assert_eq!(
            outline_of(home.path(), &path, &File::open(&path).unwrap()),
            Some(outline)
        );
        fs::write(&path, vec![1; 200_001]).unwrap();
        assert_eq!(outline_of(home.path(), &path, &File::open(&path).unwrap()), None);
        for at in 0..OUTLINES_MAX + 5 {
            fs::write(home.path().join(OUTLINES).join(format!("{at}")), "x").unwrap();
        }
        make_room(&home.path().join(OUTLINES)).unwrap();
        assert_eq!(
            fs::read_dir(home.path().join(OUTLINES)).unwrap().count(),
            OUTLINES_MAX - 1
        );
    }
}
