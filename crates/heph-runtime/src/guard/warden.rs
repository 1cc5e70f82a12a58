//! What the guard knows: the policy, the providers and the servers of tools, as it read them itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use heph_net::trust::{self, Peer, TrustBook};
use heph_privacy::Grounds;
use heph_privacy::label::Label;
use heph_privacy::policy::{Ask, Destination, Kind as Place, Policies, Rule, Verdict, When};
use heph_privacy::pseudonym::Replacing;
use heph_providers::Provider;
use heph_types::{Leaves, NodeId};
use serde::Deserialize;

use super::words::{Barred, Leave};
use super::{ENGINE, Lends};
use crate::discretion::{RELAY_MODE, place, relay_place, shows_text_alone};
use crate::egress::Kind;
use crate::providers::{PROVIDERS_FILE, ProviderBook, leave};
use crate::rules::{Read, Rules, Stamp, stamp};
use crate::settings::Allowance;

/// The person's servers of tools, below HEPH's folder: of it the guard minds names and addresses.
const TOOLS_FILE: &str = "mcp.json";

/// Bytes of that file.
const TOOLS_BYTES_MAX: u64 = 1 << 20;

/// Whether files are read again when they changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// They are: on threads of a program that may read them.
    Again,
    /// They are not: the guard has no files any more.
    Once,
}

/// Decides whether something may be sent, by what stands in the person's files.
#[derive(Debug)]
pub(crate) struct Warden {
    home: PathBuf,
    rules: Arc<Rules>,
    reading: Reading,
    books: Mutex<Arc<Books>>,
    met: Mutex<Arc<Met>>,
    /// What is done for others; `None` where nothing is.
    lends: Option<Lends>,
}

/// The book of machines.
#[derive(Debug)]
struct Met {
    stamp: Stamp,
    /// Machines that this one has met, or why they are not known.
    machines: Result<Vec<Peer>, String>,
}

/// What was read.
#[derive(Debug)]
struct Books {
    stamps: Vec<Stamp>,
    rules: Read,
    /// The providers, or why they are not known.
    providers: Result<Vec<Provider>, String>,
    /// Addresses of servers of tools.
    tools: BTreeMap<String, String>,
    /// The files of the rules alone.
    of_rules: Vec<Stamp>,
}

impl Warden {
    /// By the files below `home`, and the short rules of the environment. Where a policy stood in a file before (`was_there`), one has
    /// to stand there now.
    pub(super) fn new(home: &Path, allow: &[Allowance], reading: Reading, was_there: bool) -> Self {
        let rules = Rules::of(home, allow);
        let books = Mutex::new(Arc::new(Books::read(home, &rules, was_there)));
        let met = Mutex::new(Arc::new(Met::read(home)));
        let home = home.to_owned();
        Self {
            home,
            rules,
            reading,
            books,
            met,
            lends: None,
        }
    }

    /// The same for a process that does so much for others.
    pub(super) fn lending(self, lends: Option<Lends>) -> Self {
        Self { lends, ..self }
    }

