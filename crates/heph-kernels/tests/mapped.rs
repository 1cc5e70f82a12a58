//! A mapped file shows what the file holds. Here and not beside the code, since only a real file can be mapped.

#![cfg(not(target_arch = "wasm32"))]
#![expect(clippy::disallowed_methods, reason = "the crate opens no file, its test must")]

use heph_kernels::mapped::MappedFile;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

/// A file of `bytes` in the folder for temporary files, gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn of(name: &str, bytes: &[u8]) -> Scratch {
        let path = std::env::temp_dir().join(format!("heph-mapped-{}-{name}", std::process::id()));
        File::create(&path)
            .and_then(|mut f| f.write_all(bytes))
            .expect("a temporary file");
        Scratch(path)
    }

    fn map(&self) -> MappedFile {
        MappedFile::new(&File::open(&self.0).expect("the file is there")).expect("it can be mapped")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_map_shows_the_file_and_again_after_release() {
    let bytes: Vec<u8> = (0..300_000u32).map(|i| ((i * i) >> 7) as u8).collect();
    let scratch = Scratch::of("shown", &bytes);
    let map = scratch.map();
    assert!(*map == bytes);
    for range in [0..300_000, 65_537..200_000, 1..2, 7..7, 299_999..300_000] {
        map.release(range);
        assert!(*map == bytes);
    }
}

#[test]
fn an_empty_file_has_no_bytes() {
    assert!(Scratch::of("empty", &[]).map().is_empty());
}

#[test]
#[should_panic(expected = "of 3")]
fn releasing_what_is_not_there_is_refused() {
    Scratch::of("short", &[1, 2, 3]).map().release(0..4);
}
