//! Which files of a repository to download.

use std::collections::BTreeMap;
use std::path::Path;

use heph_engine::hf::{INDEX, WEIGHTS};

use super::hub::{Listed, Listing, is_sha256};
use super::{Cancel, Format, Hub, PullError, Request, download};
use crate::store::{POOLING, belongs, part_names, shard};

/// Most files one model may have.
const FILES_MAX: usize = 2_000;

/// What is going to be downloaded.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) format: Format,
    pub(super) commit: Option<String>,
    pub(super) files: Vec<Wanted>,
}

impl Selection {
    /// Whether a file that an earlier download left may be one of these: a part tells by its tag what it belongs to, and a
    /// whole one by its checksum, or else only by coming from the `same` place.
    pub(super) fn keeps(&self, name: &str, same: bool) -> bool {
        self.files.iter().any(|file| match name.strip_prefix(&file.name) {
            Some("") => same || file.sha256.is_some(),
            Some(rest) => download::GROWING.contains(&rest),
            None => false,
        })
    }

    /// The same files at the commit of `listing`, and with what it tells of them.
    fn told_by(mut self, listing: Listing) -> Self {
        self.commit = listing.commit;
        for listed in listing.files {
            if let Some(file) = self.files.iter_mut().find(|file| file.path == listed.path) {
                file.bytes = listed.size;
                file.sha256 = sum(listed.lfs.and_then(|lfs| lfs.sha256));
            }
        }
        self
    }
}

/// A SHA-256 as a hub tells it.
fn sum(told: Option<String>) -> Option<String> {
    told.filter(|told| is_sha256(told))
        .map(|told| told.to_ascii_lowercase())
}

/// One file to download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Its path inside the repository.
    pub(super) path: String,
    /// Its name on this side.
    pub(super) name: String,
    /// Its length, where the hub listed it.
    pub(super) bytes: Option<u64>,
    /// The SHA-256 it must have, where known.
    pub(super) sha256: Option<String>,
}

/// What `request` means.
pub(super) fn select(hub: &Hub, request: &Request, cancel: &Cancel) -> Result<Selection, PullError> {
    if let Some(sum) = request.sha256.as_ref().filter(|s| !is_sha256(s)) {
        return Err(PullError::Sha256(sum.clone()));
    }
    let list = || hub.list(&request.repository, &request.revision);
    let listing = || download::with_retries(hub.patience(), cancel, list);
    let mut selection = match &request.file {
        Some(file) => match named(file)? {
            // One file is tied to its content by its own tag; parts of one model are tied to each other by their commit.
            parts if parts.files.len() > 1 => parts.told_by(listing()?),
            one => one,
        },
        None => only_model(&request.repository.to_string(), listing()?)?,
    };
    match (&request.sha256, &mut selection.files[..]) {
        (None, _) => {}
        (Some(sum), [file]) => file.sha256 = Some(sum.to_ascii_lowercase()),
        (Some(_), files) => return Err(PullError::SumOfSeveral { files: files.len() }),
    }
    Ok(selection)
}

/// The file that was named, with its other parts.
fn named(path: &str) -> Result<Selection, PullError> {
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(f, n)| (f, n));
    let stem = name.strip_suffix(".gguf").unwrap_or(name);
    let names = shard(stem).map_or_else(|| vec![name.to_owned()], |s| part_names(&s).collect());
    let at = |name: String| {
        if folder.is_empty() {
            name
        } else {
            format!("{folder}/{name}")
        }
    };
    let files = names
        .into_iter()
        .map(|n| wanted(at(n), None, None))
        .collect::<Result<_, _>>()?;
    Ok(Selection {
        format: Format::Gguf,
        commit: None,
        files,
    })
}

/// The one model of a repository: its only GGUF file, parts counted as one, or its Hugging Face files.
fn only_model(repository: &str, listing: Listing) -> Result<Selection, PullError> {
    let Listing { commit, files, .. } = listing;
    let (ggufs, rest): (Vec<_>, Vec<_>) = files.into_iter().partition(|f| f.path.ends_with(".gguf"));
    let mut models: BTreeMap<String, Vec<Listed>> = BTreeMap::new();
    for file in ggufs {
        models.entry(whole_of(&file.path)).or_default().push(file);
    }
    let (format, chosen) = match models.len() {
        0 => (Format::HuggingFace, hugging_face(rest)),
        1 => (Format::Gguf, models.into_values().next().unwrap_or_default()),
        _ => {
            let files = models
                .into_values()
                .filter_map(|m| m.into_iter().map(|f| f.path).min())
                .collect();
            return Err(PullError::Several {
                repository: repository.to_owned(),
                files,
            });
        }
    };
    if chosen.is_empty() || chosen.len() > FILES_MAX {
        return Err(PullError::NoModel(repository.to_owned()));
    }
    let mut files = chosen
        .into_iter()
        .map(|f| wanted(f.path, f.size, f.lfs.and_then(|l| l.sha256)))
        .collect::<Result<Vec<_>, _>>()?;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Selection {
        format,
        commit,
        files,
    })
}

