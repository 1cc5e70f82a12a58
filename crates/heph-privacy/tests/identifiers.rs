//! Every recogniser of the table: known values, values drawn for it, and the same with a broken checksum.

use heph_privacy::pii::{self, Need, Recogniser};

/// Values that the issuers themselves, or handbooks of theirs, print as examples, and some computed by hand.
const KNOWN: &[(&str, &str)] = &[
    ("CREDIT_CARD", "4111 1111 1111 1111"),
    ("CREDIT_CARD", "3782 822463 10005"),
    ("BIC", "DEUTDEFF500"),
    ("LEI", "5493001KJTIIGC8Y1R12"),
    ("US_ABA_ROUTING", "021000021"),
    ("MX_CLABE", "032180000118359719"),
    ("IMEI", "490154203237518"),
    ("VIN", "1M8GDM9AXKP042788"),
    ("US_ITIN", "912-70-1234"),
    ("US_NPI", "1234567893"),
    ("US_DEA", "AB1234563"),
    ("US_MBI", "1EG4-TE5-MK73"),
    ("CA_SIN", "130 692 544"),
    ("MX_CURP", "BOXW310820HNERXN09"),
    ("BR_CPF", "529.982.247-25"),
    ("BR_CNPJ", "11.222.333/0001-81"),
    ("AR_CUIT", "20-05536168-2"),
    ("CL_RUT", "12.531.909-2"),
    ("UY_CI", "1.234.567-2"),
    ("GB_NINO", "AB 12 34 56 C"),
    ("GB_NHS", "943 476 5919"),
    ("GB_DRIVING_LICENCE", "MORGA657054SM9IJ"),
    ("IE_PPS", "1234567FA"),
    ("FR_NIR", "2 55 08 14 168 025 38"),
    ("FR_SIREN", "552 008 443"),
    ("NL_BSN", "111222333"),
    ("BE_NN", "85.07.30-033.28"),
    ("CH_AHV", "756.9217.0769.85"),
    ("CH_UID", "CHE-100.155.212"),
    ("AT_SVNR", "1237 010180"),
    ("AT_VAT", "ATU13585627"),
    ("DE_STEUER_ID", "36 574 261 809"),
    ("DE_RVNR", "15070649C103"),
    ("DE_KVNR", "A123456780"),
    ("DE_ID_CARD", "L01X00T471"),
    ("DE_VAT", "DE136695976"),
    ("ES_DNI", "12345678Z"),
    ("ES_NIE", "X1234567L"),
    ("PT_NIF", "501964843"),
    ("IT_CODICE_FISCALE", "RSSMRA85T10A562S"),
    ("IT_PARTITA_IVA", "00743110157"),
    ("SE_PERSONNUMMER", "811228-9874"),
    ("FI_HETU", "131052-308T"),
    ("IS_KENNITALA", "120174-3399"),
    ("EE_LT_PERSONAL_CODE", "37605030299"),
    ("LV_PERSONAS_KODS", "161175-19997"),
    ("PL_PESEL", "44051401359"),
    ("PL_NIP", "526-000-12-46"),
    ("PL_REGON", "192598184"),
    ("PL_ID_CARD", "ABA300000"),
    ("CZ_SK_RODNE_CISLO", "710319/2745"),
    ("HU_TAJ", "123 456 788"),
    ("RO_CNP", "1630615123457"),
    ("BG_EGN", "7523169263"),
    ("HR_OIB", "33392005961"),
    ("JMBG", "0101006500006"),
    ("GR_AMKA", "01013099997"),
    ("TR_TCKN", "17291716060"),
    ("RU_SNILS", "112-233-445 95"),
    ("UA_RNOKPP", "1759013776"),
    ("IL_TEUDAT_ZEHUT", "039337423"),
    ("IN_AADHAAR", "2341 2341 2346"),
    ("IN_PAN", "ACUPA7085R"),
    ("CN_RESIDENT_ID", "11010519491231002X"),
    ("HK_HKID", "A123456(3)"),
    ("HK_HKID", "G123456(A)"),
    ("TW_ID", "A123456789"),
    ("SG_NRIC", "S1234567D"),
    ("SG_NRIC", "G1234567X"),
    ("TH_ID", "1-1014-00152-04-3"),
    ("AU_TFN", "123 456 782"),
    ("AU_ABN", "83 914 571 673"),
    ("AU_ACN", "004 085 616"),
    ("AU_MEDICARE", "2123 45670 1"),
    ("NZ_IRD", "49-091-850"),
    ("NZ_NHI", "ZAC5361"),
    ("ZA_ID", "7503305044089"),
];

