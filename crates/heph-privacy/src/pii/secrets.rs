//! Keys, tokens and passwords.
//!
//! Two ways lead to a secret: the form that its provider gives it, and a word such as `password` before a value that looks drawn
//! by chance. Where the value is an expression, a placeholder or a word of a language, nothing is reported.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::words::{About, Words};

/// Letters of a token.
#[derive(Debug, Clone, Copy)]
enum Letters {
    /// 0-9, a-f, in one case.
    Hex,
    /// Letters and digits.
    Plain,
    /// Letters, digits, `-` and `_`.
    Url,
    /// Letters, digits, `+`, `/`, `=`, `-` and `_`.
    Base64,
    /// As `Url`, with dots between parts.
    Dotted,
    /// Capitals and digits.
    Capitals,
}

impl Letters {
    fn has(self, byte: u8) -> bool {
        match self {
            Letters::Hex => byte.is_ascii_hexdigit(),
            Letters::Plain => byte.is_ascii_alphanumeric(),
            Letters::Url => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'),
            Letters::Base64 => {
                byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_')
            }
            Letters::Dotted => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~'),
            Letters::Capitals => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
        }
    }
}

/// A form of a provider: what it begins with, what follows, how long at least and at most.
type Form = (&'static str, &'static str, Letters, usize, usize);

use Letters::{Base64, Capitals, Dotted, Hex, Plain, Url};