/// What all parts of one file have in common; the path itself where it is no part.
pub(super) fn whole_of(path: &str) -> String {
    let stem = path.strip_suffix(".gguf").unwrap_or(path);
    shard(stem).map_or(stem, |s| s.stem).to_owned()
}

/// The files of a Hugging Face model, all but [`POOLING`] in the repository's first level; none if it is no model.
pub(super) fn hugging_face(files: Vec<Listed>) -> Vec<Listed> {
    let top = files
        .into_iter()
        .filter(|f| f.path == POOLING || !f.path.contains('/') && belongs(Path::new(&f.path)));
    let mut top: Vec<_> = top.collect();
    // The same weights once more, as another library reads them.
    if top.iter().any(|f| f.path == WEIGHTS || f.path == INDEX) {
        top.retain(|f| !(f.path.starts_with("consolidated") && f.path.ends_with(".safetensors")));
    }
    let whole =
        top.iter().any(|f| f.path == "config.json") && top.iter().any(|f| f.path.ends_with(".safetensors"));
    if whole { top } else { Vec::new() }
}

/// A file to download, if its name may stand in a folder of ours.
fn wanted(path: String, bytes: Option<u64>, sha256: Option<String>) -> Result<Wanted, PullError> {
    let name = match path == POOLING {
        true => path.clone(),
        false => path.rsplit('/').next().unwrap_or_default().to_owned(),
    };
    let good = !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && name != "model.json"
        && !name.contains(['\\', '\0', ':'])
        && path.split('/').all(|p| p != "..");
    if !good {
        return Err(PullError::Nonsense {
            host: "the hub".into(),
            reason: format!("a file called {path:?}"),
        });
    }
    Ok(Wanted {
        path,
        name,
        bytes,
        sha256: sum(sha256),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(paths: &[&str]) -> Result<Vec<String>, PullError> {
        let file = |p: &&str| Listed {
            path: (*p).to_owned(),
            size: Some(1),
            lfs: None,
        };
        let listing = Listing {
            commit: None,
            files: paths.iter().map(file).collect(),
            card: None,
            tags: Vec::new(),
            gated: serde_json::Value::Null,
        };
        Ok(only_model("a/b", listing)?
            .files
            .into_iter()
            .map(|f| f.name)
            .collect())
    }

    #[test]
    fn the_only_model_is_taken() {
        assert_eq!(chosen(&["README.md", "m.gguf"]).unwrap(), ["m.gguf"]);
        let parts = ["q/m-00002-of-00002.gguf", "q/m-00001-of-00002.gguf"];
        assert_eq!(
            chosen(&parts).unwrap(),
            ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
        );
        let folder = [
            "README.md",
            "config.json",
            "model.safetensors",
            "onnx/model.json",
            ".gitattributes",
            "1_Pooling/config.json",
            "2_Dense/config.json",
        ];
        let files = ["1_Pooling/config.json", "config.json", "model.safetensors"];
        assert_eq!(chosen(&folder).unwrap(), files);
    }

    #[test]
    fn weights_that_are_there_twice_are_taken_once() {
        let twice = [
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00001.safetensors",
            "model.safetensors.index.json",
        ];
        assert_eq!(chosen(&twice).unwrap(), [twice[0], twice[2], twice[3]]);
        let twice = [
            "config.json",
            "consolidated-00001-of-00002.safetensors",
            "model.safetensors",
        ];
        assert_eq!(chosen(&twice).unwrap(), [twice[0], twice[2]]);
        // Where nothing else is there, they are the weights.
        let once = ["config.json", "consolidated.safetensors"];
        assert_eq!(chosen(&once).unwrap(), once);
    }

    #[test]
    fn several_models_are_a_question_not_a_guess() {
        let Err(PullError::Several { files, .. }) = chosen(&["m.Q4.gguf", "m.Q8.gguf"]) else {
            panic!()
        };
        assert_eq!(files, ["m.Q4.gguf", "m.Q8.gguf"]);
    }

    #[test]
    fn a_repository_without_a_model_is_an_error() {
        for files in [&["README.md"][..], &["config.json"], &["model.safetensors"]] {
            assert!(matches!(chosen(files), Err(PullError::NoModel(_))), "{files:?}");
        }
    }

    #[test]
    fn a_name_that_leads_away_is_refused() {
        for path in ["../m.gguf", "a/../../m.gguf", ".m.gguf", "a\\m.gguf", "C:m.gguf"] {
            assert!(
                matches!(chosen(&[path]), Err(PullError::Nonsense { .. })),
                "{path}"
            );
        }
    }

    #[test]
    fn one_named_part_brings_all() {
        let names: Vec<_> = named("q/m-00002-of-00003.gguf")
            .unwrap()
            .files
            .into_iter()
            .map(|f| f.path)
            .collect();
        assert_eq!(
            names,
            [
                "q/m-00001-of-00003.gguf",
                "q/m-00002-of-00003.gguf",
                "q/m-00003-of-00003.gguf"
            ]
        );
    }
}
