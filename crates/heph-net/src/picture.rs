//! A text as a QR code, for the camera of another machine.

/// The code as block characters, for a terminal; two modules above each other are one character. `None` where the text is too
/// long for a picture: then the text has to do.
#[must_use]
pub fn blocks(text: &str) -> Option<String> {
    Some(code(text)?.to_str())
}

fn code(text: &str) -> Option<fast_qr::QRCode> {
    fast_qr::QRBuilder::new(text).ecl(fast_qr::ECL::L).build().ok()
}
