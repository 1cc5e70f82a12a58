//! What a repository offers, before anything of it is downloaded: which models, how large, and under which licence.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::hub::{Card, Listed, Listing};
use super::selection::{hugging_face, whole_of};
use super::{Cancel, Hub, PullError, Repository, download};

/// Models of one repository that are named.
const MODELS_MAX: usize = 200;

/// Characters of a licence's name.
const LICENCE_MAX: usize = 100;

/// What a repository offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// Its name, `owner/name`.
    pub repository: String,
    /// The licence that its publisher names, as `apache-2.0`; `None` where none is named.
    pub licence: Option<String>,
    /// Whether the hub wants somebody to agree to something first, so that a download needs a token.
    pub gated: bool,
    /// The models in it, the smallest first.
    pub models: Vec<Offered>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offered {
    /// What a download names; `None` for a repository that is one model.
    pub file: Option<String>,
    /// All bytes of it; `None` where the hub does not say.
    pub bytes: Option<u64>,
    /// In how many files.
    pub files: usize,
}

/// What `repository` offers at `revision`.
///
/// # Errors
/// When the hub does not answer or says nonsense, or nothing in it is a model.
pub fn offer(
    hub: &Hub,
    repository: &Repository,
    revision: &str,
    cancel: &Cancel,
) -> Result<Offer, PullError> {
    let list = || hub.list(repository, revision);
    let listing = download::with_retries(hub.patience(), cancel, list)?;
    read(repository, listing)
}

fn read(repository: &Repository, listing: Listing) -> Result<Offer, PullError> {
    let Listing {
        files,
        card,
        tags,
        gated,
        ..
    } = listing;
    let (ggufs, rest): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.path.ends_with(".gguf"));
    let mut by_model: BTreeMap<String, Vec<Listed>> = BTreeMap::new();
    for file in ggufs {
        by_model.entry(whole_of(&file.path)).or_default().push(file);
    }
    let ggufs = by_model.into_values().filter_map(|files| {
        let first = files.iter().map(|file| file.path.clone()).min()?;
        Some(offered(Some(first), &files))
    });
    let mut models: Vec<Offered> = ggufs.collect();
    if models.is_empty() {
        let folder = hugging_face(rest);
        models.extend((!folder.is_empty()).then(|| offered(None, &folder)));
    }
    if models.is_empty() {
        return Err(PullError::NoModel(repository.to_string()));
    }
    models.sort_by(|a, b| (a.bytes, &a.file).cmp(&(b.bytes, &b.file)));
    models.truncate(MODELS_MAX);
    Ok(Offer {
        repository: repository.to_string(),
        licence: licence(card.as_ref(), &tags),
        gated: !matches!(gated, Value::Null | Value::Bool(false)),
        models,
    })
}

fn offered(file: Option<String>, files: &[Listed]) -> Offered {
    let mut sizes = files.iter().map(|file| file.size);
    Offered {
        file,
        bytes: sizes.try_fold(0_u64, |sum, size| sum.checked_add(size?)),
        files: files.len(),
    }
}

/// The licence as its publisher names it, in the page's head or among the words by which it is found.
fn licence(card: Option<&Card>, tags: &[String]) -> Option<String> {
    let word = |value: &Value| match value {
        Value::String(name) => Some(name.clone()),
        Value::Array(names) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            (!names.is_empty()).then(|| names.join(", "))
        }
        _ => None,
    };
    let said = card.and_then(|card| {
        let name = word(&card.license)?;
        match name.as_str() {
            "other" => word(&card.license_name).or(Some(name)),
            _ => Some(name),
        }
    });
    let tagged = || {
        tags.iter()
            .find_map(|tag| tag.strip_prefix("license:").map(str::to_owned))
    };
    let name = said.or_else(tagged)?;
    let plain: String = name
        .chars()
        .filter(|c| !c.is_control())
        .take(LICENCE_MAX)
        .collect();
    (!plain.trim().is_empty()).then(|| plain.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Offer, PullError> {
        read(
            &Repository::new("a/b").unwrap(),
            serde_json::from_str(text).unwrap(),
        )
    }

    #[test]
    fn models_are_offered_with_their_sizes_and_the_licence() {
        let offer = said(
            r#"{"sha": "c", "cardData": {"license": "apache-2.0"}, "gated": false, "siblings": [
                {"rfilename": "README.md", "size": 9},
                {"rfilename": "m-q8_0.gguf", "size": 800},
                {"rfilename": "big/m-00002-of-00002.gguf", "size": 500},
                {"rfilename": "big/m-00001-of-00002.gguf", "size": 500},
                {"rfilename": "m-q4_0.gguf", "size": 400},
                {"rfilename": "m-odd.gguf"}]}"#,
        );
        let offer = offer.unwrap();
        assert_eq!(
            (offer.licence.as_deref(), offer.gated),
            (Some("apache-2.0"), false)
        );
        let told: Vec<_> = offer
            .models
            .iter()
            .map(|m| (m.file.as_deref().unwrap(), m.bytes, m.files))
            .collect();
        assert_eq!(
            told,
            [
                ("m-odd.gguf", None, 1),
                ("m-q4_0.gguf", Some(400), 1),
                ("m-q8_0.gguf", Some(800), 1),
                ("big/m-00001-of-00002.gguf", Some(1000), 2),
            ]
        );
    }

    #[test]
    fn a_folder_is_one_model_and_nothing_is_none() {
        let folder = r#"{"tags": ["x", "license:mit"], "gated": "manual", "siblings": [
            {"rfilename": "config.json", "size": 1}, {"rfilename": "model.safetensors", "size": 9}]}"#;
        let offer = said(folder).unwrap();
        assert_eq!((offer.licence.as_deref(), offer.gated), (Some("mit"), true));
        assert_eq!((offer.models.len(), offer.models[0].bytes), (1, Some(10)));
        assert_eq!(offer.models[0].file, None);
        assert!(matches!(
            said(r#"{"siblings": [{"rfilename": "README.md"}]}"#),
            Err(PullError::NoModel(_))
        ));
    }

    #[test]
    fn a_licence_is_a_name_and_nothing_else() {
        let cases = [
            (
                r#"{"license": "other", "license_name": "own-terms"}"#,
                Some("own-terms"),
            ),
            (r#"{"license": "other"}"#, Some("other")),
            (r#"{"license": ["mit", "apache-2.0"]}"#, Some("mit, apache-2.0")),
            (r#"{"license": 7}"#, None),
            (r#"{"license": " \u0007 "}"#, None),
            ("{}", None),
        ];
        for (card, expected) in cases {
            let card: Card = serde_json::from_str(card).unwrap();
            assert_eq!(licence(Some(&card), &[]).as_deref(), expected, "{card:?}");
        }
        let long = Card {
            license: Value::String("x".repeat(1000)),
            ..Card::default()
        };
        assert_eq!(
            licence(Some(&long), &[]).map(|name| name.len()),
            Some(LICENCE_MAX)
        );
    }
}
