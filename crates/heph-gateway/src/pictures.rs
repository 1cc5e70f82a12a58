//! Pictures in messages: read within bounds and passed on to providers. Models of this house read none.
//!
//! A picture comes with its request. An address of one is refused: whoever fetched it would tell its owner who asks about what.

use data_encoding::BASE64;
use heph_providers::Picture;

use crate::error::Refusal;

/// Pictures of one request.
pub(crate) const PICTURES_MAX: usize = 32;

/// The kinds that providers take, by their first bytes.
const KINDS: [(&str, &[u8]); 4] = [
    ("image/png", b"\x89PNG\r\n\x1a\n"),
    ("image/jpeg", b"\xff\xd8\xff"),
    ("image/gif", b"GIF8"),
    ("image/webp", b"RIFF"),
];

/// The picture at an address that holds it: `data:image/png;base64,…`.
pub(crate) fn of_address(address: &str) -> Result<Picture, Refusal> {
    let held = address
        .strip_prefix("data:")
        .and_then(|held| held.split_once(','));
    let Some((head, base64)) = held else {
        return Err(refused(
            "a picture comes with the request, as data:image/png;base64,…: this door fetches none, and sends nobody an address",
        ));
    };
    match head.strip_suffix(";base64") {
        Some(kind) => of_base64(Some(kind), base64),
        None => Err(refused("a picture's data are written in base64")),
    }
}

/// The picture that is written as `base64`; its kind is what it begins as, and may not be called otherwise.
pub(crate) fn of_base64(named: Option<&str>, base64: &str) -> Result<Picture, Refusal> {
    let bytes = BASE64.decode(base64.as_bytes());
    let bytes = bytes.map_err(|error| refused(&format!("a picture's base64 cannot be read: {error}")))?;
    let kind = KINDS.iter().find(|(_, begins)| bytes.starts_with(begins));
    let Some((kind, _)) = kind else {
        return Err(refused("a picture is a PNG, JPEG, GIF or WebP file"));
    };
    let named = named.map(|named| if named == "image/jpg" { "image/jpeg" } else { named });
    match named.filter(|named| named != kind) {
        Some(named) => Err(refused(&format!(
            "a picture is called {:.40} and is {kind}",
            named
        ))),
        None => Ok(Picture {
            kind: (*kind).to_owned(),
            base64: base64.to_owned(),
        }),
    }
}

fn refused(sentence: &str) -> Refusal {
    Refusal::param("messages", sentence).code("picture")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and more";

    #[test]
    fn a_picture_is_what_it_begins_as() {
        let png = BASE64.encode(PNG);
        let read = of_address(&format!("data:image/png;base64,{png}")).unwrap();
        assert_eq!((read.kind.as_str(), &read.base64), ("image/png", &png));
        assert_eq!(of_base64(None, &png).unwrap(), read);
        let jpeg = BASE64.encode(b"\xff\xd8\xff\xe0");
        assert_eq!(of_base64(Some("image/jpg"), &jpeg).unwrap().kind, "image/jpeg");
    }

    #[test]
    fn what_is_no_picture_or_lies_elsewhere_is_refused() {
        let png = BASE64.encode(PNG);
        for address in [
            "https://pictures.example/a.png".to_owned(),
            "file:///etc/passwd".to_owned(),
            String::new(),
            "data:image/png;base64".to_owned(),
            format!("data:image/png,{png}"),
            format!("data:image/jpeg;base64,{png}"),
            format!("data:text/html;base64,{png}"),
            "data:image/png;base64,####".to_owned(),
            format!("data:image/png;base64,{}", BASE64.encode(b"<svg/>")),
        ] {
            assert!(of_address(&address).is_err(), "{address}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_address_breaks_the_reader(address in "(data:)?[a-z/]{0,12}(;base64)?,?[A-Za-z0-9+/=\u{0}-\u{ff}]{0,40}") {
            let _ = of_address(&address);
        }
    }
}
