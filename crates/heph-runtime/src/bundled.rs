//! The models that are part of the program itself, so that it can answer before anything was downloaded.

use crate::store::{FileRecord, content};

/// A model file inside the program.
#[derive(Debug, Clone, Copy)]
pub struct Bundled {
    /// The name it is asked for by.
    pub name: &'static str,
    /// What it is good for, in one line.
    pub about: &'static str,
    /// The GGUF file, 64-byte aligned.
    pub bytes: &'static [u8],
}

impl Bundled {
    /// The hash it would have in the store: equal for equal models.
    pub fn content(&self) -> String {
        let blake3 = blake3::hash(self.bytes).to_hex().to_string();
        content(&[FileRecord {
            name: format!("{}.gguf", self.name),
            bytes: self.bytes.len() as u64,
            blake3,
            sha256: None,
        }])
    }
}

/// The model that `demo` talks to, and that `chat` and `run` take when none is named.
pub const STORY: Bundled = Bundled {
    name: "heph-story",
    about: "tells short stories in simple English",
    bytes: &STORY_FILE.0,
};

/// Its small sibling with the same vocabulary, which guesses ahead.
pub const STORY_DRAFT: Bundled = Bundled {
    name: "heph-story-draft",
    about: "drafts for heph-story",
    bytes: &STORY_DRAFT_FILE.0,
};

/// The encoder that `embed` takes when none is named, and that chooses spans of documents.
pub const EMBED: Bundled = Bundled {
    name: "heph-embed",
    about: "turns short English texts into vectors",
    bytes: &EMBED_FILE.0,
};

/// Puts a file into the program: once, where a constant would be copied into every crate that names it.
macro_rules! file {
    ($name:ident, $path:literal) => {
        static $name: Aligned<[u8; include_bytes!($path).len()]> = Aligned(*include_bytes!($path));
    };
}

file!(STORY_FILE, "../../../models/heph-story.gguf");
file!(STORY_DRAFT_FILE, "../../../models/heph-story-draft.gguf");
file!(EMBED_FILE, "../../../models/heph-embed.gguf");

/// All of them.
pub const ALL: &[Bundled] = &[STORY, STORY_DRAFT, EMBED];

/// The bundled model called `name`.
pub fn find(name: &str) -> Option<Bundled> {
    ALL.iter().copied().find(|b| b.name == name)
}

/// Gives embedded bytes the alignment a mapped file has.
#[repr(align(64))]
struct Aligned<T>(T);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bundled_file_is_an_aligned_gguf() {
        for model in ALL {
            assert_eq!(&model.bytes[..4], b"GGUF", "{}", model.name);
            assert_eq!(model.bytes.as_ptr().align_offset(32), 0, "{}", model.name);
            assert_eq!(find(model.name).map(|m| m.bytes.len()), Some(model.bytes.len()));
        }
    }
}
