//! Checksums of identifiers. Each takes the compact form: ASCII digits and capital letters, no separators.
//!
//! None of them panics on other bytes or lengths: what a check cannot read it denies.

/// Whether a compact identifier can be one of its kind.
pub type Check = fn(&[u8]) -> bool;

/// For identifiers without any inner rule.
pub(super) fn any(_: &[u8]) -> bool {
    true
}

fn digit(byte: u8) -> Option<u32> {
    byte.is_ascii_digit().then(|| u32::from(byte - b'0'))
}

/// The digits of `compact`, or `None` where another byte stands among them.
fn digits(compact: &[u8]) -> Option<Vec<u32>> {
    compact.iter().map(|b| digit(*b)).collect()
}

/// The number that the digits of `compact` spell; `None` beyond 18 digits.
fn number(compact: &[u8]) -> Option<u64> {
    if compact.len() > 18 {
        return None;
    }
    compact
        .iter()
        .try_fold(0_u64, |n, b| Some(n * 10 + u64::from(digit(*b)?)))
}

/// Value of a character in base 36: 0-9, then A=10 to Z=35.
fn base36(byte: u8) -> Option<u32> {
    char::from(byte)
        .to_digit(36)
        .filter(|_| !byte.is_ascii_lowercase())
}

/// Sum of digits by weight; `None` where something is no digit. Weights beyond the digits, or the other way, are left out.
fn weighted(compact: &[u8], weights: &[u32]) -> Option<u32> {
    weights
        .iter()
        .zip(compact)
        .try_fold(0, |sum, (w, b)| Some(sum + w * digit(*b)?))
}

/// Ends in the digit that makes the weighted sum of all a multiple of `modulus`.
fn sums_to(compact: &[u8], weights: &[u32], modulus: u32) -> bool {
    compact.len() == weights.len() && weighted(compact, weights).is_some_and(|s| s % modulus == 0)
}

fn same_digit(compact: &[u8]) -> bool {
    compact.windows(2).all(|w| w[0] == w[1])
}

/// Whether month and day can be, leap years not looked at.
fn day_and_month(day: u32, month: u32) -> bool {
    let days = match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return false,
    };
    (1..=days).contains(&day)
}

fn two(compact: &[u8], at: usize) -> Option<u32> {
    Some(digit(*compact.get(at)?)? * 10 + digit(*compact.get(at + 1)?)?)
}

/// A date as YYMMDD at `at`.
fn yymmdd(compact: &[u8], at: usize) -> bool {
    matches!((two(compact, at + 2), two(compact, at + 4)), (Some(m), Some(d)) if day_and_month(d, m))
}

/// A date as DDMMYY at `at`.
fn ddmmyy(compact: &[u8], at: usize) -> bool {
    matches!((two(compact, at), two(compact, at + 2)), (Some(d), Some(m)) if day_and_month(d, m))
}

/// Luhn's formula, ISO/IEC 7812-1 annex B.
pub(super) fn luhn(compact: &[u8]) -> bool {
    let Some(digits) = digits(compact) else {
        return false;
    };
    let doubled = |d: u32| if d > 4 { 2 * d - 9 } else { 2 * d };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| if i % 2 == 1 { doubled(*d) } else { *d })
        .sum();
    digits.len() > 1 && sum.is_multiple_of(10) && !same_digit(compact)
}

/// ISO 7064 MOD 97-10 over digits and letters, as in IBAN and LEI: the whole is 1 modulo 97.
pub(super) fn mod97(compact: &[u8]) -> bool {
    let rest = compact.iter().try_fold(0_u32, |rest, b| {
        let value = base36(*b)?;
        Some(
            (if value > 9 {
                rest * 100 + value
            } else {
                rest * 10 + value
            }) % 97,
        )
    });
    rest == Some(1)
}

/// ISO 7064 MOD 11,10 over digits, as in German and Croatian tax numbers.
pub(super) fn mod11_10(compact: &[u8]) -> bool {
    let Some(digits) = digits(compact) else {
        return false;
    };
    let Some((check, body)) = digits.split_last() else {
        return false;
    };
    let product = body.iter().fold(10, |p, d| match (p + d) % 10 {
        0 => 9,
        s => s * 2 % 11,
    });
    (11 - product) % 10 == *check
}

/// ISO 7064 MOD 11-2: digits, and X for ten at the end.
pub(super) fn mod11_2(compact: &[u8]) -> bool {
    let Some((check, body)) = compact.split_last() else {
        return false;
    };
    let sum = body.iter().try_fold(0, |s, b| Some((s + digit(*b)?) * 2 % 11));
    let check = if *check == b'X' { Some(10) } else { digit(*check) };
    matches!((sum, check), (Some(s), Some(c)) if (s + c) % 11 == 1)
}

/// Verhoeff's check over the dihedral group of ten.
pub(super) fn verhoeff(compact: &[u8]) -> bool {
    const MOVES: [[u32; 10]; 8] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 5, 7, 6, 2, 8, 3, 0, 9, 4],
        [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
        [8, 9, 1, 6, 0, 4, 3, 5, 2, 7],
        [9, 4, 5, 3, 1, 2, 6, 8, 7, 0],
        [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
        [2, 7, 9, 3, 8, 0, 6, 4, 1, 5],
        [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
    ];
    // Products in the group: turns are 0 to 4, turns after a mirror 5 to 9.
    let times = |a: u32, b: u32| match (a < 5, b < 5) {
        (true, true) => (a + b) % 5,
        (true, false) => 5 + (a + b - 5) % 5,
        (false, true) => 5 + (a - 5 + 5 - b) % 5,
        (false, false) => (a - 5 + 5 - (b - 5)) % 5,
    };
    let Some(digits) = digits(compact) else {
        return false;
    };
    let product = digits
        .iter()
        .rev()
        .enumerate()
        .fold(0, |p, (i, d)| times(p, MOVES[i % 8][*d as usize]));
    digits.len() > 1 && product == 0 && !same_digit(compact)
}

/// ICAO 9303 check digit (7-3-1) at the end, over digits and letters.
pub(super) fn icao(compact: &[u8]) -> bool {
    let Some((check, body)) = compact.split_last() else {
        return false;
    };
    let sum = body
        .iter()
        .zip([7, 3, 1].into_iter().cycle())
        .try_fold(0, |s, (b, w)| Some(s + w * base36(*b)?));
    matches!((sum, digit(*check)), (Some(s), Some(c)) if s % 10 == c)
}

/// GS1 check digit: weights 1 and 3 from the right.
pub(super) fn ean(compact: &[u8]) -> bool {
    let Some(digits) = digits(compact) else {
        return false;
    };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| if i % 2 == 1 { 3 * d } else { *d })
        .sum();
    digits.len() > 1 && sum.is_multiple_of(10)
}

