//! The words of a text that tell what a number beside them is.

use std::collections::HashMap;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::table::TABLE;

/// How far before a number its word may stand, in bytes.
const BEFORE: usize = 64;

/// How far behind a number its word may stand, in bytes.
const BEHIND: usize = 20;

/// Words shorter than this stand alone; longer ones may be a part of a compound.
const ALONE: usize = 5;

/// A set of words, by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topic([u64; 24]);

impl Topic {
    const NOTHING: Topic = Topic([0; 24]);

    fn add(&mut self, word: u32) {
        self.0[word as usize / 64] |= 1 << (word % 64);
    }

    fn has(&self, word: u32) -> bool {
        self.0[word as usize / 64] & 1 << (word % 64) != 0
    }

    fn meets(&self, other: &Topic) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }
}

/// Topics that are no rows of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// Telephones.
    Phone,
    /// Words that stand beside telephones and beside much else.
    PhonePerhaps,
    /// Births, appointments and signatures.
    Date,
    /// Passwords.
    Password,
    /// Keys and tokens.
    Key,
    /// Things that have long numbers and are nobody's: orders, parcels, books, versions.
    Thing,
    /// Versions of programs, which look like addresses of machines.
    Version,
    /// Wallets.
    Wallet,
    /// Post codes.
    PostCode,
    /// Cards, accounts and health numbers that a firm gives out itself.
    Account,
}

#[rustfmt::skip]
const ABOUT: &[(About, &str)] = &[
    (About::Phone, "phone|phone number|telephone|tel|tel.|tél|tél.|tlf|telf|τηλ|τηλέφωνο|mobile|mob|cell|cellphone|call|call me|fax|whatsapp|sms|\
        text me|telefon|telefonnummer|handy|handynummer|mobil|mobilnummer|anrufen|rufnummer|rückruf|\
        téléphone|portable|appelez|appeler|teléfono|móvil|celular|llame|llámame|telefone|telemóvel|ligue|\
        telefono|cellulare|chiama|chiamami|telefoonnummer|mobiel|bel|gsm|komórka|komórkowy|telefonu|\
        zadzwoń|numer telefonu|ring|telefonen|puhelin|puhelinnumero|puh|cep|telefoncu|ara|answering at|\
        messages to|reach me|dial|hotline|contact number|pager|landline|тел|телефон|电话|手机|電話|전화|call us|\
        phone_number|phonenumber|msisdn|signal|zavolejte|mobilní"),
    (About::PhonePerhaps, "registered|reach|reached at|contact|office|desk|extension|ext|numéro|texted|kontakt|home|work"),
    (About::Date, "born|birth|date of birth|dob|d.o.b|birthday|birthdate|geboren|geburtsdatum|geb|geb.|geburtstag|\
        né le|née le|naissance|date de naissance|nacido|nacida|nacimiento|fecha de nacimiento|nato|nata|\
        nascita|data di nascita|nascido|nascida|nascimento|data de nascimento|geboortedatum|geboorte|\
        urodzony|urodzona|data urodzenia|ur.|narozen|narozena|datum narození|född|fødselsdato|født|\
        födelsedatum|syntynyt|syntymäaika|doğum|doğum tarihi|родился|родилась|дата рождения|date_of_birth|\
        birth_date|dateofbirth|appointment|signed|deceased|died|gestorben|hired|admitted|discharged|\
        married|visit|fødselsdag"),
    (About::Password, "password|passwd|pwd|pass|passphrase|passcode|pw|passwort|kennwort|mot de passe|mdp|contraseña|\
        clave|senha|wachtwoord|hasło|haslo|heslo|lösenord|şifre|parola|salasana|adgangskode|passord|\
        jelszó|пароль|密码|パスワード|pin|login|credentials|pwd_hash"),
    (About::Key, "secret|secret key|secret_key|secretkey|client_secret|client secret|api key|api_key|apikey|api-key|\
        token|access token|access_token|accesstoken|auth_token|authtoken|auth token|refresh_token|bearer|\
        private key|private_key|encryption key|encryption_key|signing key|signing_key|access key|\
        access_key|accesskey|secret_access_key|aws_secret_access_key|webhook secret|webhook_secret|\
        shared key|credential|authorization|x-api-key|session_key|master key|master_key|license key|\
        license_key|key|consumer_secret|app_secret|jwt_secret|encryption-key|hmac|schlüssel|geheimnis|clé|\
        clé secrète|llave|chave|chiave|klucz|klíč|nyckel|anahtar|sleutel|recovery code|session token|\
        session_token|sessionid|session id|cookie"),
    (About::Thing, "order|order number|order no|order id|tracking|tracking number|parcel|shipment|invoice|isbn|issn|\
        ean|sku|serial|article|ticket|commit|request id|uuid|checksum|build|parameters|bestellung|\
        bestellnummer|sendungsnummer|rechnung|commande|facture|pedido|factura|ordine|fattura|zamówienie|\
        faktura|timestamp|unix time|barcode|upc|gtin|doi|pmid|part number|part no|transaction id|batch"),
    (About::Version, "version|release|ver|v|oid|snmp|section|§|chapter"),
    (About::Wallet, "wallet|bitcoin|btc|ethereum|eth|address|solana|sol|usdt|crypto|litecoin|ltc|monero|xmr|ripple|xrp|\
        dogecoin|cardano|tron|trx|donate|withdraw|deposit"),
    (About::PostCode, "zip|zip code|zipcode|postcode|post code|postal code|postal|plz|postleitzahl|code postal|\
        código postal|cap|cep|kod pocztowy|psč|postnummer|postinumero|posta kodu|pin code|pincode|eircode|\
        zip_code|postal_code"),
    (About::Account, "customer number|customer id|customer no|kundennummer|member id|membership number|patient id|\
        patient number|mrn|medical record|medical record number|policy number|insurance number|\
        employee id|employee number|student id|case number|account id|user id|personalnummer|\
        numéro client|número de cliente|numero cliente|klantnummer|numer klienta"),
];