/// Forms that providers document for their keys. The name, the front, and what follows it.
#[rustfmt::skip]
const FORMS: &[Form] = &[
    // Clouds.
    ("aws", "AKIA", Capitals, 16, 16), ("aws", "ASIA", Capitals, 16, 16), ("aws", "ABIA", Capitals, 16, 16),
    ("aws", "ACCA", Capitals, 16, 16), ("google", "AIza", Url, 35, 35), ("google", "GOCSPX-", Url, 24, 32),
    ("google", "ya29.", Dotted, 40, 2048), ("google", "1//0", Url, 40, 200), ("alibaba", "LTAI", Plain, 16, 24),
    ("tencent", "AKID", Plain, 32, 36), ("digitalocean", "dop_v1_", Hex, 64, 64),
    ("digitalocean", "doo_v1_", Hex, 64, 64), ("digitalocean", "dor_v1_", Hex, 64, 64),
    ("yandex", "AQVN", Url, 35, 38), ("yandex", "y0_", Url, 50, 70), ("ibm", "ApiKey-", Url, 36, 40),
    ("oracle", "ocid1.credential.", Dotted, 40, 200), ("heroku", "HRKU-", Url, 36, 64),
    ("fly", "FlyV1 fm", Base64, 40, 2048), ("fly", "fo1_", Url, 43, 43), ("cloudflare", "v1.0-", Hex, 24, 200),
    ("vultr", "VULTR-", Capitals, 30, 40), ("scaleway", "SCW", Capitals, 17, 17),
    ("netlify", "nfp_", Plain, 36, 40), ("vercel", "vcp_", Plain, 40, 64),
    ("railway", "railway_", Plain, 30, 64),
    // Code and packages.
    ("github", "ghp_", Plain, 36, 255), ("github", "gho_", Plain, 36, 255), ("github", "ghu_", Plain, 36, 255),
    ("github", "ghs_", Plain, 36, 255), ("github", "ghr_", Plain, 36, 255),
    ("github", "github_pat_", Url, 60, 255), ("gitlab", "glpat-", Dotted, 20, 300),
    ("gitlab", "gldt-", Url, 20, 64), ("gitlab", "glrt-", Dotted, 20, 64), ("gitlab", "glcbt-", Url, 20, 80),
    ("gitlab", "glptt-", Hex, 40, 40), ("gitlab", "glft-", Url, 20, 64), ("gitlab", "glsoat-", Url, 20, 64),
    ("gitlab", "glimt-", Url, 25, 25), ("gitlab", "glagent-", Url, 50, 64), ("gitlab", "gloas-", Plain, 64, 64),
    ("gitlab", "GR1348941", Url, 20, 20), ("bitbucket", "ATBB", Plain, 24, 40),
    ("atlassian", "ATATT3", Base64, 180, 400), ("atlassian", "ATCTT3", Base64, 180, 400),
    ("npm", "npm_", Plain, 36, 36), ("pypi", "pypi-AgE", Url, 40, 500), ("pypi", "pypi-", Url, 85, 500),
    ("rubygems", "rubygems_", Hex, 48, 48), ("cargo", "cio", Plain, 32, 32),
    ("clojars", "CLOJARS_", Plain, 60, 60), ("nuget", "oy2", Plain, 43, 43),
    ("docker", "dckr_pat_", Url, 27, 40), ("docker", "dckr_oat_", Url, 32, 40),
    ("jfrog", "AKCp", Plain, 60, 80), ("sourcegraph", "sgp_", Url, 40, 80), ("sonar", "squ_", Hex, 40, 40),
    ("sonar", "sqp_", Hex, 40, 40), ("sonar", "sqa_", Hex, 40, 40), ("circleci", "CCIPAT_", Url, 40, 80),
    ("buildkite", "bkua_", Hex, 40, 40), ("travis", "tcp_", Plain, 22, 40), ("pulumi", "pul-", Hex, 40, 40),
    ("terraform", ".atlasv1.", Base64, 60, 80), ("snyk", "snyk_uat.", Dotted, 40, 120),
    // Models.
    ("openai", "sk-proj-", Url, 20, 300), ("openai", "sk-svcacct-", Url, 20, 300),
    ("openai", "sk-admin-", Url, 20, 300), ("openai", "sk-None-", Url, 20, 300),
    ("anthropic", "sk-ant-", Url, 20, 300), ("openrouter", "sk-or-", Url, 20, 120),
    ("langfuse", "sk-lf-", Url, 30, 60), ("openai", "sk-", Url, 20, 300), ("huggingface", "hf_", Plain, 30, 40),
    ("huggingface", "api_org_", Plain, 30, 40), ("groq", "gsk_", Plain, 40, 64),
    ("perplexity", "pplx-", Plain, 40, 64), ("xai", "xai-", Plain, 70, 100),
    ("replicate", "r8_", Plain, 30, 40), ("nvidia", "nvapi-", Url, 50, 80),
    ("together", "tgp_v1_", Url, 40, 50), ("langsmith", "lsv2_", Url, 40, 60),
    ("pinecone", "pcsk_", Url, 40, 100), ("fireworks", "fw_", Plain, 22, 40),
    ("cerebras", "csk-", Plain, 40, 64), ("tavily", "tvly-", Url, 20, 64), ("firecrawl", "fc-", Hex, 32, 32),
    ("elevenlabs", "sk_", Hex, 48, 48),
    // Money.
    ("stripe", "sk_live_", Plain, 16, 255), ("stripe", "rk_live_", Plain, 16, 255),
    ("stripe", "sk_test_", Plain, 16, 255), ("stripe", "rk_test_", Plain, 16, 255),
    ("stripe", "whsec_", Base64, 24, 80), ("square", "sq0atp-", Url, 22, 22),
    ("square", "sq0csp-", Url, 43, 43), ("square", "EAAAE", Url, 55, 64), ("shopify", "shpat_", Hex, 32, 32),
    ("shopify", "shpca_", Hex, 32, 32), ("shopify", "shppa_", Hex, 32, 32), ("shopify", "shpss_", Hex, 32, 32),
    ("plaid", "access-production-", Url, 36, 36), ("plaid", "access-sandbox-", Url, 36, 36),
    ("razorpay", "rzp_live_", Plain, 14, 20), ("flutterwave", "FLWSECK-", Url, 32, 40),
    ("paystack", "sk_live", Plain, 40, 48), ("braintree", "access_token$production$", Plain, 16, 60),
    ("coinbase", "organizations/", Url, 200, 300), ("duffel", "duffel_live_", Url, 43, 43),
    ("adyen", "AQE", Base64, 150, 250),
    // Talk and mail.
    ("slack", "xoxb-", Url, 20, 100), ("slack", "xoxp-", Url, 20, 100), ("slack", "xoxa-", Url, 20, 100),
    ("slack", "xoxr-", Url, 20, 100), ("slack", "xoxs-", Url, 20, 100), ("slack", "xoxe.", Dotted, 20, 200),
    ("slack", "xoxe-", Url, 20, 200), ("slack", "xoxc-", Url, 20, 100), ("slack", "xoxd-", Base64, 20, 300),
    ("slack", "xapp-", Url, 20, 120), ("slack", "hooks.slack.com/services/", Base64, 30, 64),
    ("slack", "hooks.slack.com/workflows/", Base64, 30, 120),
    ("discord", "discord.com/api/webhooks/", Base64, 60, 120),
    ("discord", "discordapp.com/api/webhooks/", Base64, 60, 120),
    ("teams", "webhook.office.com/webhookb2/", Base64, 60, 250), ("sendgrid", "SG.", Dotted, 40, 80),
    ("mailgun", "key-", Hex, 32, 32), ("mailgun", "pubkey-", Hex, 32, 32), ("brevo", "xkeysib-", Url, 64, 90),
    ("brevo", "xsmtpsib-", Url, 64, 90), ("twilio", "SK", Hex, 32, 32), ("resend", "re_", Url, 30, 40),
    ("postmark", "POSTMARK_", Url, 30, 60), ("intercom", "dG9rO", Base64, 40, 80),
    ("telegram", "bot_token_", Url, 30, 60), ("zoom", "zoom_", Url, 40, 80),
    ("facebook", "EAAC", Plain, 80, 300), ("facebook", "EAAG", Plain, 80, 300),
    // Work, data and watch.
    ("notion", "ntn_", Plain, 40, 60), ("notion", "secret_", Plain, 43, 43),
    ("linear", "lin_api_", Plain, 40, 40), ("linear", "lin_oauth_", Hex, 64, 64),
    ("airtable", "pat", Dotted, 78, 82), ("asana", "0/", Hex, 32, 32), ("figma", "figd_", Url, 36, 60),
    ("figma", "figu_", Url, 36, 60), ("typeform", "tfp_", Dotted, 40, 80), ("postman", "PMAK-", Url, 50, 64),
    ("readme", "rdme_", Plain, 70, 70), ("databricks", "dapi", Hex, 32, 34), ("grafana", "glsa_", Url, 41, 60),
    ("grafana", "glc_", Base64, 32, 400), ("newrelic", "NRAK-", Capitals, 27, 27),
    ("newrelic", "NRII-", Url, 32, 32), ("newrelic", "NRJS-", Hex, 19, 19), ("datadog", "ddp_", Plain, 32, 40),
    ("sentry", "sntrys_", Base64, 60, 300), ("sentry", "sntryu_", Hex, 64, 64),
    ("dynatrace", "dt0c01.", Dotted, 80, 100), ("doppler", "dp.pt.", Plain, 40, 44),
    ("doppler", "dp.st.", Dotted, 40, 80), ("planetscale", "pscale_tkn_", Dotted, 32, 64),
    ("planetscale", "pscale_pw_", Dotted, 32, 64), ("planetscale", "pscale_oauth_", Dotted, 32, 64),
    ("supabase", "sbp_", Hex, 40, 40), ("supabase", "sb_secret_", Url, 20, 60),
    ("prefect", "pnu_", Plain, 36, 36), ("confluent", "cflt", Base64, 50, 80),
    ("mapbox", "sk.eyJ", Dotted, 60, 200), ("contentful", "CFPAT-", Url, 43, 43),
    ("algolia", "ALGOLIA_", Url, 32, 64), ("neon", "napi_", Plain, 60, 70),
    // Keepers of secrets.
    ("vault", "hvs.", Url, 24, 300), ("vault", "hvb.", Url, 100, 300), ("vault", "hvr.", Url, 24, 300),
    ("1password", "ops_eyJ", Base64, 200, 1500), ("1password", "A3-", Capitals, 6, 6),
    ("tailscale", "tskey-", Url, 20, 80), ("age", "AGE-SECRET-KEY-1", Capitals, 58, 58),
    ("infisical", "st.", Dotted, 60, 120), ("bitwarden", "0.48c78342", Dotted, 60, 120),
    ("ngrok", "ngrok_", Url, 40, 60), ("okta", "SSWS ", Url, 40, 44),
    ("zapier", "hooks.zapier.com/hooks/catch/", Base64, 12, 40), ("twitch", "oauth:", Plain, 30, 30),
    ("duo", "DI", Capitals, 18, 18), ("square", "sandbox-sq0csb-", Url, 40, 50),
];