// ---- North America ----

/// US social security number: area, group and serial that are given out.
pub(super) fn us_ssn(c: &[u8]) -> bool {
    let (Some(area), Some(group), Some(serial)) = (
        c.get(..3).and_then(number),
        c.get(3..5).and_then(number),
        c.get(5..9).and_then(number),
    ) else {
        return false;
    };
    // Two numbers were printed in advertisements and belong to nobody.
    let printed = matches!((area, group, serial), (78, 5, 1120) | (219, 9, 9999));
    !matches!(area, 0 | 666 | 900..) && group > 0 && serial > 0 && !printed && !same_digit(c)
}

/// US individual taxpayer number: 9, and a group of the ranges given out.
pub(super) fn us_itin(c: &[u8]) -> bool {
    c.first() == Some(&b'9') && matches!(two(c, 3), Some(50..=65 | 70..=88 | 90..=92 | 94..=99))
}

/// US employer number: the prefixes of the campuses.
pub(super) fn us_ein(c: &[u8]) -> bool {
    matches!(
        two(c, 0),
        Some(1..=6 | 10..=16 | 20..=27 | 30..=48 | 50..=68 | 71..=77 | 80..=88 | 90..=95 | 98 | 99)
    )
}

/// US routing number of a bank: 3-7-1, and a prefix of a reserve bank.
pub(super) fn us_aba(c: &[u8]) -> bool {
    sums_to(c, &[3, 7, 1, 3, 7, 1, 3, 7, 1], 10) && matches!(two(c, 0), Some(1..=12 | 21..=32 | 61..=72 | 80))
}

/// US provider number: Luhn behind the prefix of American health cards.
pub(super) fn us_npi(c: &[u8]) -> bool {
    matches!(c.first(), Some(b'1' | b'2')) && luhn(&[b"80840", c].concat())
}

/// US registration for controlled substances.
pub(super) fn us_dea(c: &[u8]) -> bool {
    c.len() == 9
        && matches!(
            (weighted(&c[2..8], &[1, 2, 1, 2, 1, 2]), digit(c[8])),
            (Some(s), Some(check)) if s % 10 == check
        )
}

/// Canadian social insurance number.
pub(super) fn ca_sin(c: &[u8]) -> bool {
    !matches!(c.first(), Some(b'0' | b'8')) && luhn(c)
}

/// Mexican population key: a date, a state letter pair, and a check digit over 37 characters.
pub(super) fn mx_curp(c: &[u8]) -> bool {
    if c.len() != 18 || !yymmdd(c, 4) || !matches!(c[10], b'H' | b'M' | b'X') {
        return false;
    }
    // The Ñ stands between N and O, so letters from O on are one higher than in base 36.
    let value = |b: u8| {
        base36(b).map(|v| {
            if b >= b'O' && b.is_ascii_uppercase() {
                v + 1
            } else {
                v
            }
        })
    };
    let sum = c[..17]
        .iter()
        .enumerate()
        .try_fold(0, |s, (i, b)| Some(s + value(*b)? * (18 - i as u32)));
    matches!((sum, digit(c[17])), (Some(s), Some(check)) if (10 - s % 10) % 10 == check)
}

/// Mexican tax number: the date in it can be.
pub(super) fn mx_rfc(c: &[u8]) -> bool {
    yymmdd(c, c.iter().take_while(|b| !b.is_ascii_digit()).count())
}

// ---- South America ----

/// Brazilian person's tax number: two check digits modulo 11.
pub(super) fn br_cpf(c: &[u8]) -> bool {
    let check = |n: usize| {
        let weights: Vec<u32> = (2..=n as u32 + 1).rev().collect();
        Some(match weighted(c.get(..n)?, &weights)? * 10 % 11 {
            10 => 0,
            d => d,
        })
    };
    c.len() == 11 && !same_digit(c) && check(9) == digit(c[9]) && check(10) == digit(c[10])
}

/// Brazilian company's tax number, also with letters as given out since 2026.
pub(super) fn br_cnpj(c: &[u8]) -> bool {
    let value = |b: u8| (b.is_ascii_digit() || b.is_ascii_uppercase()).then(|| u32::from(b - b'0'));
    let check = |n: usize| {
        let weights = (2..=9).cycle();
        let sum = c
            .get(..n)?
            .iter()
            .rev()
            .zip(weights)
            .try_fold(0, |s, (b, w)| Some(s + w * value(*b)?))?;
        Some(if sum % 11 < 2 { 0 } else { 11 - sum % 11 })
    };
    c.len() == 14 && !same_digit(c) && check(12) == digit(c[12]) && check(13) == digit(c[13])
}

/// Brazilian social number.
pub(super) fn br_pis(c: &[u8]) -> bool {
    let sum = weighted(c, &[3, 2, 9, 8, 7, 6, 5, 4, 3, 2]);
    c.len() == 11 && !same_digit(c) && sum.map(|s| (11 - s % 11) % 11 % 10) == digit(c[10])
}

/// Argentine tax number.
pub(super) fn ar_cuit(c: &[u8]) -> bool {
    c.len() == 11
        && matches!(two(c, 0), Some(20 | 23 | 24 | 25 | 26 | 27 | 30 | 33 | 34))
        && sums_to(c, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1], 11)
}

/// Chilean role number: digits, then 0-9 or K modulo 11.
pub(super) fn cl_rut(c: &[u8]) -> bool {
    let Some((check, body)) = c.split_last() else {
        return false;
    };
    let sum = body
        .iter()
        .rev()
        .zip((2..=7).cycle())
        .try_fold(0, |s, (b, w)| Some(s + w * digit(*b)?));
    let wanted = sum.map(|s| b"0K987654321"[(s % 11) as usize]);
    body.len() >= 7 && !same_digit(body) && wanted == Some(*check)
}

/// Colombian tax number with its check digit.
pub(super) fn co_nit(c: &[u8]) -> bool {
    let Some((check, body)) = c.split_last() else {
        return false;
    };
    let weights = [3, 7, 13, 17, 19, 23, 29, 37, 41, 43, 47, 53, 59, 67, 71];
    let sum = body
        .iter()
        .rev()
        .zip(weights)
        .try_fold(0, |s, (b, w)| Some(s + w * digit(*b)?));
    sum.map(|s| if s % 11 < 2 { s % 11 } else { 11 - s % 11 }) == digit(*check)
}