/// Values of the list above, and an account number, with one digit changed.
const BROKEN: &[(&str, &str)] = &[
    ("CREDIT_CARD", "card 4111 1111 1111 1112"),
    ("IBAN", "iban DE89 3704 0044 0532 0130 01"),
    ("CH_AHV", "ahv 756.9217.0769.84"),
    ("DE_STEUER_ID", "steuer-id 36 574 261 808"),
    ("IN_AADHAAR", "aadhaar 2341 2341 2347"),
    ("CN_RESIDENT_ID", "身份证 110105194912310021"),
    ("ES_DNI", "dni 12345678A"),
    ("BR_CPF", "cpf 529.982.247-26"),
    ("PL_PESEL", "pesel 44051401358"),
    ("NL_BSN", "bsn 111222334"),
    ("FR_NIR", "nir 2 55 08 14 168 025 39"),
    ("US_SSN", "ssn 666-12-3456"),
];

#[test]
fn values_with_a_changed_digit_are_not_found() {
    for (kind, text) in BROKEN {
        assert!(!pii::patterns(text).iter().any(|s| s.kind == *kind), "{text}");
    }
}

fn row(name: &str) -> &'static Recogniser {
    pii::recognisers()
        .iter()
        .find(|r| r.name == name)
        .unwrap_or_else(|| panic!("no row {name}"))
}

fn first_word(row: &Recogniser) -> &str {
    row.words.split('|').next().unwrap()
}

/// Whether `value` is found as `name` behind the first word of its row.
fn found(row: &Recogniser, value: &str) -> bool {
    let text = format!("{}: {value}.", first_word(row));
    let spans = pii::patterns(&text);
    spans
        .iter()
        .any(|s| s.kind == row.kind && text[s.bytes.clone()] == *value)
}

#[test]
fn values_that_issuers_print_are_found() {
    for (name, value) in KNOWN {
        assert!(
            found(row(name), value),
            "{name} {value}: {:?}",
            pii::patterns(&format!("{}: {value}.", first_word(row(name))))
        );
    }
}

/// A stream of numbers that is the same at every run.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    /// A value of a picture, with or without its separators.
    fn value(&mut self, row: &Recogniser) -> String {
        let pictures: Vec<&str> = row.pictures.split(" | ").collect();
        let picture = pictures[self.below(pictures.len())];
        let separator = ["", " ", "-"][self.below(3)];
        let mut value = String::new();
        for letter in picture.chars() {
            match letter {
                '9' => value.push(char::from(b'0' + self.below(10) as u8)),
                'A' => value.push(char::from(b'A' + self.below(26) as u8)),
                'X' => value.push(char::from(
                    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[self.below(36)],
                )),
                '_' => value.push_str(separator),
                other => value.push(other.to_ascii_uppercase()),
            }
        }
        value
    }
}

fn compact(value: &str) -> Vec<u8> {
    value.bytes().filter(u8::is_ascii_alphanumeric).collect()
}

#[test]
fn drawn_values_are_found_and_not_with_a_broken_checksum() {
    let mut drawn = Drawn(0x9e37_79b9_7f4a_7c15);
    for row in pii::recognisers() {
        let (mut right, mut wrong) = (0, 0);
        for _ in 0..2_000_000 {
            if right == 8 {
                break;
            }
            let value = drawn.value(row);
            if !(row.check)(&compact(&value)) {
                if wrong < 40 {
                    wrong += 1;
                    let text = format!("{} {value}", first_word(row));
                    assert!(
                        !pii::patterns(&text)
                            .iter()
                            .any(|s| s.name == row.name && text[s.bytes.clone()] == *value),
                        "{text}"
                    );
                }
                continue;
            }
            right += 1;
            // Another row may read the same digits; what matters is that all of it is covered.
            let text = format!("{}: {value}", first_word(row));
            let covered = pii::patterns(&text)
                .iter()
                .any(|s| s.bytes.end == text.len() && s.bytes.start + value.len() <= text.len());
            assert!(covered, "{}: {text} gave {:?}", row.name, pii::patterns(&text));
        }
        assert_eq!(right, 8, "{}: its check lets too little through", row.name);
    }
}