/// What stands before parts that need more than a list of letters.
const OPENINGS: &[&str] = &[
    "-----BEGIN ",
    "eyJ",
    "://",
    ";base64,",
    "AccountKey=",
    "SharedAccessKey=",
    "sig=",
    "Bearer ",
    "Basic ",
    "IDENTIFIED BY '",
];

static OPENING: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let fronts = FORMS
        .iter()
        .map(|(_, front, ..)| *front)
        .chain(OPENINGS.iter().copied());
    AhoCorasick::builder()
        .kind(Some(AhoCorasickKind::DFA))
        .match_kind(MatchKind::LeftmostLongest)
        .build(fronts)
        .expect("some hundred short words make an automaton")
});

/// Where a secret stands, whose it is, and how sure that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Secret {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) name: &'static str,
    pub(super) score: u8,
}

/// Hands every secret of `text` to `found`.
pub(super) fn secrets(text: &str, words: &Words, mut found: impl FnMut(Secret)) {
    let bytes = text.as_bytes();
    let mut done = 0;
    for hit in OPENING.find_iter(bytes) {
        if hit.start() < done {
            continue;
        }
        let which = hit.pattern().as_usize();
        let secret = match FORMS.get(which) {
            Some(form) => formed(bytes, hit.start(), form),
            None => opened(bytes, hit.start(), hit.end(), OPENINGS[which - FORMS.len()]),
        };
        if let Some(secret) = secret {
            done = secret.end;
            found(secret);
        }
    }
    for hit in words.all(About::Password) {
        if let Some((start, end)) = assigned(text, hit.start, hit.end, Ask::Password) {
            found(Secret {
                start,
                end,
                name: "password",
                score: 90,
            });
        }
    }
    for hit in words.all(About::Key) {
        if let Some((start, end)) = assigned(text, hit.start, hit.end, Ask::Key) {
            found(Secret {
                start,
                end,
                name: "key",
                score: 90,
            });
        }
    }
}