/// Peruvian tax number.
pub(super) fn pe_ruc(c: &[u8]) -> bool {
    matches!(two(c, 0), Some(10 | 15 | 16 | 17 | 20))
        && c.len() == 11
        && weighted(c, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2]).map(|s| (11 - s % 11) % 10) == digit(c[10])
}

/// Ecuadorian identity number: province, then Luhn.
pub(super) fn ec_cedula(c: &[u8]) -> bool {
    matches!(two(c, 0), Some(1..=24 | 30)) && c.get(2).is_some_and(|b| *b < b'6') && luhn(c)
}

/// Uruguayan identity number.
pub(super) fn uy_ci(c: &[u8]) -> bool {
    sums_to(c, &[2, 9, 8, 7, 6, 3, 4, 1], 10) && !same_digit(c)
}

/// Venezuelan tax number: a letter, eight digits, a check digit.
pub(super) fn ve_rif(c: &[u8]) -> bool {
    let kind = match c.first() {
        Some(b'V') => 4,
        Some(b'E') => 8,
        Some(b'J' | b'C') => 12,
        Some(b'P') => 16,
        Some(b'G') => 20,
        _ => return false,
    };
    c.len() == 10
        && weighted(&c[1..9], &[3, 2, 7, 6, 5, 4, 3, 2]).map(|s| b"00987654321"[((s + kind) % 11) as usize])
            == Some(c[9])
}

// ---- Britain and Ireland ----

/// British national insurance number: prefixes that are given out.
pub(super) fn gb_nino(c: &[u8]) -> bool {
    let (Some(&a), Some(&b)) = (c.first(), c.get(1)) else {
        return false;
    };
    let never = [*b"BG", *b"GB", *b"NK", *b"KN", *b"TN", *b"NT", *b"ZZ"];
    !b"DFIQUV".contains(&a)
        && !b"DFIOQUV".contains(&b)
        && !never.contains(&[a, b])
        && c.last().is_some_and(|s| (b'A'..=b'D').contains(s))
}

/// British health number: modulo 11, ten is not given out.
pub(super) fn gb_nhs(c: &[u8]) -> bool {
    !same_digit(c) && sums_to(c, &[10, 9, 8, 7, 6, 5, 4, 3, 2, 1], 11)
}

/// British tax reference: the check digit stands first.
pub(super) fn gb_utr(c: &[u8]) -> bool {
    c.len() == 10
        && weighted(&c[1..], &[6, 7, 8, 9, 10, 5, 4, 3, 2]).map(|s| b"21987654321"[(s % 11) as usize])
            == Some(c[0])
}

/// British driver number: surname, decade, month, day, year, initials.
pub(super) fn gb_driver(c: &[u8]) -> bool {
    c.len() == 16
        && two(c, 6).is_some_and(|m| matches!(m, 1..=12 | 51..=62))
        && matches!(two(c, 8), Some(1..=31))
}

/// British value added tax number: modulo 97, old and new.
pub(super) fn gb_vat(c: &[u8]) -> bool {
    let body = c.strip_prefix(b"GB").unwrap_or(c);
    let sum = weighted(body, &[8, 7, 6, 5, 4, 3, 2]).filter(|_| body.len() == 9 && body[0] != b'0');
    matches!((sum, two(body, 7)), (Some(s), Some(check)) if (s + check) % 97 == 0 || (s + check + 55) % 97 == 0)
}

/// Irish personal public service number: letter modulo 23, the second letter counts nine.
pub(super) fn ie_pps(c: &[u8]) -> bool {
    if c.len() < 8 {
        return false;
    }
    let second = match c.get(8) {
        None | Some(b'W') => 0,
        Some(b @ b'A'..=b'I') => u32::from(b - b'A' + 1),
        Some(_) => return false,
    };
    weighted(&c[..7], &[8, 7, 6, 5, 4, 3, 2])
        .map(|s| b"WABCDEFGHIJKLMNOPQRSTUV"[((s + 9 * second) % 23) as usize])
        == Some(c[7])
}

// ---- France, Benelux, Switzerland, Austria, Germany ----

/// French social security number: 97 minus the rest; Corsica's 2A and 2B count as 19 and 18.
pub(super) fn fr_nir(c: &[u8]) -> bool {
    if c.len() != 15 || !matches!(c[0], b'1'..=b'4' | b'7' | b'8') {
        return false;
    }
    let mut plain = c.to_vec();
    match &c[5..7] {
        b"2A" => plain[5..7].copy_from_slice(b"19"),
        b"2B" => plain[5..7].copy_from_slice(b"18"),
        _ => {}
    }
    let month = two(c, 3).is_some_and(|m| matches!(m, 1..=12 | 20..=42 | 50..=99));
    matches!((number(&plain[..13]), number(&plain[13..])), (Some(n), Some(k)) if month && 97 - n % 97 == k)
}

/// French establishment number: a company number, and Luhn over the whole.
pub(super) fn fr_siret(c: &[u8]) -> bool {
    c.len() == 14 && luhn(&c[..9]) && luhn(c)
}

/// French tax number of a person: modulo 511.
pub(super) fn fr_spi(c: &[u8]) -> bool {
    c.len() == 13
        && matches!(c[0], b'0'..=b'3')
        && matches!((number(&c[..10]), number(&c[10..])), (Some(n), Some(k)) if n % 511 == k)
}

/// French value added tax number: a key of two before a company number.
pub(super) fn fr_vat(c: &[u8]) -> bool {
    let Some(body) = c.strip_prefix(b"FR").filter(|b| b.len() == 11) else {
        return false;
    };
    let Some(company) = number(&body[2..]) else {
        return false;
    };
    if let Some(key) = number(&body[..2]) {
        return (12 + 3 * (company % 97)) % 97 == key && luhn(&body[2..]);
    }
    // Keys with letters, without I and O.
    let place = |b: u8| {
        b"0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"
            .iter()
            .position(|k| *k == b)
            .map(|p| p as u64)
    };
    let key = match (place(body[0]), place(body[1])) {
        (Some(a @ 0..=9), Some(b)) => (a * 24 + b).checked_sub(10),
        (Some(a), Some(b)) => (a * 34 + b).checked_sub(100),
        _ => None,
    };
    key.is_some_and(|key| (company + 1 + key / 11) % 11 == key % 11)
}

/// Dutch citizen number: the eleven test with a last weight of minus one.
pub(super) fn nl_bsn(c: &[u8]) -> bool {
    // Minus one is ten modulo eleven.
    c.len() == 9 && !same_digit(c) && sums_to(c, &[9, 8, 7, 6, 5, 4, 3, 2, 10], 11)
}

