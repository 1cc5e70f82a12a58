//! The policy: what it denies, what it cannot be talked into, and what happens when it cannot be read.

use std::collections::BTreeSet;

use ed25519_dalek::{Signer, SigningKey};
use heph_privacy::label::{Label, Level};
use heph_privacy::policy::{
    Ask, Destination, Example, Kind, MODES, Overlay, Policies, Policy, PolicyError, Preset, Rule, SCHEMA,
    Verdict, When,
};
use proptest::prelude::*;

fn place(kind: Kind) -> Destination {
    Destination {
        kind,
        name: "there".into(),
        id: String::new(),
        region: "eu".into(),
        retention_days: Some(0),
    }
}

fn says(policies: &Policies, label: &Label, to: &Destination) -> Verdict {
    policies
        .decide(&Ask {
            label,
            to,
            mode: "cloud",
            credits: 5,
        })
        .verdict
}

const FILE: &str = r#"
version = 1
preset = "own-devices"

[[rule]]
name = "europe"
when = { to = ["provider"], regions = ["eu"], level_max = "private" }
then = "redact"

[[rule]]
name = "nobody who keeps"
when = { keeps_longer_than_days = 30 }
then = "deny"

[[rule]]
name = "salaries"
when = { labels = ["folder:salaries*"] }
then = "deny"

[[rule]]
name = "dear"
when = { credits_over = 100 }
then = "deny"

[[example]]
name = "a mail goes to Europe without people"
labels = ["pii:EMAIL"]
level = "private"
to = { kind = "provider", region = "eu", retention_days = 0 }
expect = "redact"

[[example]]
name = "nobody says how long it is kept"
level = "public"
to = { kind = "provider", region = "eu" }
expect = "deny"

[[example]]
name = "salaries stay, even at home"
labels = ["folder:salaries/2024"]
level = "internal"
to = { kind = "own", retention_days = 0 }
expect = "deny"

[[example]]
name = "too dear"
to = { kind = "own", retention_days = 0 }
credits = 101
expect = "deny"
"#;

#[test]
fn a_policy_says_what_its_examples_expect() {
    let policies = Policies::new(Policy::read(FILE).unwrap(), Vec::new());
    let told: Vec<_> = policies
        .examples()
        .map(|(e, d)| (e.name.clone(), e.expect, d))
        .collect();
    assert_eq!(told.len(), 4);
    for (name, expected, decision) in told {
        assert_eq!(decision.verdict, expected, "{name}: {decision}");
    }
}

#[test]
fn presets() {
    let cases = [
        (Preset::LocalOnly, Kind::Own, Level::Public, Verdict::Deny),
        (Preset::OwnDevices, Kind::Own, Level::Secret, Verdict::Allow),
        (Preset::OwnDevices, Kind::Attested, Level::Public, Verdict::Deny),
        (Preset::RedactThenRemote, Kind::Own, Level::Secret, Verdict::Allow),
        (
            Preset::RedactThenRemote,
            Kind::Provider,
            Level::Internal,
            Verdict::Allow,
        ),
        (
            Preset::RedactThenRemote,
            Kind::Provider,
            Level::Private,
            Verdict::Redact,
        ),
        (
            Preset::RedactThenRemote,
            Kind::Miner,
            Level::Secret,
            Verdict::Deny,
        ),
        (Preset::Open, Kind::Miner, Level::Secret, Verdict::Allow),
        (Preset::LocalOnly, Kind::Relay, Level::Public, Verdict::Deny),
        (Preset::LocalOnly, Kind::ToolServer, Level::Public, Verdict::Deny),
        (Preset::OwnDevices, Kind::Relay, Level::Public, Verdict::Allow),
        (Preset::OwnDevices, Kind::ToolServer, Level::Public, Verdict::Deny),
        (
            Preset::RedactThenRemote,
            Kind::ToolServer,
            Level::Private,
            Verdict::Redact,
        ),
        (Preset::Open, Kind::ToolServer, Level::Private, Verdict::Allow),
    ];
    for (preset, kind, level, wanted) in cases {
        let policies = Policies::new(Policy::of(preset), Vec::new());
        let label = Label::new(level, "user:x");
        assert_eq!(
            says(&policies, &label, &place(kind)),
            wanted,
            "{preset:?} {kind:?} {level:?}"
        );
    }
    let open = Policies::new(Policy::of(Preset::Open), Vec::new());
    assert_eq!(
        says(
            &open,
            &Label::new(Level::Secret, "pii:SECRET"),
            &place(Kind::Miner)
        ),
        Verdict::Redact
    );
    assert_eq!(says(&open, &Label::top(), &place(Kind::Miner)), Verdict::Redact);
}