/// A secret in the form of its provider.
fn formed(text: &[u8], start: usize, (name, front, letters, least, most): &Form) -> Option<Secret> {
    let apart = start == 0 || {
        let before = text[start - 1];
        let joined = before == b'-' && front.starts_with("sk-");
        !(before.is_ascii_alphanumeric() || joined) && (before != b'_' || front.len() > 3)
    };
    let body = start + front.len();
    let mut length = text[body..]
        .iter()
        .take(most + 1)
        .take_while(|b| letters.has(**b))
        .count();
    while length > 0 && matches!(text[body + length - 1], b'.' | b'-') {
        length -= 1;
    }
    let value = &text[body..body + length];
    // Short fronts want a body that is no word.
    let drawn = front.len() > 5
        || matches!(letters, Capitals)
        || looks_drawn(value, 2.6)
        || value.iter().filter(|b| b.is_ascii_digit()).count() > 1;
    let right = (apart || front.starts_with('.'))
        && (*least..=*most).contains(&length)
        && drawn
        && !placeholder(value);
    let start = if front.starts_with('.') {
        start
            - text[..start]
                .iter()
                .rev()
                .take(20)
                .take_while(|b| b.is_ascii_alphanumeric())
                .count()
    } else {
        start
    };
    right.then_some(Secret {
        start,
        end: body + length,
        name,
        score: 98,
    })
}