#[test]
fn a_number_that_needs_its_word_is_not_found_without_it() {
    let mut drawn = Drawn(0x2545_f491_4f6c_dd1d);
    for row in pii::recognisers().iter().filter(|r| r.need == Need::Word) {
        let value = std::iter::repeat_with(|| drawn.value(row))
            .find(|v| (row.check)(&compact(v)))
            .unwrap();
        let text = format!("see {value} there");
        assert!(
            !pii::patterns(&text).iter().any(|s| s.name == row.name),
            "{}: {text}",
            row.name
        );
    }
}

#[test]
fn checks_deny_what_they_cannot_read() {
    let odd: &[&[u8]] = &[
        b"",
        b"0",
        b"9",
        b"A",
        b"\xff\xff\xff",
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
        &[b'9'; 60],
        &[0; 11],
        &[b'Z'; 18],
    ];
    for row in pii::recognisers() {
        for length in 0..24 {
            for fill in [b'0', b'9', b'A', b'Z', 0x80] {
                let _ = (row.check)(&vec![fill; length]);
            }
        }
        for bytes in odd {
            let _ = (row.check)(bytes);
        }
    }
}

#[test]
fn there_are_sixty_types_in_twenty_five_countries_and_each_names_its_source() {
    let rows = pii::recognisers();
    let names: std::collections::BTreeSet<_> = rows.iter().map(|r| r.name).collect();
    let countries: std::collections::BTreeSet<_> =
        rows.iter().map(|r| r.country).filter(|c| !c.is_empty()).collect();
    assert_eq!(names.len(), rows.len(), "two rows have one name");
    assert!(
        names.len() >= 60 && countries.len() >= 25,
        "{} types, {} countries",
        names.len(),
        countries.len()
    );
    assert!(
        rows.iter()
            .all(|r| !r.source.is_empty() && !r.words.is_empty() && !r.pictures.is_empty())
    );
}

#[test]
fn a_number_is_found_however_it_is_written() {
    let written: &[(&str, &str)] = &[
        ("CREDIT_CARD", "4111\u{a0}1111\u{a0}1111\u{a0}1111"),
        ("CREDIT_CARD", "4111\u{2011}1111\u{2011}1111\u{2011}1111"),
        ("CREDIT_CARD", "４１１１ １１１１ １１１１ １１１１"),
        ("CREDIT_CARD", "٤١١١ ١١١١ ١١١١ ١١١١"),
        ("CREDIT_CARD", "4111\u{200b}1111\u{200b}1111\u{200b}1111"),
        ("CREDIT_CARD", "4111&nbsp;1111&nbsp;1111&nbsp;1111"),
        (
            "IBAN",
            "DE89\u{202f}3704\u{202f}0044\u{202f}0532\u{202f}0130\u{202f}00",
        ),
        ("EMAIL", r"ann.lee\u0040example.org"),
        ("EMAIL", "ann.lee%40example.org"),
        ("EMAIL", "ann.lee＠example.org"),
        ("EMAIL", "ann.lee&#64;example.org"),
    ];
    for (kind, value) in written {
        for (before, behind) in [
            ("It is ", " now."),
            ("That of née Lefèvre, whoever she may be: \u{feff}", "\u{200b}, ü"),
            (r#"{"a":"first\nthis is the number: "#, r#"\nlast"}"#),
        ] {
            let text = format!("{before}{value}{behind}");
            let spans = pii::patterns(&text);
            let there = |span: &&pii::Span| {
                let chars: String = text
                    .chars()
                    .skip(span.chars.start)
                    .take(span.chars.len())
                    .collect();
                span.kind == *kind && text[span.bytes.clone()] == **value && chars == **value
            };
            assert_eq!(spans.iter().filter(there).count(), 1, "{text}: {spans:?}");
        }
    }
    let phone = "Tél. : 06\u{a0}12\u{a0}34\u{a0}56\u{a0}78";
    assert!(pii::patterns(phone).iter().any(|span| span.kind == "PHONE"));
}