struct Vocabulary {
    automaton: AhoCorasick,
    lengths: Vec<usize>,
    rows: Vec<Topic>,
    about: Vec<Topic>,
}

static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(|| {
    let mut words: Vec<String> = Vec::new();
    let mut numbers: HashMap<String, u32> = HashMap::new();
    let mut topic = |list: &str| {
        let mut topic = Topic::NOTHING;
        for word in list.split('|') {
            let lower = word.to_lowercase();
            // Letters beyond ASCII are not folded by the automaton, so a capital at the front is a word of its own.
            let mut spellings = vec![lower.clone()];
            if !lower.is_ascii() {
                let mut letters = lower.chars();
                spellings.extend(
                    letters
                        .next()
                        .map(|first| first.to_uppercase().chain(letters).collect()),
                );
                spellings.push(lower.to_uppercase());
            }
            for spelling in spellings {
                let number = *numbers.entry(spelling.clone()).or_insert_with(|| {
                    words.push(spelling);
                    words.len() as u32 - 1
                });
                topic.add(number);
            }
        }
        topic
    };
    let rows = TABLE.iter().map(|row| topic(row.words)).collect();
    let about = ABOUT.iter().map(|(_, list)| topic(list)).collect();
    let automaton = AhoCorasick::builder()
        .kind(Some(AhoCorasickKind::DFA))
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::LeftmostLongest)
        .build(&words)
        .expect("some thousand short words make an automaton");
    Vocabulary {
        automaton,
        lengths: words.iter().map(String::len).collect(),
        rows,
        about,
    }
});

/// A word that stands in the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hit {
    pub(super) start: usize,
    pub(super) end: usize,
    word: u32,
}

/// All telling words of a text.
pub(super) struct Words<'t> {
    text: &'t [u8],
    hits: Vec<Hit>,
    present: Topic,
    /// Of each row, whether a word of it stands anywhere.
    rows: Vec<bool>,
    header: Option<Header>,
}

impl<'t> Words<'t> {
    pub(super) fn of(text: &'t str) -> Words<'t> {
        let bytes = text.as_bytes();
        let mut hits = Vec::new();
        let mut present = Topic::NOTHING;
        for found in VOCABULARY.automaton.find_iter(bytes) {
            let hit = Hit {
                start: found.start(),
                end: found.end(),
                word: found.pattern().as_u32(),
            };
            if stands_alone(bytes, hit.start, hit.end, VOCABULARY.lengths[hit.word as usize]) {
                present.add(hit.word);
                hits.push(hit);
            }
        }
        let rows = VOCABULARY.rows.iter().map(|row| row.meets(&present)).collect();
        Words {
            text: bytes,
            hits,
            present,
            rows,
            header: Header::of(bytes),
        }
    }

    /// Whether a word of this row stands anywhere.
    pub(super) fn mentions(&self, row: usize) -> bool {
        self.rows[row]
    }

    /// How near a word of this row is to `start..end`, in bytes: before it, behind it, or as the head of its column.
    pub(super) fn near_row(&self, row: usize, start: usize, end: usize) -> Option<usize> {
        if self.rows[row] {
            self.near(&VOCABULARY.rows[row], start, end)
        } else {
            None
        }
    }

    /// The same for a topic.
    pub(super) fn near_about(&self, about: About, start: usize, end: usize) -> Option<usize> {
        self.near(topic(about), start, end)
    }

    /// Whether a word of a topic stands anywhere.
    pub(super) fn mentions_about(&self, about: About) -> bool {
        topic(about).meets(&self.present)
    }

    /// The words of a topic, in the order of the text.
    pub(super) fn all(&self, about: About) -> impl Iterator<Item = Hit> {
        let topic = topic(about);
        self.hits.iter().copied().filter(move |hit| topic.has(hit.word))
    }

    fn near(&self, topic: &Topic, start: usize, end: usize) -> Option<usize> {
        if !topic.meets(&self.present) {
            return None;
        }
        let first = self.hits.partition_point(|hit| hit.end <= start);
        let column = self
            .header
            .as_ref()
            .and_then(|header| header.column(self.text, start));
        // In a table the head of its own column speaks for a cell, not the words of other lines.
        let line = column.map_or(0, |column| column.line);
        let before = self.hits[..first]
            .iter()
            .rev()
            .take_while(|hit| hit.end + BEFORE >= start && hit.start >= line)
            .find(|hit| topic.has(hit.word))
            .map(|hit| start - hit.end + 4 * newlines(&self.text[hit.end..start]));
        let behind = self.hits[first..]
            .iter()
            .skip_while(|hit| hit.start < end)
            .take_while(|hit| hit.start <= end + BEHIND)
            .find(|hit| topic.has(hit.word) && !self.text[end..hit.start].contains(&b'\n'))
            // A word behind is weaker than one before.
            .map(|hit| 2 * (hit.start - end) + 8);
        let head = column.and_then(|Column { from, to, .. }| {
            let first = self.hits.partition_point(|hit| hit.start < from);
            self.hits[first..]
                .iter()
                .take_while(|hit| hit.end <= to)
                .any(|hit| topic.has(hit.word))
                .then_some(2)
        });
        [before, behind, head].into_iter().flatten().min()
    }
}

fn topic(about: About) -> &'static Topic {
    let place = ABOUT.iter().position(|(a, _)| *a == about).unwrap_or_default();
    &VOCABULARY.about[place]
}