/// Dutch value added tax number: modulo 97 over all, or a citizen number before the B.
pub(super) fn nl_vat(c: &[u8]) -> bool {
    mod97(c) || c.get(2..11).is_some_and(nl_bsn)
}

/// Belgian national number: 97 minus the rest, a 2 before the births since 2000.
pub(super) fn be_nn(c: &[u8]) -> bool {
    let date = two(c, 2).is_some_and(|m| m % 20 <= 12) && two(c, 4).is_some_and(|d| d <= 31);
    c.len() == 11
        && date
        && matches!((number(&c[..9]), number(&c[9..])), (Some(n), Some(k))
            if 97 - n % 97 == k || 97 - (2_000_000_000 + n) % 97 == k)
}

/// Belgian company number: 97 minus the rest.
pub(super) fn be_vat(c: &[u8]) -> bool {
    let body = c.strip_prefix(b"BE").unwrap_or(c);
    body.len() == 10
        && matches!(body[0], b'0' | b'1')
        && matches!((number(&body[..8]), number(&body[8..])), (Some(n), Some(k)) if 97 - n % 97 == k)
}

/// Luxembourgish identity number: a date, then Luhn and Verhoeff digits.
pub(super) fn lu_nin(c: &[u8]) -> bool {
    c.len() == 13 && yymmdd(c, 2) && luhn(&c[..12]) && verhoeff(&[&c[..11], &c[12..]].concat())
}

/// Swiss social number: 756, then a check digit of GS1.
pub(super) fn ch_ahv(c: &[u8]) -> bool {
    c.len() == 13 && c.starts_with(b"756") && ean(c)
}

/// Swiss company number: modulo 11.
pub(super) fn ch_uid(c: &[u8]) -> bool {
    c.get(3..12)
        .is_some_and(|d| sums_to(d, &[5, 4, 3, 2, 7, 6, 5, 4, 1], 11))
}

/// Austrian social number: the check digit stands fourth, a date ends it.
pub(super) fn at_svnr(c: &[u8]) -> bool {
    c.len() == 10
        && c[0] != b'0'
        && matches!((two(c, 4), two(c, 6)), (Some(1..=31), Some(1..=15)))
        && weighted(c, &[3, 7, 9, 0, 5, 8, 4, 2, 1, 6]).map(|s| s % 11) == digit(c[3])
}

/// Austrian value added tax number.
pub(super) fn at_vat(c: &[u8]) -> bool {
    let Some(d) = c.strip_prefix(b"ATU").filter(|d| d.len() == 8) else {
        return false;
    };
    let odd = |b: u8| digit(b).map(|v| if v > 4 { 2 * v - 9 } else { 2 * v });
    let sum = (0..7).try_fold(4, |s, i| {
        Some(s + if i % 2 == 0 { digit(d[i])? } else { odd(d[i])? })
    });
    matches!((sum, digit(d[7])), (Some(s), Some(k)) if (10 - s % 10) % 10 == k)
}

/// German tax number of a person: exactly one digit of the first ten stands twice or thrice.
pub(super) fn de_idnr(c: &[u8]) -> bool {
    if c.len() != 11 || c[0] == b'0' || !mod11_10(c) {
        return false;
    }
    let mut counts = [0_u8; 10];
    c[..10].iter().for_each(|b| counts[usize::from(b - b'0')] += 1);
    let repeated: Vec<u8> = counts.into_iter().filter(|n| *n > 1).collect();
    matches!(repeated[..], [2] | [3])
}

/// German pension insurance number: area, date, letter, serial, check digit.
pub(super) fn de_rvnr(c: &[u8]) -> bool {
    if c.len() != 12 || !c[8].is_ascii_uppercase() {
        return false;
    }
    let letter = u32::from(c[8] - b'A' + 1);
    let spelled: Vec<u8> = [&c[..8], format!("{letter:02}").as_bytes(), &c[9..11]].concat();
    let weights = [2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1];
    let sum = spelled.iter().zip(weights).try_fold(0, |s, (b, w)| {
        let product = digit(*b)? * w;
        Some(s + product / 10 + product % 10)
    });
    let day = matches!(two(c, 2), Some(d) if (1..=31).contains(&(d % 50)));
    day && matches!(two(c, 4), Some(1..=12)) && sum.map(|s| s % 10) == digit(c[11])
}

/// German health insurance number: a letter spelled as two digits, then Luhn.
pub(super) fn de_kvnr(c: &[u8]) -> bool {
    if c.len() != 10 || !c[0].is_ascii_uppercase() {
        return false;
    }
    let spelled = [format!("{:02}", c[0] - b'A' + 1).as_bytes(), &c[1..9]].concat();
    let sum = spelled.iter().enumerate().try_fold(0, |s, (i, b)| {
        let product = digit(*b)? * (1 + i as u32 % 2);
        Some(s + product / 10 + product % 10)
    });
    sum.map(|s| s % 10) == digit(c[9])
}

/// German identity card and passport: no vowels, and the check digit of ICAO.
pub(super) fn de_card(c: &[u8]) -> bool {
    c.len() == 10
        && c.iter()
            .all(|b| b.is_ascii_digit() || b"CFGHJKLMNPRTVWXYZ".contains(b))
        && c.iter().any(u8::is_ascii_uppercase)
        && icao(c)
}

// ---- Spain, Portugal, Italy, Greece, Turkey, Israel ----

const DNI_LETTERS: &[u8; 23] = b"TRWAGMYFPDXBNJZSQVHLCKE";

/// Spanish identity number of citizens and of foreigners (X, Y, Z): a letter modulo 23.
pub(super) fn es_dni(c: &[u8]) -> bool {
    let mut plain = c.to_vec();
    match plain.first() {
        Some(b @ b'X'..=b'Z') => plain[0] = b - b'X' + b'0',
        None => return false,
        Some(_) => {}
    }
    matches!(plain.split_last(), Some((letter, body))
        if body.len() == 8 && number(body).is_some_and(|n| DNI_LETTERS[(n % 23) as usize] == *letter))
}

/// Spanish company number: Luhn of seven digits, as digit or as letter.
pub(super) fn es_cif(c: &[u8]) -> bool {
    if c.len() != 9 || !b"ABCDEFGHJNPQRSUVW".contains(&c[0]) {
        return false;
    }
    let doubled = |d: u32| if d > 4 { 2 * d - 9 } else { 2 * d };
    let Some(d) = digits(&c[1..8]) else {
        return false;
    };
    let sum: u32 = d
        .iter()
        .enumerate()
        .map(|(i, d)| if i % 2 == 0 { doubled(*d) } else { *d })
        .sum();
    let check = (10 - sum % 10) % 10;
    c[8] == b'0' + check as u8 || c[8] == b"JABCDEFGHI"[check as usize]
}