    /// What is done for others.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "a guard of machines is a process")
    )]
    pub(super) fn lends(&self) -> Option<&Lends> {
        self.lends.as_ref()
    }

    /// Whether this may be sent.
    pub(super) fn grant(&self, asked: &Leave) -> Result<(), Barred> {
        let books = self.books()?;
        if self.rules.is_cut() {
            return Err(Barred::Forbidden(crate::rules::CUT.to_owned()));
        }
        match asked.kind {
            Kind::Provider => match self.engine().filter(|_| asked.who == ENGINE) {
                Some(engine) => engine_alone(engine, asked),
                None => books.provider(asked),
            },
            Kind::Tools => books.tools(asked),
            // A hub is shown what is asked for by name. Where it leads on to is its own word.
            Kind::Pull if asked.grounds.is_none() && asked.bytes == 0 => Ok(()),
            Kind::Pull => Err(forbidden("a download sends nothing")),
            Kind::Peer | Kind::Greetings => Err(forbidden("machines are not reached this way")),
        }
    }

    /// The engine that does the work of a node. Whoever named it let it see what the node is shown.
    fn engine(&self) -> Option<&(String, u16)> {
        self.lends.as_ref()?.engine.as_ref()
    }

    /// Whether a policy stands in a file, or stood.
    pub(super) fn has_policy(&self) -> bool {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.rules.is_by_file()
    }

    /// Whether what is under way has to end, whatever was granted.
    pub(super) fn is_cut(&self) -> bool {
        self.rules.is_cut()
    }

    /// Whether what was read is old. Then nothing goes up any more.
    pub(super) fn is_stale(&self) -> bool {
        self.books().is_err()
    }

    /// Whether the rules are others than those that were read.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "a guard of machines is a process")
    )]
    pub(super) fn has_old_rules(&self) -> bool {
        let books = self.read();
        books.rules.is_over() || books.of_rules != self.rules.stamps()
    }

    /// Whether the book of machines is another one than that which was read.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "a guard of machines is a process")
    )]
    pub(super) fn has_old_book(&self) -> bool {
        self.met().stamp != stamp(&self.home.join(trust::FILE))
    }

    /// Reads the book of machines from a file that was handed over. Says who is not in it any more, or is something else.
    ///
    /// # Errors
    /// When it is not the book that lies there now. What was read before stays.
    #[cfg(target_os = "linux")]
    pub(super) fn read_book(&self, book: &std::fs::File) -> Result<Vec<NodeId>, String> {
        // Before it is read: what changes meanwhile is read again.
        let stamp = stamp(&self.home.join(trust::FILE));
        let now = TrustBook::handed(&self.home, book).map_err(|error| error.to_string())?;
        let before = self.met();
        let stays = |peer: &Peer| {
            let found = now.iter().find(|other| other.node == peer.node);
            found.is_some_and(|found| found.role == peer.role)
        };
        let gone = before.machines.iter().flatten().filter(|peer| !stays(peer));
        let gone = gone.map(|peer| peer.node).collect();
        let machines = Ok(now);
        *self.met.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Met { stamp, machines });
        Ok(gone)
    }

    fn met(&self) -> Arc<Met> {
        Arc::clone(&self.met.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The machine, as the book has it.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "a guard of machines is a process")
    )]
    pub(super) fn machine(&self, node: NodeId) -> Result<Peer, String> {
        let met = self.met();
        let known = met.machines.as_ref().map_err(String::clone)?;
        let found = known.iter().find(|peer| peer.node == node);
        found
            .cloned()
            .ok_or_else(|| format!("{} is not in the book of machines", node.short()))
    }

    /// Whether machines may be reached by this relay, which learns who speaks to whom.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "a guard of machines is a process")
    )]
    pub(super) fn relays(&self, relay: &str) -> Result<(), String> {
        let grounds = Grounds {
            label: Label::public(),
            mode: RELAY_MODE.to_owned(),
            credits: 0,
            replaced: None,
            rules: Vec::new(),
        };
        let decided = self.read().decided(&grounds, &relay_place(relay));
        decided.map_err(|barred| barred.to_string())
    }

    /// Whether what leaves by these grounds may be shown to a machine, by its place in the book and by what stood in the rules.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "a guard of machines is a process")
    )]
    pub(super) fn shows(&self, to: &Peer, grounds: &Grounds) -> Result<(), String> {
        let place = place(to.node, &to.name, to.role);
        let decided = self.read().decided(grounds, &place);
        decided.map_err(|barred| barred.to_string())?;
        let least = match shows_text_alone(&grounds.mode) {
            true => Leaves::Text,
            false => Leaves::Activations,
        };
        match self.rules.bound(to.role) >= least {
            true => Ok(()),
            false => Err(format!("{} is not allowed to see that much", to.name)),
        }
    }

    /// What was read last, old or not.
    fn read(&self) -> Arc<Books> {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&books)
    }

    fn books(&self) -> Result<Arc<Books>, Barred> {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        if !books.rules.is_over() && books.stamps == stamps(&self.home, &self.rules) {
            return Ok(Arc::clone(&books));
        }
        match self.reading {
            Reading::Once => Err(Barred::Stale),
            Reading::Again => {
                let was_there = books.rules.is_by_file();
                *books = Arc::new(Books::read(&self.home, &self.rules, was_there));
                Ok(Arc::clone(&books))
            }
        }
    }
}

impl Met {
    fn read(home: &Path) -> Self {
        // Before it is read: what changes meanwhile is read again.
        let stamp = stamp(&home.join(trust::FILE));
        let machines = TrustBook::open(home).map(|book| book.peers().to_vec());
        let machines = machines.map_err(|error| error.to_string());
        Self { stamp, machines }
    }
}

/// Whether this goes to the engine that the person named, and nowhere else.
fn engine_alone((host, port): &(String, u16), asked: &Leave) -> Result<(), Barred> {
    match asked.host == *host && asked.port == *port {
        true => Ok(()),
        false => Err(forbidden(&format!(
            "the engine of this node is not at {}:{}",
            short(&asked.host),
            asked.port
        ))),
    }
}

