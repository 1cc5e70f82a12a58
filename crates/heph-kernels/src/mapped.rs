//! A file in memory without a copy: weights are read from the page cache of the system.
//!
//! The one place where mapping, which Rust calls unsafe, is vouched for. The caller opens the file; this
//! crate opens none.

#[cfg(not(target_arch = "wasm32"))]
pub use mapping::MappedFile;

#[cfg(target_arch = "wasm32")]
pub use copy::MappedFile;

#[cfg(not(target_arch = "wasm32"))]
mod mapping {
    use std::fs::File;
    use std::io;
    use std::ops::{Deref, Range};

    /// The bytes of a file, read from disk when they are first looked at.
    ///
    /// The length is that of the file when it was mapped. Two hazards remain that no program can check
    /// away: if another process shortens the file, reading behind its new end stops this process with a
    /// signal; if another process writes to it, bytes change under the reader. Model files are therefore
    /// replaced by renaming a new one over them, never written in place, and a hash is checked before a
    /// file is mapped, not after.
    pub struct MappedFile {
        map: memmap2::Mmap,
    }

    impl MappedFile {
        /// Maps the whole of `file` for reading. An empty file gives no bytes.
        ///
        /// # Errors
        /// When the system refuses, or the file's length changed meanwhile.
        pub fn new(file: &File) -> io::Result<MappedFile> {
            let len = length(file)?;
            // SAFETY: the map is read-only and private to this value; the type's documentation names the
            // rule under which nobody else changes the file.
            let map = unsafe { memmap2::MmapOptions::new().len(len).map(file)? };
            if length(file)? != len {
                return Err(io::Error::other(
                    "the file changed its length while it was being mapped",
                ));
            }
            Ok(MappedFile { map })
        }

        /// Tells the system that the bytes in `range` will not be looked at again soon, so that they stop
        /// counting as memory of this process. Looking again reads them from the file again.
        ///
        /// Only pages that lie wholly inside `range` are released. Systems without such a call keep them.
        ///
        /// # Panics
        /// When `range` is not within the file.
        pub fn release(&self, range: Range<usize>) {
            assert!(
                range.start <= range.end && range.end <= self.map.len(),
                "{range:?} of {}",
                self.map.len()
            );
            let start = range.start.next_multiple_of(GRANULE);
            let end = if range.end == self.map.len() {
                range.end
            } else {
                range.end / GRANULE * GRANULE
            };
            if start < end {
                advise(&self.map, start, end - start);
            }
        }
    }

    /// No system maps in pages larger than this, so whole granules are whole pages.
    const GRANULE: usize = 65_536;

    #[cfg(unix)]
    fn advise(map: &memmap2::Mmap, start: usize, len: usize) {
        // SAFETY: the map is of a file and never written, so the dropped pages come back as they were.
        // A refusal leaves memory in use and nothing else, so it is no error.
        let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
    }

    #[cfg(not(unix))]
    fn advise(_: &memmap2::Mmap, _: usize, _: usize) {}

    fn length(file: &File) -> io::Result<usize> {
        let len = file.metadata()?.len();
        usize::try_from(len).map_err(|_| io::Error::other("the file is larger than this machine can address"))
    }

    impl Deref for MappedFile {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            &self.map
        }
    }
}

#[cfg(target_arch = "wasm32")]
mod copy {
    use std::fs::File;
    use std::io::{self, Read};
    use std::ops::{Deref, Range};

    /// The bytes of a file. This platform cannot map, so they are a copy.
    pub struct MappedFile {
        bytes: Vec<u8>,
    }

    impl MappedFile {
        /// Reads the whole of `file`.
        ///
        /// # Errors
        /// When the platform has no files, or reading fails.
        pub fn new(mut file: &File) -> io::Result<MappedFile> {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(MappedFile { bytes })
        }

        /// Says that the bytes in `range` are no longer looked at; a copy keeps them.
        ///
        /// # Panics
        /// When `range` is not within the file.
        pub fn release(&self, range: Range<usize>) {
            assert!(
                range.start <= range.end && range.end <= self.bytes.len(),
                "{range:?}"
            );
        }
    }

    impl Deref for MappedFile {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            &self.bytes
        }
    }
}

impl std::fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MappedFile({} bytes)", self.len())
    }
}
