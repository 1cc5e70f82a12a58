//! The printable stand-ins for bytes that GPT-2 introduced: a byte-level vocabulary spells its tokens with them.

/// The character that stands for `byte`: itself where it is printable Latin-1, else the next free one from
/// U+0100 on.
pub(super) fn char_of(byte: u8) -> char {
    CHARS[usize::from(byte)]
}

/// The byte that `c` stands for, if any.
pub(super) fn byte_of(c: char) -> Option<u8> {
    let code = c as u32;
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => Some(code as u8),
        0x100..=0x143 => Some(SHIFTED[(code - 0x100) as usize]),
        _ => None,
    }
}

/// `text` with each byte of its UTF-8 form replaced by its stand-in, added to `out`.
pub(super) fn encode(text: &str, out: &mut String) {
    out.extend(text.bytes().map(char_of));
}

/// The bytes that `token` stands for, or `None` if a character of it stands for none.
pub(super) fn decode(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

const fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// The bytes without a printable form, in order: the n-th is written as U+0100 + n. 33 + 34 + 1 of them.
const SHIFTED: [u8; 68] = {
    let mut shifted = [0; 68];
    let (mut byte, mut n) = (0usize, 0);
    while byte < 256 {
        if !is_printable(byte as u8) {
            shifted[n] = byte as u8;
            n += 1;
        }
        byte += 1;
    }
    shifted
};

const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let (mut byte, mut n) = (0usize, 0u32);
    while byte < 256 {
        if is_printable(byte as u8) {
            chars[byte] = byte as u8 as char;
        } else if let Some(c) = char::from_u32(0x100 + n) {
            chars[byte] = c;
            n += 1;
        }
        byte += 1;
    }
    chars
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_has_its_own_character_and_back() {
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!(
            (char_of(b' '), char_of(b'\n'), char_of(b'a'), char_of(0xad)),
            ('Ġ', 'Ċ', 'a', 'Ń')
        );
        assert_eq!(byte_of('中'), None);
    }

    #[test]
    fn text_survives_the_round_trip() {
        let mut spelled = String::new();
        encode("a é\n", &mut spelled);
        assert_eq!(spelled, "aĠÃ©Ċ");
        assert_eq!(decode(&spelled), Some("a é\n".as_bytes().to_vec()));
        assert_eq!(decode("中"), None);
    }
}
