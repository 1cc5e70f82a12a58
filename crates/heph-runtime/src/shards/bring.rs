//! Bringing a part: first what every part needs, which says where the layers lie; then those.

use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use heph_engine::gguf::{Gguf, GgufError};
use heph_engine::model::places;
use heph_engine::source::{FileBytes, Source, beyond_layers};
use heph_net::endpoint::Connection;
use heph_net::transfer::{self, GROUP_BYTES, Outline, Progress, TransferError};
use heph_types::{LayerRange, ModelHash};

use super::kept::file_in;
use super::{FILES_MAX, LIST_TITLE, Shard, ShardError, Shelf};
use crate::open;

/// A header of 64 MiB would hold a vocabulary of a million words with merges.
const HEADER_BYTES_MAX: u64 = 64 << 20;

/// What is tried first for a header; doubled until it is all there, so that at most as much again travels for nothing.
const HEADER_BYTES_TRIED: u64 = GROUP_BYTES;

impl Shelf {
    /// As [`Shelf::bring`], over connections that are open.
    pub(super) async fn bring_from(
        &self,
        sources: &[Connection],
        model: ModelHash,
        layers: LayerRange,
        allowed_bytes: u64,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Shard, ShardError> {
        let folder = self.folder(model);
        fs::create_dir_all(&folder).map_err(ShardError::disk("make", &folder))?;
        let mut bringing = Bringing {
            sources,
            folder: &folder,
            allowed_bytes,
            progress,
        };
        let outlines = bringing.outlines(model).await?;
        let mut ranges = Vec::new();
        for (number, outline) in outlines.iter().enumerate() {
            ranges.push(bringing.beyond_layers(number, outline).await?);
        }
        for (file, range) in bringing.layers(outlines.len(), layers)? {
            ranges[file].push(range);
        }
        bringing.fetch_all(&outlines, &ranges).await?;
        self.keep(model, outlines.len(), layers)
    }
}

/// One part under way.
struct Bringing<'a> {
    sources: &'a [Connection],
    folder: &'a Path,
    allowed_bytes: u64,
    progress: &'a mut (dyn FnMut(Progress) + Send),
}

impl Bringing<'_> {
    /// The outlines of the model's files. A model of several is a list of their hashes.
    async fn outlines(&mut self, model: ModelHash) -> Result<Vec<Outline>, ShardError> {
        let first = self.outline(model.0).await?;
        let path = file_in(self.folder, 0);
        let beginning = 0..first.bytes().min(GROUP_BYTES);
        let is_list = |bytes: &[u8]| bytes.starts_with(LIST_TITLE);
        let list_path = self.folder.join("list");
        self.fetch(&first, std::slice::from_ref(&beginning), &list_path)
            .await?;
        let mut head = vec![0; beginning.end as usize];
        let read = File::open(&list_path).and_then(|mut file| file.read_exact(&mut head));
        read.map_err(ShardError::disk("read", &list_path))?;
        if !is_list(&head) {
            // It is the model itself; what stands of it from an earlier try is the better beginning.
            let kept = match path.exists() {
                true => fs::remove_file(&list_path),
                false => fs::rename(&list_path, &path),
            };
            kept.map_err(ShardError::disk("name", &path))?;
            return Ok(vec![first]);
        }
        let list_bytes_max = (LIST_TITLE.len() + 32 * FILES_MAX) as u64;
        if first.bytes() > list_bytes_max {
            return Err(ShardError::List);
        }
        let all = 0..first.bytes();
        self.fetch(&first, std::slice::from_ref(&all), &list_path).await?;
        let list = fs::read(&list_path).map_err(ShardError::disk("read", &list_path))?;
        let (hashes, rest) = list[LIST_TITLE.len()..].as_chunks();
        if hashes.is_empty() || !rest.is_empty() {
            return Err(ShardError::List);
        }
        let mut outlines = Vec::with_capacity(hashes.len());
        for hash in hashes {
            outlines.push(self.outline(*hash).await?);
        }
        Ok(outlines)
    }

    /// From the first source that has it.
    async fn outline(&mut self, hash: [u8; 32]) -> Result<Outline, ShardError> {
        let mut trouble = TransferError::NoSource;
        for source in self.sources {
            match transfer::outline(source, hash).await {
                Ok(outline) => return Ok(outline),
                Err(cause) => trouble = cause,
            }
        }
        Err(trouble.into())
    }

    /// Brings what is read of a file whatever the layers, and says where that is.
    async fn beyond_layers(
        &mut self,
        number: usize,
        outline: &Outline,
    ) -> Result<Vec<Range<u64>>, ShardError> {
        let path = file_in(self.folder, number);
        let mut tried = HEADER_BYTES_TRIED;
        loop {
            let beginning = 0..tried.min(outline.bytes());
            self.fetch(outline, std::slice::from_ref(&beginning), &path)
                .await?;
            let mapped = open::map(&path)?;
            match Gguf::header_bytes(&mapped.bytes()[..beginning.end as usize]) {
                Ok(_) => return Ok(beyond_layers(mapped.bytes())?),
                Err(GgufError::Truncated { .. })
                    if beginning.end < outline.bytes() && tried < HEADER_BYTES_MAX =>
                {
                    tried *= 2;
                }
                Err(GgufError::Magic) => return Err(ShardError::NotGguf),
                Err(cause) => return Err(cause.into()),
            }
        }
    }

    /// Where the layers lie: file and range.
    fn layers(&self, files: usize, layers: LayerRange) -> Result<Vec<(usize, Range<u64>)>, ShardError> {
        let map = |number| open::map(&file_in(self.folder, number));
        let files = (0..files)
            .map(map)
            .collect::<Result<Vec<Arc<dyn FileBytes>>, _>>()?;
        let source = Source::from_gguf(files)?;
        let count = source.config().layers;
        if layers.end() > count {
            return Err(ShardError::Layers { layers, count });
        }
        Ok(places(&source, layers)?)
    }

    /// Brings everything, file after file, with one count of bytes over all.
    async fn fetch_all(
        &mut self,
        outlines: &[Outline],
        ranges: &[Vec<Range<u64>>],
    ) -> Result<(), ShardError> {
        let mut total_bytes = 0;
        for (outline, ranges) in outlines.iter().zip(ranges) {
            total_bytes += outline.bytes_touched(ranges)?;
        }
        if total_bytes > self.allowed_bytes {
            return Err(ShardError::Transfer(TransferError::NoRoom {
                needed_bytes: total_bytes,
                allowed_bytes: self.allowed_bytes,
            }));
        }
        let mut before = 0;
        for (number, (outline, ranges)) in outlines.iter().zip(ranges).enumerate() {
            let path = file_in(self.folder, number);
            let progress = &mut *self.progress;
            let mut step = |step: Progress| {
                let done_bytes = before + step.done_bytes;
                progress(Progress {
                    done_bytes,
                    total_bytes,
                });
            };
            transfer::fetch(
                self.sources,
                outline,
                ranges,
                &path,
                self.allowed_bytes,
                &mut step,
            )
            .await?;
            before += outline.bytes_touched(ranges)?;
        }
        Ok(())
    }

    async fn fetch(
        &mut self,
        outline: &Outline,
        ranges: &[Range<u64>],
        path: &Path,
    ) -> Result<(), ShardError> {
        transfer::fetch(
            self.sources,
            outline,
            ranges,
            path,
            self.allowed_bytes,
            &mut |_| {},
        )
        .await?;
        Ok(())
    }
}