/// A secret that an opening announces.
fn opened(text: &[u8], start: usize, end: usize, opening: &str) -> Option<Secret> {
    let run = |from: usize, most: usize, has: &dyn Fn(u8) -> bool| {
        from + text[from..].iter().take(most).take_while(|b| has(**b)).count()
    };
    let secret = |start, end, name, score| {
        Some(Secret {
            start,
            end,
            name,
            score,
        })
    };
    match opening {
        "-----BEGIN " => {
            let block = &text[start..text.len().min(start + 16 * 1024)];
            let line = block
                .iter()
                .position(|b| *b == b'\n')
                .unwrap_or(block.len())
                .min(120);
            let head = &block[..line];
            if !contains(head, b"PRIVATE KEY") {
                return None;
            }
            let close =
                find(block, b"-----END ").and_then(|at| Some(at + 9 + find(&block[at + 9..], b"-----")? + 5));
            secret(start, start + close.unwrap_or(block.len()), "pem", 99)
        }
        "eyJ" => {
            let end = run(start, 8192, &|b| Dotted.has(b));
            let parts: Vec<&[u8]> = text[start..end].split(|b| *b == b'.').collect();
            let apart = start == 0 || !text[start - 1].is_ascii_alphanumeric();
            let right = apart
                && (2..=5).contains(&parts.len())
                && parts[0].len() > 12
                && parts[1].starts_with(b"eyJ");
            let end = if text[end - 1] == b'.' { end - 1 } else { end };
            right.then(|| secret(start, end, "jwt", 98))?
        }
        "://" => credentials(text, end),
        ";base64," => None,
        "AccountKey=" | "SharedAccessKey=" => {
            let stop = run(end, 120, &|b| Base64.has(b));
            (stop - end > 30).then(|| secret(end, stop, "azure", 98))?
        }
        "sig=" => {
            let stop = run(end, 200, &|b| Base64.has(b) || b == b'%');
            (start > 0 && matches!(text[start - 1], b'&' | b'?') && stop - end > 30)
                .then(|| secret(end, stop, "azure", 95))?
        }
        "Bearer " | "Basic " => {
            let stop = run(end, 4096, &|b| Base64.has(b) || matches!(b, b'.' | b'~'));
            let stop = if stop > end && text[stop - 1] == b'.' {
                stop - 1
            } else {
                stop
            };
            (stop - end > 15 && looks_drawn(&text[end..stop], 3.0))
                .then(|| secret(end, stop, "bearer", 92))?
        }
        _ => {
            let stop = run(end, 128, &|b| b != b'\'' && b != b'\n');
            (stop > end && text.get(stop) == Some(&b'\'') && !placeholder(&text[end..stop]))
                .then(|| secret(end, stop, "password", 92))?
        }
    }
}

/// The password in `scheme://user:password@host`; `start` is behind the slashes.
fn credentials(text: &[u8], start: usize) -> Option<Secret> {
    let stop = |b: &u8| {
        b.is_ascii_whitespace() || matches!(b, b'/' | b'"' | b'\'' | b'<' | b'>' | b'`' | b'?' | b'\\' | b'|')
    };
    let length = text[start..].iter().take(512).take_while(|b| !stop(b)).count();
    let authority = &text[start..start + length];
    let at = authority.iter().rposition(|b| *b == b'@')?;
    let colon = authority[..at].iter().position(|b| *b == b':')?;
    let value = &authority[colon + 1..at];
    let host = authority
        .get(at + 1)
        .is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'[' | b'{' | b'$'));
    (!value.is_empty() && host && !placeholder(value) && !value.contains(&b'(')).then_some(Secret {
        start: start + colon + 1,
        end: start + at,
        name: "url",
        score: 97,
    })
}

/// What a word asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// Anything a person may have chosen.
    Password,
    /// Something drawn by chance.
    Key,
}

/// Words that join a name to its value in prose.
const IS: &[&str] = &[
    "is", "was", "ist", "lautet", "est", "es", "è", "é", "jest", "to", "je", "är", "er", "on", "becomes",
    "set to", "equals", "=",
];

/// No value is longer.
const VALUE_MAX: usize = 512;