#[test]
fn what_cannot_be_read_lets_nothing_leave() {
    let broken = [
        "",
        "version = 2",
        "version = 1\npreset = \"opne\"",
        "version = 1\nrules = []",
        "version = 1\n[[rule]]\nname = \"x\"",
        "\0",
        "version = 1\npreset = \"open\"\nextra = 1",
    ];
    for text in broken {
        let read = Policy::read(text);
        assert!(read.is_err(), "{text}");
        let policies = Policies::or_closed(read, Vec::new());
        for kind in [Kind::Own, Kind::Attested, Kind::Provider, Kind::Miner] {
            assert_eq!(says(&policies, &Label::public(), &place(kind)), Verdict::Deny);
        }
    }
    let open = Policy::of(Preset::Open);
    let policies = Policies::or_closed(Ok(open), vec![Err(PolicyError::Forged)]);
    assert_eq!(
        says(&policies, &Label::public(), &place(Kind::Own)),
        Verdict::Deny
    );
    assert!(matches!(
        Policy::read(&"#".repeat((1 << 20) + 1)),
        Err(PolicyError::TooLong)
    ));
}

fn signed(key: &SigningKey, body: &str) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let signature = key.sign(&Overlay::to_sign(body));
    format!(
        "heph-overlay 1 {} {}\n{body}",
        hex(key.verifying_key().as_bytes()),
        hex(&signature.to_bytes())
    )
}

const BODY: &str = "version = 1\norganisation = \"ACME\"\nvalid_from = 100\nvalid_until = 200\n\n[[rule]]\nname = \"no strangers\"\nwhen = { to = [\"miner\"] }\nthen = \"deny\"\n";

#[test]
fn an_overlay_counts_only_if_it_is_signed_by_who_is_trusted_and_now() {
    let key = SigningKey::from_bytes(&[3; 32]);
    let trusted = [*key.verifying_key().as_bytes()];
    let text = signed(&key, BODY);
    assert!(Overlay::read(&text, &trusted, 150).is_ok());
    assert_eq!(Overlay::read(&text, &trusted, 200), Err(PolicyError::Expired));
    assert_eq!(Overlay::read(&text, &trusted, 99), Err(PolicyError::Expired));
    assert_eq!(Overlay::read(&text, &[[9; 32]], 150), Err(PolicyError::Untrusted));
    assert_eq!(Overlay::read(BODY, &trusted, 150), Err(PolicyError::Unsigned));
    let looser = signed(&key, &BODY.replace("then = \"deny\"", "then = \"allow\""));
    assert_eq!(
        Overlay::read(&looser, &trusted, 150),
        Err(PolicyError::Loosens("no strangers".into()))
    );
    // Any byte of the body that is changed is noticed.
    let head = text.find('\n').unwrap() + 1;
    for place in head..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[place] ^= 1;
        let Ok(changed) = String::from_utf8(bytes) else {
            continue;
        };
        assert_eq!(
            Overlay::read(&changed, &trusted, 150),
            Err(PolicyError::Forged),
            "byte {place}"
        );
    }
}