/// Spanish social security number: the rest modulo 97.
pub(super) fn es_nss(c: &[u8]) -> bool {
    c.len() == 12
        && matches!((number(&c[..10]), number(&c[10..])), (Some(n), Some(k)) if n % 97 == k)
        && matches!(two(c, 0), Some(1..=53 | 66))
}

/// Portuguese tax number.
pub(super) fn pt_nif(c: &[u8]) -> bool {
    c.len() == 9
        && matches!(c[0], b'1'..=b'3' | b'5' | b'6' | b'8' | b'9')
        && weighted(c, &[9, 8, 7, 6, 5, 4, 3, 2]).map(|s| (11 - s % 11) % 11 % 10) == digit(c[8])
}

/// Portuguese citizen card: Luhn over digits and letters.
pub(super) fn pt_cc(c: &[u8]) -> bool {
    let sum = c.iter().rev().enumerate().try_fold(0, |s, (i, b)| {
        let value = base36(*b)?;
        Some(
            s + match (i % 2, 2 * value) {
                (0, _) => value,
                (_, doubled @ 0..=9) => doubled,
                (_, doubled) => doubled - 9,
            },
        )
    });
    c.len() == 12 && sum.is_some_and(|s| s % 10 == 0)
}

/// Italian fiscal code: a letter modulo 26 by odd and even places.
pub(super) fn it_cf(c: &[u8]) -> bool {
    const ODD: [u32; 26] = [
        1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23,
    ];
    // Letters stand for digits where two people would have the same code.
    let spelled = |b: u8| digit(b).or_else(|| b"LMNPQRSTUV".iter().position(|l| *l == b).map(|p| p as u32));
    if c.len() != 16 || !b"ABCDEHLMPRST".contains(&c[8]) {
        return false;
    }
    let day = spelled(c[9]).zip(spelled(c[10])).map(|(a, b)| (a * 10 + b) % 40);
    let rest = [6, 7, 12, 13, 14].into_iter().all(|i| spelled(c[i]).is_some());
    if !rest || !day.is_some_and(|d| (1..=31).contains(&d)) {
        return false;
    }
    let sum = c[..15].iter().enumerate().try_fold(0, |s, (i, b)| {
        let value = match base36(*b)? {
            v @ 0..=9 => v,
            v => v - 10,
        };
        Some(s + if i % 2 == 0 { ODD[value as usize] } else { value })
    });
    sum.map(|s| b'A' + (s % 26) as u8) == Some(c[15])
}

/// Greek social number: a date, then Luhn.
pub(super) fn gr_amka(c: &[u8]) -> bool {
    ddmmyy(c, 0) && luhn(c)
}

/// Greek tax number: powers of two modulo 11.
pub(super) fn gr_afm(c: &[u8]) -> bool {
    c.len() == 9
        && !same_digit(c)
        && weighted(c, &[256, 128, 64, 32, 16, 8, 4, 2]).map(|s| s % 11 % 10) == digit(c[8])
}

/// Turkish identity number: two check digits.
pub(super) fn tr_tckn(c: &[u8]) -> bool {
    let Some(d) = digits(c).filter(|d| d.len() == 11 && d[0] != 0) else {
        return false;
    };
    let odd: u32 = d.iter().step_by(2).take(5).sum();
    let even: u32 = d.iter().skip(1).step_by(2).take(4).sum();
    (7 * odd + 9 * even) % 10 == d[9] && d[..10].iter().sum::<u32>() % 10 == d[10]
}

/// Israeli identity number.
pub(super) fn il_tz(c: &[u8]) -> bool {
    c.len() == 9 && luhn(c)
}

// ---- North and east ----

/// Finnish personal identity code: a date and a character modulo 31.
pub(super) fn fi_hetu(c: &[u8]) -> bool {
    if c.len() != 10 || !ddmmyy(c, 0) {
        return false;
    }
    let n = number(&[&c[..6], &c[6..9]].concat());
    n.map(|n| b"0123456789ABCDEFHJKLMNPRSTUVWXY"[(n % 31) as usize]) == Some(c[9])
}

/// Swedish personal number: a date (day plus 60 for coordination numbers), then Luhn over the last ten.
pub(super) fn se_pnr(c: &[u8]) -> bool {
    let Some(ten) = c.len().checked_sub(10).map(|from| &c[from..]) else {
        return false;
    };
    let day = two(ten, 4).map(|d| if d > 60 { d - 60 } else { d });
    matches!((two(ten, 2), day), (Some(m), Some(d)) if day_and_month(d, m)) && luhn(ten)
}

/// Norwegian birth number: two check digits modulo 11 (day plus 40 for D numbers).
pub(super) fn no_fnr(c: &[u8]) -> bool {
    let day = two(c, 0).map(|d| if d > 40 { d - 40 } else { d });
    matches!((day, two(c, 2)), (Some(d), Some(m)) if day_and_month(d, m))
        && c.len() == 11
        && sums_to(&c[..10], &[3, 7, 6, 1, 8, 9, 4, 5, 2, 1], 11)
        && sums_to(c, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1], 11)
}

/// Danish personal number: the date can be. Numbers given out since 2007 have no check digit.
pub(super) fn dk_cpr(c: &[u8]) -> bool {
    c.len() == 10 && ddmmyy(c, 0)
}

/// Icelandic number of people and companies.
pub(super) fn is_kt(c: &[u8]) -> bool {
    let day = two(c, 0).map(|d| if d > 40 { d - 40 } else { d });
    c.len() == 10
        && matches!((day, two(c, 2)), (Some(d), Some(m)) if day_and_month(d, m))
        && sums_to(&c[..9], &[3, 2, 7, 6, 5, 4, 3, 2, 1], 11)
        && matches!(c[9], b'9' | b'0')
}

/// Estonian and Lithuanian personal code.
pub(super) fn baltic(c: &[u8]) -> bool {
    if c.len() != 11 || !matches!(c[0], b'1'..=b'8') || !yymmdd(c, 1) {
        return false;
    }
    let rest = |weights: &[u32]| weighted(c, weights).map(|s| s % 11);
    let check = match rest(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 1]) {
        Some(10) => rest(&[3, 4, 5, 6, 7, 8, 9, 1, 2, 3]).map(|r| r % 10),
        other => other,
    };
    check == digit(c[10])
}