/// The value that stands behind the word at `start..end`.
fn assigned(text: &str, start: usize, end: usize, ask: Ask) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let at = joined(text, start, end)?;
    let at = at
        + bytes[at..]
            .iter()
            .take(8)
            .take_while(|b| matches!(b, b' ' | b'\t'))
            .count();
    let (from, quote) = match bytes.get(at)? {
        q @ (b'"' | b'\'' | b'`') => (at + 1, Some(*q)),
        b'\\' if matches!(bytes.get(at + 1), Some(b'"' | b'\'')) => (at + 2, Some(b'\\')),
        b'*' if bytes[at..].starts_with(b"**") => (at + 2, Some(b'*')),
        0xE2 if bytes[at..].starts_with("“".as_bytes()) => (at + 3, Some(0xE2)),
        0xC2 if bytes[at..].starts_with("«".as_bytes()) => (at + 2, Some(0xC2)),
        _ => (at, None),
    };
    let value = &bytes[from..bytes.len().min(from + VALUE_MAX)];
    let mut length = match quote {
        Some(q) => value
            .iter()
            .position(|b| *b == q || *b == b'\n')
            .filter(|n| value[*n] == q)?,
        None => value
            .iter()
            .position(|b| b.is_ascii_whitespace() || matches!(b, b'"' | b'\'' | b'`' | b',' | b';'))
            .unwrap_or(value.len()),
    };
    if quote.is_none() {
        while length > 0
            && matches!(
                value[length - 1],
                b'.' | b':' | b'?' | b')' | b']' | b'}' | b'>' | b'|'
            )
        {
            // A closing bracket belongs to a value that opens one.
            let opener = match value[length - 1] {
                b')' => b'(',
                b']' => b'[',
                b'}' => b'{',
                b'>' => b'<',
                _ => 0,
            };
            if opener != 0 && value[..length - 1].contains(&opener) {
                break;
            }
            length -= 1;
        }
    }
    let value = &value[..length];
    let is = match ask {
        Ask::Password => is_password(value, quote.is_some()),
        Ask::Key => is_key(value),
    };
    (is && text.is_char_boundary(from) && text.is_char_boundary(from + length))
        .then_some((from, from + length))
}

/// Where the value begins that the word at `start..end` is joined to by `=`, `:`, `is`, or as an argument of a command.
fn joined(text: &str, start: usize, end: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    // The rest of the name: `_KEY`, `Hash`, a closing quote or bracket.
    let mut place = end
        + bytes[end..]
            .iter()
            .take(32)
            .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
            .count();
    place += bytes[place..]
        .iter()
        .take(3)
        .take_while(|b| matches!(b, b'"' | b'\'' | b']' | b'\\' | b'*' | b'`' | b')'))
        .count();
    let argument = bytes[..start]
        .iter()
        .rev()
        .take(32)
        .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        .count();
    let option = bytes[start - argument..].starts_with(b"--");
    let mut gap = place;
    let limit = bytes.len().min(place + 48);
    loop {
        let rest = &bytes[gap.min(bytes.len())..];
        match rest {
            [b':', b'/', b'/', ..] => return None,
            [b'=', b'=', ..] | [b':', b':', ..] | [b'!', b'=', ..] => return None,
            [b':', b'=', ..] | [b'=', b'>', ..] | [b'-', b'>', ..] => return Some(gap + 2),
            [b'=' | b':', ..] => return Some(gap + 1),
            [b' ' | b'\t', ..] if gap == place && option => return Some(gap + 1),
            [b' ', ..] => {
                let word = rest[1..]
                    .iter()
                    .take(24)
                    .take_while(|b| **b != b' ' && **b != b'\n')
                    .count();
                let spelled = text.get(gap + 1..gap + 1 + word)?;
                if IS.contains(&spelled.trim_end_matches(':').to_lowercase().as_str()) {
                    return Some(gap + 1 + word);
                }
                // Words may stand between: "the password for the router is".
                let plain = spelled.trim_end_matches([':', '=']);
                if word == 0
                    || !plain
                        .chars()
                        .all(|c| c.is_alphabetic() || matches!(c, '-' | '\'' | '_' | '(' | ')' | '/'))
                {
                    return None;
                }
                gap += 1 + plain.len();
            }
            _ => return None,
        }
        if gap >= limit {
            return None;
        }
    }
}