impl Books {
    fn read(home: &Path, rules: &Rules, was_there: bool) -> Self {
        // Before they are read: what changes meanwhile is read again.
        let (stamps, of_rules) = (stamps(home, rules), rules.stamps());
        let providers = ProviderBook::open(home).map(|book| book.list().to_vec());
        let providers = providers.map_err(|error| error.to_string());
        let tools = tools(&home.join(TOOLS_FILE));
        let named = tools.keys().map(|name| named(name));
        let allowed = providers.iter().flatten().filter_map(leave);
        let usual: Vec<Rule> = allowed.chain(named).collect();
        Self {
            stamps,
            rules: rules.read_now(&usual, was_there),
            providers,
            tools,
            of_rules,
        }
    }

    fn provider(&self, asked: &Leave) -> Result<(), Barred> {
        let known = self.providers.as_ref().map_err(|why| forbidden(why))?;
        let found = known.iter().find(|provider| provider.name == asked.who);
        let provider =
            found.ok_or_else(|| forbidden(&format!("no provider is called {:?}", short(&asked.who))))?;
        let here = provider.url.bare_host() == asked.host && provider.url.port() == asked.port;
        if !here {
            return Err(forbidden(&format!(
                "the provider {} is not at {}:{}",
                provider.name,
                short(&asked.host),
                asked.port
            )));
        }
        match &asked.grounds {
            None if asked.bytes == 0 => Ok(()),
            None => Err(forbidden("it was not cleared")),
            Some(_) if provider.sees < Leaves::Text => Err(forbidden(&format!(
                "the provider {} is not allowed to see any text",
                provider.name
            ))),
            Some(grounds) => self.decided(grounds, &provider.destination()),
        }
    }

    fn tools(&self, asked: &Leave) -> Result<(), Barred> {
        let url = self.tools.get(&asked.who);
        let url = url.ok_or_else(|| forbidden(&format!("mcp.json names no {:?}", short(&asked.who))))?;
        if place_of(url) != Some((asked.host.clone(), asked.port)) {
            return Err(forbidden(&format!(
                "the server {} is not at {}:{}",
                asked.who,
                short(&asked.host),
                asked.port
            )));
        }
        let to = Destination {
            kind: Place::ToolServer,
            name: asked.who.clone(),
            id: url.clone(),
            region: String::new(),
            retention_days: None,
        };
        match &asked.grounds {
            None => Err(forbidden("it was not cleared")),
            Some(grounds) => self.decided(grounds, &to),
        }
    }

    /// What the policy says, which the guard read itself.
    fn decided(&self, grounds: &Grounds, to: &Destination) -> Result<(), Barred> {
        let Grounds {
            label,
            mode,
            credits,
            replaced,
            ..
        } = grounds;
        let decision = self.policies().decide(&Ask {
            label,
            to,
            mode,
            credits: *credits,
        });
        match decision.verdict {
            Verdict::Allow => Ok(()),
            Verdict::Redact if replaced.is_some() => Ok(()),
            Verdict::Mask if *replaced == Some(Replacing::Masks) => Ok(()),
            Verdict::Redact | Verdict::Mask | Verdict::Deny => {
                Err(forbidden(&format!("this stays on this machine: {decision}")))
            }
        }
    }

    fn policies(&self) -> &Policies {
        self.rules.policies()
    }
}

fn forbidden(why: &str) -> Barred {
    Barred::Forbidden(why.to_owned())
}

/// The first letters of somebody's word.
fn short(word: &str) -> String {
    word.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// What the guard's answers depend on.
fn stamps(home: &Path, rules: &Rules) -> Vec<Stamp> {
    let others = [PROVIDERS_FILE, TOOLS_FILE].map(|name| stamp(&home.join(name)));
    rules.stamps().into_iter().chain(others).collect()
}

/// The rule that naming a server in `mcp.json` makes, where no policy stands in a file.
pub fn named(name: &str) -> Rule {
    Rule {
        name: format!("mcp.json names {name}"),
        when: When {
            to: vec![Place::ToolServer],
            names: vec![name.to_owned()],
            ..When::default()
        },
        then: Verdict::Allow,
    }
}

/// Servers of tools with an address. A file that has no meaning names none.
fn tools(path: &Path) -> BTreeMap<String, String> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default, rename = "mcpServers")]
        servers: BTreeMap<String, Server>,
    }
    #[derive(Deserialize)]
    struct Server {
        #[serde(default)]
        url: Option<String>,
    }
    let short = std::fs::metadata(path).is_ok_and(|about| about.len() <= TOOLS_BYTES_MAX);
    let text = short.then(|| std::fs::read(path).ok()).flatten();
    let file: Option<File> = text.and_then(|text| serde_json::from_slice(&text).ok());
    let servers = file.into_iter().flat_map(|file| file.servers);
    servers
        .filter_map(|(name, server)| Some((name, server.url?)))
        .collect()
}