/// Latvian personal code: a date with a check digit, or a code beginning with 32 to 39 since 2017.
pub(super) fn lv_pk(c: &[u8]) -> bool {
    if matches!(two(c, 0), Some(32..=39)) {
        return c.len() == 11;
    }
    let sum = weighted(c, &[10, 5, 8, 4, 2, 1, 6, 3, 7, 9]);
    c.len() == 11 && ddmmyy(c, 0) && sum.map(|s| (s + 1) % 11 % 10) == digit(c[10])
}

/// Polish personal number: a date with the century in the month, weights 1-3-7-9.
pub(super) fn pl_pesel(c: &[u8]) -> bool {
    matches!((two(c, 2), two(c, 4)), (Some(m), Some(d)) if day_and_month(d, m % 20))
        && sums_to(c, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1], 10)
}

/// Polish tax number.
pub(super) fn pl_nip(c: &[u8]) -> bool {
    c.len() == 10
        && !same_digit(c)
        && weighted(c, &[6, 5, 7, 2, 3, 4, 5, 6, 7]).map(|s| s % 11) == digit(c[9])
}

/// Polish company number of nine digits.
pub(super) fn pl_regon(c: &[u8]) -> bool {
    c.len() == 9
        && !same_digit(c)
        && weighted(c, &[8, 9, 2, 3, 4, 5, 6, 7]).map(|s| s % 11 % 10) == digit(c[8])
}

/// Polish identity card: three letters, a check digit, five digits.
pub(super) fn pl_card(c: &[u8]) -> bool {
    if c.len() != 9 {
        return false;
    }
    let weights = [7, 3, 1, 9, 7, 3, 1, 7, 3];
    let sum = c
        .iter()
        .zip(weights)
        .try_fold(0, |s, (b, w)| Some(s + w * base36(*b)?));
    sum.is_some_and(|s| s % 10 == 0)
}

/// Czech and Slovak birth number: a date (month plus 50 for women), ten digits modulo 11.
pub(super) fn cz_rc(c: &[u8]) -> bool {
    let Some(month) = two(c, 2).map(|m| m % 50).map(|m| if m > 20 { m - 20 } else { m }) else {
        return false;
    };
    let Some(n) = number(c).filter(|_| c.len() == 10) else {
        return false;
    };
    let rest = number(&c[..9]).unwrap_or_default() % 11;
    two(c, 4).is_some_and(|d| day_and_month(d, month)) && (n % 11 == 0 || rest == 10 && c[9] == b'0')
}

/// Hungarian health number: weights 3 and 7.
pub(super) fn hu_taj(c: &[u8]) -> bool {
    c.len() == 9 && !same_digit(c) && weighted(c, &[3, 7, 3, 7, 3, 7, 3, 7]).map(|s| s % 10) == digit(c[8])
}

/// Hungarian tax number of a person.
pub(super) fn hu_tax(c: &[u8]) -> bool {
    c.len() == 10 && c[0] == b'8' && weighted(c, &[1, 2, 3, 4, 5, 6, 7, 8, 9]).map(|s| s % 11) == digit(c[9])
}

/// Romanian personal code.
pub(super) fn ro_cnp(c: &[u8]) -> bool {
    c.len() == 13
        && matches!(c[0], b'1'..=b'9')
        && yymmdd(c, 1)
        && weighted(c, &[2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9]).map(|s| if s % 11 == 10 { 1 } else { s % 11 })
            == digit(c[12])
}

/// Bulgarian citizen number: month plus 20 or 40 by century.
pub(super) fn bg_egn(c: &[u8]) -> bool {
    c.len() == 10
        && matches!((two(c, 2), two(c, 4)), (Some(m), Some(d)) if m < 53 && day_and_month(d, m % 20))
        && weighted(c, &[2, 4, 8, 5, 10, 9, 7, 3, 6]).map(|s| s % 11 % 10) == digit(c[9])
}

/// Citizen number of the republics of former Yugoslavia.
pub(super) fn jmbg(c: &[u8]) -> bool {
    c.len() == 13
        && ddmmyy(c, 0)
        && weighted(c, &[7, 6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2]).map(|s| (11 - s % 11) % 11) == digit(c[12])
}

/// Russian tax number, of companies (10 digits) and of people (12 digits).
pub(super) fn ru_inn(c: &[u8]) -> bool {
    let check = |weights: &[u32]| weighted(c, weights).map(|s| s % 11 % 10);
    match c.len() {
        10 => !same_digit(c) && check(&[2, 4, 10, 3, 5, 9, 4, 6, 8]) == digit(c[9]),
        12 => {
            !same_digit(c)
                && check(&[7, 2, 4, 10, 3, 5, 9, 4, 6, 8]) == digit(c[10])
                && check(&[3, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8]) == digit(c[11])
        }
        _ => false,
    }
}

/// Russian pension number.
pub(super) fn ru_snils(c: &[u8]) -> bool {
    c.len() == 11
        && weighted(c, &[9, 8, 7, 6, 5, 4, 3, 2, 1]).map(|s| s % 101 % 100) == two(c, 9)
        && !same_digit(&c[..9])
}

/// Ukrainian tax number of a person: the first weight is minus one.
pub(super) fn ua_rnokpp(c: &[u8]) -> bool {
    c.len() == 10
        && !same_digit(c)
        && weighted(c, &[10, 5, 7, 9, 4, 6, 10, 5, 7]).map(|s| s % 11 % 10) == digit(c[9])
}

/// Kazakh individual number.
pub(super) fn kz_iin(c: &[u8]) -> bool {
    let rest = |weights: &[u32]| weighted(c, weights).map(|s| s % 11);
    let check = match rest(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]) {
        Some(10) => rest(&[3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 2]),
        other => other,
    };
    c.len() == 12 && yymmdd(c, 0) && check.is_some() && check == digit(c[11])
}

// ---- Asia, Africa, Oceania ----

/// Indian unique number: no 0 or 1 first, Verhoeff.
pub(super) fn in_aadhaar(c: &[u8]) -> bool {
    c.len() == 12 && !matches!(c[0], b'0' | b'1') && verhoeff(c)
}

/// Indian account number of tax: the fourth letter names the kind of holder.
pub(super) fn in_pan(c: &[u8]) -> bool {
    c.get(3).is_some_and(|b| b"ABCFGHJLPT".contains(b)) && c.get(5..9).is_some_and(|d| d != b"0000")
}