#[test]
fn an_overlay_forbids_what_a_person_allows() {
    let key = SigningKey::from_bytes(&[3; 32]);
    let overlay = Overlay::read(&signed(&key, BODY), &[*key.verifying_key().as_bytes()], 150);
    let policies = Policies::or_closed(Ok(Policy::of(Preset::Open)), vec![overlay]);
    assert_eq!(
        says(&policies, &Label::public(), &place(Kind::Miner)),
        Verdict::Deny
    );
    assert_eq!(
        says(&policies, &Label::public(), &place(Kind::Provider)),
        Verdict::Allow
    );
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let kinds = prop::collection::vec(
        prop_oneof![Just(Kind::Own), Just(Kind::Provider), Just(Kind::Miner)],
        0..2,
    );
    let labels = prop::collection::vec(prop_oneof![Just("a:*".to_owned()), Just("b".to_owned())], 0..2);
    let level = prop::option::of(prop_oneof![Just(Level::Internal), Just(Level::Private)]);
    let then = prop_oneof![
        Just(Verdict::Allow),
        Just(Verdict::Redact),
        Just(Verdict::Mask),
        Just(Verdict::Deny)
    ];
    let rule = (kinds, labels, level, then).prop_map(|(to, labels, level, then)| Rule {
        name: "r".into(),
        when: When {
            to,
            labels,
            level,
            ..When::default()
        },
        then,
    });
    prop::collection::vec(rule, 0..6)
}

/// How strict a verdict is: what is masked tells less than what has pseudonyms.
fn severity(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Allow => 0,
        Verdict::Redact => 1,
        Verdict::Mask => 2,
        Verdict::Deny => 3,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a person writes, an overlay makes it no looser.
    #[test]
    fn overlays_only_make_stricter(own in rules(), over in rules(), tag in prop_oneof![Just("a:1"), Just("b"), Just("c")], level in 0_usize..4) {
        let level = [Level::Public, Level::Internal, Level::Private, Level::Secret][level];
        let policy = Policy { rules: own, ..Policy::of(Preset::OwnDevices) };
        let over: Vec<Rule> = over.into_iter().filter(|r| r.then != Verdict::Allow).collect();
        let overlay = Overlay { version: 1, organisation: String::new(), valid_from: 0, valid_until: 1, rules: over };
        let plain = Policies::new(policy.clone(), Vec::new());
        let strict = Policies::new(policy, vec![overlay]);
        for kind in [Kind::Own, Kind::Provider, Kind::Miner] {
            let label = Label::new(level, tag);
            let (strict, plain) = (says(&strict, &label, &place(kind)), says(&plain, &label, &place(kind)));
            prop_assert!(severity(strict) >= severity(plain));
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,300}", key in any::<[u8; 32]>()) {
        let _ = Policy::read(&text);
        let _ = Policy::read(&format!("version = 1\n{text}"));
        let _ = Overlay::read(&text, &[key], 0);
        let _ = Overlay::read(&format!("heph-overlay 1 {text}\n"), &[key], 0);
    }
}

#[test]
fn the_strictest_of_several_rules_counts_whatever_their_order() {
    let all = [Verdict::Allow, Verdict::Redact, Verdict::Mask, Verdict::Deny];
    let rule = |then| Rule {
        name: format!("{then:?}"),
        when: When::default(),
        then,
    };
    for one in all {
        for other in all {
            let rules = vec![rule(one), rule(other)];
            let policies = Policies::new(
                Policy {
                    rules,
                    ..Policy::closed()
                },
                Vec::new(),
            );
            let said = says(&policies, &Label::public(), &place(Kind::Provider));
            let wanted = severity(one).max(severity(other));
            assert_eq!(severity(said), wanted, "{one:?} and {other:?}");
        }
    }
}

#[test]
fn what_is_wrong_with_a_policy_is_told_in_one_line_with_its_place() {
    for (text, place) in [
        ("version = 1\npreset = \"opne\"\n", "line 2, column 10"),
        ("version = 1\n[[rule]]\nname = \"x\"\n", "line 2"),
        ("version = 1\n[[rule]]\nname = \"ärger\" then\n", "line 3"),
        ("version = \"one\"\n", "line 1, column 11"),
        ("version = 1\npreset = \"\"\"open\n\"\"\"\n", "line 2"),
        ("\u{0}", ""),
        ("", ""),
    ] {
        let said = Policy::read(text).unwrap_err().to_string();
        assert!(said.lines().count() == 1 && said.contains(place), "{said:?}");
        assert!(!said.contains(" | ") && !said.contains("^"), "{said}");
    }
}

