//! Deep links: what an address that begins with `heph:` asks for.
//!
//! A link comes from anywhere. It opens a page and fills in a field; what happens then is the person's to say.

use tauri::Url;

/// A longer ticket is none: those of this version have some two hundred letters.
const TICKET_MAX: usize = 4096;

/// What a link asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    /// To meet the machine whose ticket this is: `heph://join/TICKET`.
    Join {
        /// As it stands in the link, not looked into.
        ticket: String,
    },
}

impl Link {
    /// The link of that address; `None` for everything that is not one of ours.
    pub(crate) fn read(text: &str) -> Option<Self> {
        // Before it is parsed: an address has no bound of its own.
        if text.len() > 2 * TICKET_MAX {
            return None;
        }
        let url = Url::parse(text.trim()).ok()?;
        let joins = url
            .host_str()
            .is_some_and(|host| host.eq_ignore_ascii_case("join"));
        let more = url.query().or(url.fragment()).is_some()
            || url.port().is_some()
            || !url.username().is_empty()
            || url.password().is_some();
        if url.scheme() != "heph" || !joins || more {
            return None;
        }
        let ticket = url.path().trim_matches('/');
        let sound = !ticket.is_empty()
            && ticket.len() <= TICKET_MAX
            && ticket
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
        sound.then(|| Self::Join {
            ticket: ticket.to_owned(),
        })
    }

    /// The first link among the arguments of a program.
    pub(crate) fn among(arguments: impl IntoIterator<Item = impl AsRef<str>>) -> Option<Self> {
        arguments
            .into_iter()
            .find_map(|argument| Self::read(argument.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_stands_behind_join_and_nothing_else_is_taken() {
        for (text, expected) in [
            ("heph://join/heph1abc-DEF_2", Some("heph1abc-DEF_2")),
            ("HEPH://JOIN/a", Some("a")),
            ("heph://join/a/", Some("a")),
            (" heph://join/a\n", Some("a")),
            ("heph://join/", None),
            ("heph://join", None),
            ("heph:join/a", None),
            ("heph://leave/a", None),
            ("heph://join/a?now=yes", None),
            ("heph://join/a#now", None),
            ("heph://join:80/a", None),
            ("heph://you@join/a", None),
            ("heph://:secret@join/a", None),
            ("heph://join/a/b", None),
            ("heph://join/%3Cscript%3E", None),
            ("heph://join/a\u{202e}b", None),
            ("https://join/a", None),
            ("--flag", None),
            ("", None),
        ] {
            let expected = expected.map(|ticket| Link::Join {
                ticket: ticket.to_owned(),
            });
            assert_eq!(Link::read(text), expected, "{text:?}");
        }
        let long = format!("heph://join/{}", "a".repeat(TICKET_MAX + 1));
        assert_eq!(Link::read(&long), None);
        assert!(Link::read(&long[..long.len() - 1]).is_some());
    }

    #[test]
    fn no_text_is_too_strange_to_be_read() {
        // A generator of its own keeps this free of another dependency.
        let mut state = 7_u64;
        let mut draw = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % n
        };
        let sound = "heph://join/heph1abcdef";
        let letters: Vec<char> = "heph:/join%?#[]@\\\0\u{202e}é\u{10ffff} 1-_.".chars().collect();
        for _ in 0..20_000 {
            let mut text: Vec<char> = sound.chars().collect();
            for _ in 0..=draw(6) {
                let (at, letter) = (draw(text.len()), letters[draw(letters.len())]);
                match draw(3) {
                    0 => text[at] = letter,
                    1 => text.insert(at, letter),
                    _ => drop(text.remove(at)),
                }
            }
            let text: String = text.into_iter().collect();
            if let Some(Link::Join { ticket }) = Link::read(&text) {
                assert!(
                    ticket
                        .bytes()
                        .all(|b| b.is_ascii_graphic() && b"<>\"'&\\`/".iter().all(|c| *c != b)),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn a_link_is_found_among_arguments() {
        let found = Link::among(["heph-desktop", "--flag", "heph://join/a", "heph://join/b"]);
        assert_eq!(
            found,
            Some(Link::Join {
                ticket: "a".to_owned()
            })
        );
        assert_eq!(Link::among(["heph-desktop"]), None);
    }
}