/// Whether a person may have chosen this as a password, and no program wrote it as an expression.
fn is_password(value: &[u8], quoted: bool) -> bool {
    let count = |test: fn(&u8) -> bool| value.iter().filter(|b| test(b)).count();
    let (digits, small, capitals) = (
        count(u8::is_ascii_digit),
        count(u8::is_ascii_lowercase),
        count(u8::is_ascii_uppercase),
    );
    let letters = small + capitals;
    let marks = value.len() - digits - letters - count(|b| *b >= 0x80);
    if value.len() < 5 || value.len() > 128 || placeholder(value) || is_expression(value, quoted) {
        return false;
    }
    let spaces = value.contains(&b' ');
    let mixed =
        usize::from(digits > 0) + usize::from(small > 0) + usize::from(capitals > 0) + usize::from(marks > 0);
    if spaces {
        return quoted && mixed > 2 && digits > 0;
    }
    mixed > 2
        || digits > 0 && mixed > 1
        || marks > 0 && letters > 4 && value.iter().any(|b| b"!@#$%^&*+?".contains(b))
}

/// Whether this was drawn by chance.
fn is_key(value: &[u8]) -> bool {
    let known = value
        .iter()
        .all(|b| Base64.has(*b) || matches!(b, b'.' | b'~' | b':' | b'|' | b'%' | b'!' | b'$'));
    value.len() >= 16
        && known
        && looks_drawn(value, 3.0)
        && !placeholder(value)
        && !is_expression(value, false)
        && !value.contains(&b' ')
}

/// Digits among letters, and more than `bits` of entropy a byte.
fn looks_drawn(value: &[u8], bits: f64) -> bool {
    let digits = value.iter().filter(|b| b.is_ascii_digit()).count();
    let letters = value.iter().filter(|b| b.is_ascii_alphabetic()).count();
    // Names of things end in a digit or two; a word of many parts has vowels everywhere.
    digits > 1 && letters > 1 && entropy(value) >= bits && (value.len() < 24 || digits * 20 > value.len())
}

/// Shannon's entropy of the bytes, in bits a byte.
fn entropy(value: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    value.iter().for_each(|b| counts[usize::from(*b)] += 1);
    let total = value.len() as f64;
    counts
        .iter()
        .filter(|n| **n > 0)
        .map(|n| f64::from(*n) / total)
        .map(|p| -p * p.log2())
        .sum()
}

/// What people write where a secret goes.
fn placeholder(value: &[u8]) -> bool {
    let lower = value.to_ascii_lowercase();
    let frame = lower.iter().all(|b| *b == lower[0] || matches!(b, b'-' | b'_'));
    let named = [
        &b"example"[..],
        b"your_",
        b"your-",
        b"yourpass",
        b"placeholder",
        b"redacted",
        b"xxxx",
        b"****",
        b"changeme",
        b"dummy",
        b"<",
        b"${",
        b"{{",
        b"%s",
        b"...",
    ]
    .iter()
    .any(|word| contains(&lower, word));
    lower.is_empty()
        || frame
        || named
        || matches!(lower.first(), Some(b'$' | b'{' | b'<' | b'%' | b'['))
            && matches!(lower.last(), Some(b'}' | b'>' | b'%' | b']'))
}