/// Indian goods and services tax number: a state, an account number, and a check in base 36.
pub(super) fn in_gstin(c: &[u8]) -> bool {
    if c.len() != 15 || !matches!(two(c, 0), Some(1..=38 | 97 | 99)) || !in_pan(&c[2..12]) {
        return false;
    }
    let sum = c[..14].iter().enumerate().try_fold(0, |s, (i, b)| {
        let product = base36(*b)? * (1 + i as u32 % 2);
        Some(s + product / 36 + product % 36)
    });
    sum.map(|s| (36 - s % 36) % 36) == base36(c[14])
}

/// Chinese resident number: a date, and modulo 11-2.
pub(super) fn cn_ric(c: &[u8]) -> bool {
    let province = matches!(
        two(c, 0),
        Some(11..=15 | 21..=23 | 31..=37 | 41..=46 | 50..=54 | 61..=65 | 71 | 81 | 82 | 91)
    );
    c.len() == 18 && province && matches!(&c[6..8], b"19" | b"20") && yymmdd(c, 8) && mod11_2(c)
}

/// Hong Kong identity card: one or two letters, six digits, a check modulo 11.
pub(super) fn hk_hkid(c: &[u8]) -> bool {
    let Some((check, body)) = c.split_last() else {
        return false;
    };
    let value = |b: &u8| base36(*b);
    let sum = body
        .iter()
        .rev()
        .zip(2_u32..)
        .try_fold(0, |s, (b, w)| Some(s + w * value(b)?));
    // An absent first letter counts as a blank of 36.
    let sum = sum.map(|s| if body.len() == 7 { s + 9 * 36 } else { s });
    let check = if *check == b'A' { Some(10) } else { digit(*check) };
    matches!((sum, check), (Some(s), Some(k)) if (s + k) % 11 == 0)
}

/// Taiwanese identity number: the letter stands for two digits.
pub(super) fn tw_id(c: &[u8]) -> bool {
    if c.len() != 10 || !c[0].is_ascii_uppercase() || !matches!(c[1], b'1' | b'2' | b'8' | b'9') {
        return false;
    }
    let order = b"ABCDEFGHJKLMNPQRSTUVXYWZIO";
    let letter = order.iter().position(|b| *b == c[0]).unwrap_or_default() as u32 + 10;
    let head = letter / 10 + 9 * (letter % 10);
    weighted(&c[1..], &[8, 7, 6, 5, 4, 3, 2, 1, 1]).is_some_and(|s| (s + head).is_multiple_of(10))
}

/// Singaporean identity number: S and T for citizens, F, G and M for foreigners.
pub(super) fn sg_nric(c: &[u8]) -> bool {
    if c.len() != 9 {
        return false;
    }
    let (letters, plus): (&[u8; 11], u32) = match c[0] {
        b'S' => (b"JZIHGFEDCBA", 0),
        b'T' => (b"JZIHGFEDCBA", 4),
        b'F' => (b"XWUTRQPNMLK", 0),
        b'G' => (b"XWUTRQPNMLK", 4),
        b'M' => (b"XWUTRQPNJLK", 3),
        _ => return false,
    };
    let Some(sum) = weighted(&c[1..8], &[2, 7, 6, 5, 4, 3, 2]).map(|s| (s + plus) % 11) else {
        return false;
    };
    let place = if c[0] == b'M' { 10 - sum } else { sum };
    letters[place as usize] == c[8]
}

/// Korean resident number: a date and a century digit; numbers given out since October 2020 have no check digit.
pub(super) fn kr_rrn(c: &[u8]) -> bool {
    c.len() == 13 && yymmdd(c, 0) && c[6].is_ascii_digit()
}

/// Japanese individual number.
pub(super) fn jp_mynumber(c: &[u8]) -> bool {
    let sum = weighted(c, &[6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2]);
    c.len() == 12 && !same_digit(c) && sum.map(|s| if s % 11 < 2 { 0 } else { 11 - s % 11 }) == digit(c[11])
}

/// Thai identity number.
pub(super) fn th_id(c: &[u8]) -> bool {
    c.len() == 13
        && matches!(c[0], b'1'..=b'8')
        && weighted(c, &[13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2]).map(|s| (11 - s % 11) % 10) == digit(c[12])
}

/// Malaysian identity number: a date, and a place of birth that is given out.
pub(super) fn my_nric(c: &[u8]) -> bool {
    c.len() == 12
        && yymmdd(c, 0)
        && !matches!(two(c, 6), None | Some(0 | 17..=20 | 69 | 70 | 73 | 80 | 81 | 94..=97))
}

/// Indonesian identity number: a province, and a date (day plus 40 for women).
pub(super) fn id_nik(c: &[u8]) -> bool {
    let day = two(c, 6).map(|d| if d > 40 { d - 40 } else { d });
    c.len() == 16
        && matches!(
            two(c, 0),
            Some(11..=21 | 31..=36 | 51..=53 | 61..=65 | 71..=76 | 81 | 82 | 91..=97)
        )
        && matches!((day, two(c, 8)), (Some(d), Some(m)) if day_and_month(d, m))
}

/// Australian tax file number.
pub(super) fn au_tfn(c: &[u8]) -> bool {
    !same_digit(c) && sums_to(c, &[1, 4, 3, 7, 5, 8, 6, 9, 10], 11)
}

/// Australian business number: modulo 89 after one is taken from the first digit.
pub(super) fn au_abn(c: &[u8]) -> bool {
    if c.len() != 11 || c[0] == b'0' {
        return false;
    }
    // Taking one from the first digit takes its weight of ten from the sum.
    weighted(c, &[10, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19]).is_some_and(|s| (s - 10) % 89 == 0)
}

/// Australian company number.
pub(super) fn au_acn(c: &[u8]) -> bool {
    c.len() == 9
        && !same_digit(c)
        && weighted(c, &[8, 7, 6, 5, 4, 3, 2, 1]).map(|s| (10 - s % 10) % 10) == digit(c[8])
}

/// Australian health card.
pub(super) fn au_medicare(c: &[u8]) -> bool {
    c.len() >= 10
        && matches!(c[0], b'2'..=b'6')
        && weighted(c, &[1, 3, 7, 9, 1, 3, 7, 9]).map(|s| s % 10) == digit(c[8])
}