fn newlines(between: &[u8]) -> usize {
    between.iter().filter(|b| **b == b'\n').count()
}

/// Whether a word is one: short words need both ends free, longer ones one end. An underscore and a change to capitals are
/// ends, as in `customer_ssn` and `customerSsn`.
fn stands_alone(text: &[u8], start: usize, end: usize, length: usize) -> bool {
    let letter = |b: u8| b.is_ascii_alphabetic() || b >= 0x80;
    let left = match (start.checked_sub(1).map(|i| text[i]), text[start]) {
        (None, _) => true,
        (Some(before), first) => !letter(before) || before.is_ascii_lowercase() && first.is_ascii_uppercase(),
    };
    let right = match text.get(end) {
        None => true,
        Some(after) => {
            !letter(*after)
                || after.is_ascii_uppercase() && text[end - 1].is_ascii_lowercase()
                || *after == b's' && !text.get(end + 1).copied().is_some_and(letter)
        }
    };
    if length < ALONE {
        left && right
    } else {
        left || right
    }
}

/// Where a cell belongs.
#[derive(Debug, Clone, Copy)]
struct Column {
    /// Its head.
    from: usize,
    to: usize,
    /// Where its line begins.
    line: usize,
}

/// The head of a table of separated values.
#[derive(Debug)]
struct Header {
    delimiter: u8,
    cells: Vec<(usize, usize)>,
}

impl Header {
    /// The first line, if a delimiter stands in it as often as in the second, and no digit does.
    fn of(text: &[u8]) -> Option<Header> {
        let mut lines = text.splitn(3, |b| *b == b'\n');
        let (first, second) = (lines.next()?, lines.next()?);
        if first.len() > 4096 || first.iter().filter(|b| b.is_ascii_digit()).count() > 4 {
            return None;
        }
        let count = |line: &[u8], d: u8| line.iter().filter(|b| **b == d).count();
        let delimiter = *b"\t;|,"
            .iter()
            .find(|d| count(first, **d) > 0 && count(second, **d) >= count(first, **d))?;
        let mut cells = Vec::new();
        let mut from = 0;
        for (place, byte) in first.iter().chain(&[delimiter]).enumerate() {
            if *byte == delimiter {
                cells.push((from, place));
                from = place + 1;
            }
        }
        Some(Header { delimiter, cells })
    }

    /// The head of the column in which `place` stands. Lines beyond 4 KiB have none.
    fn column(&self, text: &[u8], place: usize) -> Option<Column> {
        let from = place.saturating_sub(4096);
        let line = &text[from..place];
        let begin = line.iter().rposition(|b| *b == b'\n')? + 1;
        let mut quoted = false;
        let mut column = 0;
        for byte in &line[begin..] {
            quoted ^= *byte == b'"';
            column += usize::from(*byte == self.delimiter && !quoted);
        }
        let (from, to) = self.cells.get(column).copied()?;
        Some(Column {
            from,
            to,
            line: place - line.len() + begin,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_in_prose_keys_and_heads_of_columns() {
        let near = |text: &str| {
            let start = text.find("12345").unwrap();
            Words::of(text)
                .near_about(About::Phone, start, start + 5)
                .is_some()
        };
        for text in [
            "my phone is 12345",
            "{\"customerPhone\": \"12345\"}",
            "phone_number=12345",
            "12345 (mobile)",
            "name;phone\nAnn;12345",
        ] {
            assert!(near(text), "{text}");
        }
        for text in [
            "my hotel is 12345",
            "phone;name\nAnn;12345",
            "recall 12345",
            "xphonex 12345",
        ] {
            assert!(!near(text), "{text}");
        }
    }

    #[test]
    fn there_is_room_for_all_words() {
        assert!(
            VOCABULARY.lengths.len() <= 24 * 64,
            "{}",
            VOCABULARY.lengths.len()
        );
    }
}
