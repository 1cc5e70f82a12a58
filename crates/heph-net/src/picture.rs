//! A text as a QR code, for the camera of another machine.

/// The code as block characters, for a terminal; two modules above each other are one character. `None` where the text is too
/// long for a picture: then the text has to do.
#[must_use]
pub fn blocks(text: &str) -> Option<String> {
    Some(code(text)?.to_str())
}

/// The code for a page: modules a side, and the dark ones as the path of an SVG picture in which a module is one unit.
#[must_use]
pub fn path(text: &str) -> Option<(usize, String)> {
    use std::fmt::Write;
    let code = code(text)?;
    let mut path = String::new();
    for y in 0..code.size {
        let mut x = 0;
        while x < code.size {
            let dark = (x..code.size).take_while(|&x| code[y][x].value()).count();
            if dark > 0 {
                // Writing to a string cannot fail.
                let _ = write!(path, "M{x} {y}h{dark}v1h-{dark}z");
            }
            x += dark.max(1);
        }
    }
    Some((code.size, path))
}

fn code(text: &str) -> Option<fast_qr::QRCode> {
    fast_qr::QRBuilder::new(text).ecl(fast_qr::ECL::L).build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_its_corners() {
        let (side, path) = path("HEPH-TICKET").unwrap();
        assert!(side >= 21);
        // The frame of the finder in the first corner: seven dark modules, and the seven of the next corner.
        assert!(
            path.starts_with("M0 0h7v1h-7z") && path.contains(&format!("M{} 0h7", side - 7)),
            "{path}"
        );
        assert_eq!(path_of_too_much(), None);
        assert!(blocks("HEPH").is_some());
    }

    fn path_of_too_much() -> Option<(usize, String)> {
        path(&"x".repeat(8000))
    }
}