#[test]
fn a_reason_in_an_example_is_as_private_as_in_a_request() {
    let example = |labels: &str| {
        let text = format!(
            "version = 1\npreset = \"redact-then-remote\"\n[[example]]\nname = \"e\"\nlabels = [{labels}]\nto = {{ kind = \"provider\" }}\nexpect = \"allow\"\n"
        );
        let policies = Policies::new(Policy::read(&text).unwrap(), Vec::new());
        let said = policies.examples().map(|(_, decision)| decision.verdict).next();
        said.unwrap()
    };
    assert_eq!(example(""), Verdict::Allow);
    assert_eq!(example("\"folder:notes\""), Verdict::Allow);
    assert_eq!(example("\"pii:EMAIL\""), Verdict::Redact);
    assert_eq!(example("\"user:family\""), Verdict::Redact);
    assert_eq!(example("\"pii:EMAIL\", \"pii:SECRET\""), Verdict::Deny);
}

#[test]
fn an_example_of_which_nothing_is_said_is_a_request_of_which_nothing_is_said() {
    let example = |more: &str, kind: &str| {
        let text = format!(
            "version = 1\npreset = \"open\"\n[[rule]]\nname = \"r\"\nwhen = {{ level = \"internal\" }}\nthen = \"deny\"\n\
             [[example]]\nname = \"e\"\n{more}\nto = {{ kind = \"{kind}\" }}\nexpect = \"allow\"\n"
        );
        let policies = Policies::new(Policy::read(&text).unwrap(), Vec::new());
        let said = policies.examples().map(|(_, decision)| decision.verdict).next();
        said.unwrap()
    };
    assert_eq!(example("", "own"), Verdict::Deny);
    assert_eq!(example("level = \"public\"", "own"), Verdict::Allow);
    assert_eq!(example("labels = [\"public\"]", "own"), Verdict::Allow);
    // A relay is shown none of it.
    assert_eq!(example("level = \"secret\"", "relay"), Verdict::Allow);
}

/// The schema that editors read names every field that the program reads.
#[test]
fn the_schema_knows_every_field() {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    let keys = |value: &serde_json::Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<BTreeSet<_>>()
    };
    let same = |written: serde_json::Value, schema: &serde_json::Value| {
        assert_eq!(keys(&written), keys(&schema["properties"]))
    };
    let rule = Rule {
        name: String::new(),
        when: When::default(),
        then: Verdict::Deny,
    };
    let example: Example = Policy::read(FILE).unwrap().examples[0].clone();
    same(serde_json::to_value(Policy::closed()).unwrap(), &schema);
    same(serde_json::to_value(&rule).unwrap(), &schema["$defs"]["rule"]);
    same(
        serde_json::to_value(&rule.when).unwrap(),
        &schema["$defs"]["rule"]["properties"]["when"],
    );
    same(
        serde_json::to_value(&example).unwrap(),
        &schema["$defs"]["example"],
    );
    same(
        serde_json::to_value(&example.to).unwrap(),
        &schema["$defs"]["example"]["properties"]["to"],
    );
}

#[test]
fn a_rule_that_would_never_speak_is_no_policy() {
    let when = |key: &str, word: &str| {
        let text = format!(
            "version = 1\npreset = \"open\"\n[[rule]]\nname = \"r\"\nwhen = {{ {key} = [\"{word}\"] }}\nthen = \"deny\"\n"
        );
        Policy::read(&text)
    };
    for (key, word, fits) in [
        ("labels", "folder:salaries", true),
        ("labels", "folder:*", true),
        ("labels", "*", true),
        ("labels", "*:salaries", false),
        ("labels", "folder:*/may", false),
        ("labels", "folder:**", false),
        ("labels", "", false),
        ("modes", "layered-speculative", true),
        ("modes", "tools", true),
        ("modes", "remot", false),
        ("modes", "Remote", false),
    ] {
        let read = when(key, word);
        assert_eq!(read.is_ok(), fits, "{word}: {read:?}");
        let told = read.err().map(|error| error.to_string());
        assert!(told.is_none_or(|told| told.contains(word) && told.contains("\"r\"")));
    }
}

#[test]
fn editors_know_the_modes_that_rules_know() {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    assert_eq!(schema["$defs"]["mode"]["enum"], serde_json::json!(MODES));
}
