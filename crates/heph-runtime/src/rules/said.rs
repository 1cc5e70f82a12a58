//! Who says what a decision says, for a person: the rules, and the files that they stand in.

use std::path::Path;
use std::sync::PoisonError;

use heph_privacy::policy::{Decision, Whose};

use super::{Read, Rules};

impl Rules {
    /// By what `decision` says what it says, to stand behind a sentence that says that: `, by` each rule with its file, or `: ` and that there
    /// is none.
    pub fn said_by(&self, decision: &Decision) -> String {
        self.now(&[]);
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(read) = read.as_ref() else {
            return format!(", by {}", decision.rules.join(", "));
        };
        let path = self.file().unwrap_or_default();
        if decision.rules.is_empty() {
            let path = path.display();
            return match read.by_file {
                true => format!(": no rule of {path} allows it"),
                false => {
                    format!(": there is no {path}, and without one nothing leaves but for your own machines")
                }
            };
        }
        // What cannot be read says itself which file that is.
        if read.cut || read.unread.is_some() {
            return format!(": {}", decision.rules.join(", "));
        }
        let rules = decision.rules.iter();
        let said: Vec<String> = rules.map(|name| said(read, &path, name, decision)).collect();
        format!(", by {}", said.join(" and "))
    }
}

/// One rule, with the place that it stands in.
fn said(read: &Read, path: &Path, name: &str, decision: &Decision) -> String {
    let path = path.display();
    let own = format!("the rule {name:?} of {path}");
    match read.policies.whose(name, decision.verdict) {
        Some(Whose::Preset(preset)) if read.by_file => {
            let rule = name.trim_start_matches("preset: ");
            format!("{rule:?} of the preset {} in {path}", preset.name())
        }
        Some(Whose::Own) if read.by_file => own,
        Some(Whose::Overlay(organisation)) => {
            let mut files = read.organisations.iter();
            let file = files.find(|(whose, _)| whose == organisation);
            let file = file
                .map(|(_, file)| file.display().to_string())
                .unwrap_or_default();
            format!("the rule {name:?} that {organisation} signed in {file}")
        }
        // Words by role stand in no file.
        Some(Whose::Own | Whose::Tighter) if name.starts_with("allow ") => {
            format!("{name:?} of --allow or HEPH_ALLOW")
        }
        Some(Whose::Preset(_) | Whose::Own | Whose::Tighter) | None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use heph_privacy::label::Label;
    use heph_privacy::policy::{Ask, Kind};
    use heph_types::Role;

    use std::path::PathBuf;
    use std::sync::Arc;

    use heph_privacy::policy::{Overlay, Policies, Policy, Preset, Rule, Verdict, When};

    use super::super::POLICY_FILE;
    use super::super::testing::of_home;
    use super::*;
    use crate::discretion::place;
    use crate::rules::CutOff;

    fn said(rules: &Rules, label: &Label) -> String {
        let to = place(heph_types::NodeId([7; 32]), "attic", Role::Own);
        assert_eq!(to.kind, Kind::Own);
        let ask = Ask {
            label,
            to: &to,
            mode: "remote",
            credits: 0,
        };
        rules.said_by(&rules.now(&[]).decide(&ask))
    }

    #[test]
    fn a_rule_is_named_with_the_file_that_it_stands_in() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(POLICY_FILE);
        let file = path.display().to_string();
        let plain = Label::public();
        let write = |text: &str| std::fs::write(&path, format!("version = 1\n{text}")).unwrap();
        write(
            "preset = \"own-devices\"\n[[rule]]\nname = \"pay stays\"\nwhen = { labels = [\"folder:pay\"] }\nthen = \"deny\"\n",
        );
        let rules = of_home(home.path(), &[]);
        let pay = Label::of_reason("folder:pay");
        assert_eq!(
            said(&rules, &pay),
            format!(", by the rule \"pay stays\" of {file}")
        );
        assert_eq!(
            said(&rules, &plain),
            format!(", by \"own machines\" of the preset own-devices in {file}")
        );
        write("preset = \"local-only\"\n");
        assert_eq!(said(&rules, &plain), format!(": no rule of {file} allows it"));
        let short = of_home(home.path(), &["own=nothing"]);
        write("preset = \"open\"\n");
        assert_eq!(
            said(&short, &plain),
            ", by \"allow own=nothing\" of --allow or HEPH_ALLOW"
        );
        write("preset = \"opne\"\n");
        assert!(said(&rules, &plain).contains(&file) && said(&rules, &plain).starts_with(": nothing leaves"));
        rules.cut_off(CutOff::Begin).unwrap();
        assert!(said(&rules, &plain).contains("cut off"));
    }

    #[test]
    fn a_rule_of_an_organisation_is_told_with_whose_it_is() {
        let rule = Rule {
            name: "no machines".to_owned(),
            when: When::default(),
            then: Verdict::Deny,
        };
        let overlay = Overlay {
            version: 1,
            organisation: "ACME".to_owned(),
            valid_from: 0,
            valid_until: 1,
            rules: vec![rule],
        };
        let policies = Policies::new(Policy::of(Preset::Open), vec![overlay]);
        let read = Read {
            files: Vec::new(),
            until: 1,
            by_file: true,
            cut: false,
            own: None,
            organisations: vec![("ACME".to_owned(), PathBuf::from("/etc/heph/overlay.toml"))],
            unread: None,
            policies: Arc::new(policies),
        };
        let decision = Decision {
            verdict: Verdict::Deny,
            rules: vec!["no machines".to_owned()],
        };
        assert_eq!(
            super::said(&read, Path::new("policy.toml"), "no machines", &decision),
            "the rule \"no machines\" that ACME signed in /etc/heph/overlay.toml"
        );
    }

    #[test]
    fn where_nobody_wrote_a_policy_that_is_told() {
        let home = tempfile::tempdir().unwrap();
        let rules = of_home(home.path(), &["own=nothing"]);
        assert!(said(&rules, &Label::public()).contains("HEPH_ALLOW"));
        let to = place(heph_types::NodeId([7; 32]), "", Role::Miner);
        let label = Label::public();
        let ask = Ask {
            label: &label,
            to: &to,
            mode: "remote",
            credits: 0,
        };
        let said = rules.said_by(&rules.now(&[]).decide(&ask));
        assert!(
            said.starts_with(": there is no ") && said.contains(POLICY_FILE),
            "{said}"
        );
    }
}