/// Whether a program would compute this: calls, paths, members, types.
fn is_expression(value: &[u8], quoted: bool) -> bool {
    if quoted {
        return contains(value, b"${") || contains(value, b"{{");
    }
    let call = value
        .windows(2)
        .any(|w| w[0].is_ascii_lowercase() && w[1] == b'(')
        && !value.iter().any(u8::is_ascii_digit)
        || contains(value, b"()")
        || contains(value, b"::")
        || contains(value, b"->")
        || contains(value, b"=>");
    // Digits stand at the end of a part, or are the whole of it.
    let name = |part: &[u8]| {
        let digits = part.iter().rev().take_while(|b| b.is_ascii_digit()).count();
        let head = &part[..part.len() - digits];
        !part.is_empty() && digits < 5 && head.iter().all(|b| b.is_ascii_alphabetic() || *b == b'_')
    };
    let member = value.contains(&b'.') && value.split(|b| *b == b'.').all(name);
    let path = value.starts_with(b"/")
        || value.starts_with(b"./")
        || value.starts_with(b"~/")
        || value.starts_with(b"http");
    let open = value
        .first()
        .is_some_and(|b| matches!(b, b'&' | b'(' | b'[' | b'{' | b'|'));
    let identifier = value
        .iter()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_')
        && value.contains(&b'_')
        && value.split(|b| *b == b'_').all(|part| {
            part.len() < 12
                && (part.iter().all(u8::is_ascii_digit)
                    || part.iter().filter(|b| b.is_ascii_digit()).count() < 2)
        });
    let place = value.ends_with(b"]") && value.contains(&b'[');
    call || member || place || path || open || identifier
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|w| w == word)
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    find(text, word).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let mut all = Vec::new();
        secrets(text, &Words::of(text), |s| {
            all.push(text[s.start..s.end].to_owned())
        });
        all.sort();
        all.dedup();
        all
    }

    /// Written by hand for this test; none opens anything.
    #[test]
    fn values_behind_their_words_are_found_and_nothing_more() {
        let cases: &[(&str, &[&str])] = &[
            ("password: hunter2abc", &["hunter2abc"]),
            ("the wifi password for guests is Blau-7Katzen.", &["Blau-7Katzen"]),
            ("DB_PASSWORD=q8$Lm2!x", &["q8$Lm2!x"]),
            ("\"password\": \"aB3$xyz!\"", &["aB3$xyz!"]),
            ("mot de passe : Ete2024!", &["Ete2024!"]),
            ("Passwort lautet `x9Kq!mm2`", &["x9Kq!mm2"]),
            ("mysql --password s3cr3tPw -u root", &["s3cr3tPw"]),
            ("postgres://app:k9-Zr@db.internal:5432/x", &["k9-Zr"]),
            (
                "secret_key = 241878b71581c42232e0562e788428ed",
                &["241878b71581c42232e0562e788428ed"],
            ),
            (
                "Authorization: Bearer 9f8e7d6c5b4a39281706f5e4",
                &["9f8e7d6c5b4a39281706f5e4"],
            ),
            ("CREATE USER a IDENTIFIED BY 'tr0mb0ne'", &["tr0mb0ne"]),
            ("The password must have at least 12 characters.", &[]),
            ("Your API key can be found in the settings page.", &[]),
            ("let token = self.next_token();", &[]),
            ("password: Option<String>,", &[]),
            ("password = config.password", &[]),
            ("password: ${DB_PASSWORD}", &[]),
            ("const PASSWORD_LENGTH_MAX: usize = 128;", &[]),
            ("token: &str, key: u64", &[]),
            ("if password == other1.password2 {", &[]),
            ("key = \"layers.12.attention.weight_0\"", &[]),
            ("postgres://user:<password>@host/db", &[]),
            ("postgres://user:${DB_PASS}@host/db", &[]),
            ("password: settings.db_password2", &[]),
        ];
        for (text, wanted) in cases {
            assert_eq!(found(text), *wanted, "{text}");
        }
    }

    #[test]
    fn each_form_of_a_provider_is_found_whole() {
        let fill = |letters: Letters, n: usize| -> String {
            let alphabet = match letters {
                Letters::Hex => "0a1b2c3d4e5f6789",
                Letters::Capitals => "A7K2QX9ZP4",
                _ => "aZ7kQ2xP9mB4",
            };
            alphabet.chars().cycle().take(n).collect()
        };
        for (name, front, letters, least, _) in FORMS {
            let token = format!("{front}{}", fill(*letters, *least));
            let text = format!("use {token} for it");
            let seen = found(&text);
            assert!(
                seen.iter().any(|s| s.ends_with(&token)),
                "{name}: {token} gave {seen:?}"
            );
        }
    }
}