/// New Zealand tax number.
pub(super) fn nz_ird(c: &[u8]) -> bool {
    let padded = [&b"0"[..usize::from(c.len() == 8)], c].concat();
    let check = |weights: &[u32]| weighted(&padded, weights).map(|s| (11 - s % 11) % 11);
    let found = match check(&[3, 2, 7, 6, 5, 4, 3, 2]) {
        Some(10) => check(&[7, 4, 3, 2, 5, 2, 7, 6]),
        other => other,
    };
    let given_out = number(c).is_some_and(|n| (10_000_000..150_000_000).contains(&n));
    given_out && padded.len() == 9 && !same_digit(c) && found.is_some() && found == digit(padded[8])
}

/// New Zealand health number: letters without I and O, modulo 11.
pub(super) fn nz_nhi(c: &[u8]) -> bool {
    let value = |b: u8| match b {
        b'I' | b'O' => None,
        b'A'..=b'Z' => b"ABCDEFGHJKLMNPQRSTUVWXYZ"
            .iter()
            .position(|l| *l == b)
            .map(|p| p as u32 + 1),
        b => digit(b),
    };
    if c.len() != 7 {
        return false;
    }
    let sum = c[..6]
        .iter()
        .zip([7, 6, 5, 4, 3, 2])
        .try_fold(0, |s, (b, w)| Some(s + w * value(*b)?));
    matches!((sum, digit(c[6])), (Some(s), Some(k)) if s % 11 != 0 && (11 - s % 11) % 10 == k)
}

/// South African identity number: a date, citizenship, Luhn.
pub(super) fn za_id(c: &[u8]) -> bool {
    c.len() == 13 && yymmdd(c, 0) && matches!(c[10], b'0'..=b'2') && luhn(c)
}

/// Egyptian national number: a century, a date, a governorate.
pub(super) fn eg_id(c: &[u8]) -> bool {
    c.len() == 14 && matches!(c[0], b'2' | b'3') && yymmdd(c, 1) && matches!(two(c, 7), Some(1..=35 | 88))
}

// ---- The world ----

/// Vehicle number: letters without I, O and Q, and the check digit that North America demands at place nine.
pub(super) fn vin(c: &[u8]) -> bool {
    let value = |b: u8| match b {
        b'0'..=b'9' => Some(u32::from(b - b'0')),
        b'A'..=b'H' => Some(u32::from(b - b'A' + 1)),
        b'J'..=b'N' => Some(u32::from(b - b'J' + 1)),
        b'P' => Some(7),
        b'R' => Some(9),
        b'S'..=b'Z' => Some(u32::from(b - b'S' + 2)),
        _ => None,
    };
    let weights = [8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2];
    let sum = c
        .iter()
        .zip(weights)
        .try_fold(0, |s, (b, w)| Some(s + w * value(*b)?));
    c.len() == 17
        && c.iter().any(u8::is_ascii_uppercase)
        && c.iter().any(u8::is_ascii_digit)
        && sum.map(|s| b"0123456789X"[(s % 11) as usize]) == Some(c[8])
}

/// Number of a mobile device.
pub(super) fn imei(c: &[u8]) -> bool {
    c.len() == 15 && luhn(c) && c.iter().filter(|b| **b == b'0').count() < 10
}

/// Legal entity identifier.
pub(super) fn lei(c: &[u8]) -> bool {
    c.len() == 20 && c.iter().any(u8::is_ascii_uppercase) && mod97(c)
}

/// Countries of ISO 3166-1, for codes that name one.
const COUNTRIES: &str = "AD AE AF AG AI AL AM AO AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BW \
    BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG ER ES ET FI FJ FK FM FO FR GA \
    GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH \
    KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX \
    MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE \
    SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG US UY UZ VA VC VE VG \
    VI VN VU WF WS XK YE YT ZA ZM ZW";

/// European health card: eighty, then the number of its country, which has a check digit in some of them only.
pub(super) fn luhn_or_any(c: &[u8]) -> bool {
    c.starts_with(b"80")
}

/// Business identifier code: a country stands at places five and six.
pub(super) fn bic(c: &[u8]) -> bool {
    let country = c.get(4..6).and_then(|c| std::str::from_utf8(c).ok());
    matches!(c.len(), 8 | 11)
        && country.is_some_and(|country| COUNTRIES.split_whitespace().any(|known| known == country))
}

/// International bank account number: the length of its country, and modulo 97 with the head at the end.
pub(super) fn iban(c: &[u8]) -> bool {
    let length = |code: &[u8]| {
        IBAN_LENGTHS
            .iter()
            .find(|(country, _)| country.as_bytes() == code)
            .map(|(_, n)| *n)
    };
    c.len() > 4
        && length(&c[..2]) == Some(c.len())
        && c[2..4].iter().all(u8::is_ascii_digit)
        && mod97(&[&c[4..], &c[..4]].concat())
}

/// Lengths of bank account numbers by country, from the registry of ISO 13616.
pub(super) const IBAN_LENGTHS: &[(&str, usize)] = &[
    ("AD", 24),
    ("AE", 23),
    ("AL", 28),
    ("AT", 20),
    ("AZ", 28),
    ("BA", 20),
    ("BE", 16),
    ("BG", 22),
    ("BH", 22),
    ("BI", 27),
    ("BR", 29),
    ("BY", 28),
    ("CH", 21),
    ("CR", 22),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DJ", 27),
    ("DK", 18),
    ("DO", 28),
    ("EE", 20),
    ("EG", 29),
    ("ES", 24),
    ("FI", 18),
    ("FK", 18),
    ("FO", 18),
    ("FR", 27),
    ("GB", 22),
    ("GE", 22),
    ("GI", 23),
    ("GL", 18),
    ("GR", 27),
    ("GT", 28),
    ("HN", 28),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IQ", 23),
    ("IS", 26),
    ("IT", 27),
    ("JO", 30),
    ("KW", 30),
    ("KZ", 20),
    ("LB", 28),
    ("LC", 32),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("LY", 25),
    ("MC", 27),
    ("MD", 24),
    ("ME", 22),
    ("MK", 19),
    ("MN", 20),
    ("MR", 27),
    ("MT", 31),
    ("MU", 30),
    ("NI", 28),
    ("NL", 18),
    ("NO", 15),
    ("OM", 23),
    ("PK", 24),
    ("PL", 28),
    ("PS", 29),
    ("PT", 25),
    ("QA", 29),
    ("RO", 24),
    ("RS", 22),
    ("RU", 33),
    ("SA", 24),
    ("SC", 31),
    ("SD", 18),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("SM", 27),
    ("SO", 23),
    ("ST", 25),
    ("SV", 28),
    ("TL", 23),
    ("TN", 24),
    ("TR", 26),
    ("UA", 29),
    ("VA", 22),
    ("VG", 24),
    ("XK", 20),
    ("YE", 30),
];