/// Host and port of an address.
fn place_of(url: &str) -> Option<(String, u16)> {
    let uri: ureq::http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']);
    // Names mean the same in capitals.
    let host = match host.parse::<IpAddr>() {
        Ok(_) => host.to_owned(),
        Err(_) => host.to_ascii_lowercase(),
    };
    let usual = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    Some((host, uri.port_u16().unwrap_or(usual)))
}

#[cfg(test)]
mod tests {
    use heph_privacy::label::{Label, Level};

    use super::*;
    use crate::rules::POLICY_FILE;

    const PROVIDERS: &str = "[[provider]]\nname = \"cloud\"\ndialect = \"openai\"\nurl = \"https://api.example/v1\"\nmodels = [\"m\"]\nsees = \"text\"\n\n\
        [[provider]]\nname = \"shy\"\ndialect = \"openai\"\nurl = \"https://shy.example:8443/v1\"\nmodels = [\"m\"]\n";

    fn home(policy: Option<&str>) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(home.path().join(name), text).unwrap();
        write(PROVIDERS_FILE, PROVIDERS);
        write(
            TOOLS_FILE,
            "{\"mcpServers\": {\"books\": {\"url\": \"https://Books.example/mcp\"}, \"own\": {\"command\": \"x\"}}}",
        );
        if let Some(preset) = policy {
            write(POLICY_FILE, &format!("version = 1\npreset = \"{preset}\"\n"));
        }
        home
    }

    fn asked(kind: Kind, who: &str, host: &str, port: u16, level: Option<Level>, bytes: u64) -> Leave {
        Leave {
            kind,
            who: who.to_owned(),
            host: host.to_owned(),
            port,
            purpose: "answer".to_owned(),
            grounds: level.map(|level| Grounds {
                label: Label::new(level, "source:prompt"),
                mode: if kind == Kind::Tools { "tools" } else { "remote" }.to_owned(),
                credits: 0,
                replaced: None,
                rules: Vec::new(),
            }),
            bytes,
            patience_ms: 1000,
        }
    }

    #[test]
    fn what_the_lists_and_the_policy_do_not_say_is_refused() {
        let internal = Some(Level::Internal);
        let cases: [(Option<&str>, Leave, bool); 16] = [
            (
                None,
                asked(Kind::Provider, "cloud", "api.example", 443, internal, 9),
                true,
            ),
            (
                None,
                asked(Kind::Provider, "cloud", "api.example", 443, None, 0),
                true,
            ),
            (
                None,
                asked(Kind::Provider, "shy", "shy.example", 8443, None, 0),
                true,
            ),
            // Not at that place, not that name, not cleared, not allowed.
            (
                None,
                asked(Kind::Provider, "cloud", "evil.example", 443, internal, 9),
                false,
            ),
            (
                None,
                asked(Kind::Provider, "cloud", "api.example", 80, internal, 9),
                false,
            ),
            (
                None,
                asked(Kind::Provider, "other", "api.example", 443, internal, 9),
                false,
            ),
            (
                None,
                asked(Kind::Provider, "cloud", "api.example", 443, None, 9),
                false,
            ),
            (
                None,
                asked(Kind::Provider, "shy", "shy.example", 8443, internal, 9),
                false,
            ),
            (
                Some("local-only"),
                asked(Kind::Provider, "cloud", "api.example", 443, internal, 9),
                false,
            ),
            (
                Some("redact-then-remote"),
                asked(
                    Kind::Provider,
                    "cloud",
                    "api.example",
                    443,
                    Some(Level::Secret),
                    9,
                ),
                false,
            ),
            (
                None,
                asked(Kind::Pull, "hub.example", "hub.example", 443, None, 0),
                true,
            ),
            (
                None,
                asked(Kind::Pull, "hub.example", "hub.example", 443, None, 9),
                false,
            ),
            (
                None,
                asked(Kind::Tools, "books", "books.example", 443, internal, 9),
                true,
            ),
            (
                None,
                asked(Kind::Tools, "own", "books.example", 443, internal, 9),
                false,
            ),
            (
                None,
                asked(Kind::Tools, "books", "evil.example", 443, internal, 9),
                false,
            ),
            (
                None,
                asked(Kind::Peer, "cloud", "api.example", 443, internal, 9),
                false,
            ),
        ];
        for (policy, leave, may) in cases {
            let home = home(policy);
            let warden = Warden::new(home.path(), &[], Reading::Once, false);
            let said = warden.grant(&leave);
            assert_eq!(said.is_ok(), may, "{leave:?} {said:?}");
        }
    }

    #[test]
    fn what_must_be_replaced_leaves_where_it_was() {
        let home = home(Some("redact-then-remote"));
        let warden = Warden::new(home.path(), &[], Reading::Once, false);
        let mut leave = asked(
            Kind::Provider,
            "cloud",
            "api.example",
            443,
            Some(Level::Private),
            9,
        );
        assert!(warden.grant(&leave).is_err());
        if let Some(grounds) = &mut leave.grounds {
            grounds.replaced = Some(Replacing::Pseudonyms);
        }
        assert_eq!(warden.grant(&leave), Ok(()));
        // Where they are to be masked, pseudonyms are not enough.
        let masks = "version = 1\npreset = \"open\"\n[[rule]]\nname = \"nobody is named\"\nthen = \"mask\"\n";
        std::fs::write(home.path().join(POLICY_FILE), masks).unwrap();
        let warden = Warden::new(home.path(), &[], Reading::Once, false);
        for (replaced, may) in [
            (None, false),
            (Some(Replacing::Pseudonyms), false),
            (Some(Replacing::Masks), true),
        ] {
            if let Some(grounds) = &mut leave.grounds {
                grounds.replaced = replaced;
            }
            assert_eq!(warden.grant(&leave).is_ok(), may, "{replaced:?}");
        }
    }

    #[test]
    fn files_that_change_make_what_was_read_old() {
        let home = home(None);
        let leave = asked(
            Kind::Provider,
            "cloud",
            "api.example",
            443,
            Some(Level::Internal),
            9,
        );
        let once = Warden::new(home.path(), &[], Reading::Once, false);
        let again = Warden::new(home.path(), &[], Reading::Again, false);
        assert!(once.grant(&leave).is_ok() && again.grant(&leave).is_ok());
        let closed = "version = 1\npreset = \"local-only\"\n";
        std::fs::write(home.path().join(POLICY_FILE), closed).unwrap();
        assert_eq!(once.grant(&leave), Err(Barred::Stale));
        assert!(once.is_stale() && !again.is_stale());
        assert!(matches!(again.grant(&leave), Err(Barred::Forbidden(_))));
        std::fs::remove_file(home.path().join(POLICY_FILE)).unwrap();
        assert!(again.grant(&leave).is_err(), "a policy that is gone is no leave");
        let after = Warden::new(home.path(), &[], Reading::Once, true);
        assert!(after.grant(&leave).is_err() && after.has_policy());
        let other = Warden::new(home.path(), &[], Reading::Once, false);
        std::fs::write(home.path().join(PROVIDERS_FILE), "").unwrap();
        assert!(other.is_stale());
    }

    #[test]
    fn the_engine_of_a_node_is_where_the_person_said_and_is_nobody_elses() {
        let home = home(Some("local-only"));
        let lends = |engine| {
            Some(Lends {
                offers: false,
                engine,
            })
        };
        let engine = Some(("127.0.0.1".to_owned(), 8000));
        let node = Warden::new(home.path(), &[], Reading::Again, false).lending(lends(engine));
        let to = |who, host, port| asked(Kind::Provider, who, host, port, Some(Level::Internal), 9);
        assert_eq!(node.grant(&to(ENGINE, "127.0.0.1", 8000)), Ok(()));
        for (who, host, port) in [
            (ENGINE, "127.0.0.1", 8001),
            (ENGINE, "evil.example", 8000),
            ("cloud", "api.example", 443),
        ] {
            assert!(node.grant(&to(who, host, port)).is_err(), "{who} {host} {port}");
        }
        let none = Warden::new(home.path(), &[], Reading::Again, false).lending(lends(None));
        assert!(none.grant(&to(ENGINE, "127.0.0.1", 8000)).is_err());
        std::fs::write(home.path().join("cut-off"), "").unwrap();
        assert!(node.grant(&to(ENGINE, "127.0.0.1", 8000)).is_err());
    }

    #[test]
    fn a_machine_that_is_cut_off_fetches_nothing() {
        let home = home(None);
        let pull = asked(Kind::Pull, "hub.example", "hub.example", 443, None, 0);
        let warden = Warden::new(home.path(), &[], Reading::Again, false);
        assert!(warden.grant(&pull).is_ok());
        std::fs::write(home.path().join("cut-off"), "").unwrap();
        assert!(warden.is_cut() && warden.grant(&pull).is_err());
    }
}
