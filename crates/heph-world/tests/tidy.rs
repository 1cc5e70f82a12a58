//! The tidy test: holds the house plan of `docs/architecture.md` against what the code says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every crate and its floor. Imports point down, never across; see `docs/architecture.md`, "Floors".
const FLOORS: &[(&str, u8)] = &[
    ("heph-types", 0),
    ("heph-kernels", 1),
    ("heph-plan", 1),
    ("heph-privacy", 1),
    ("heph-proof", 1),
    ("heph-ledger", 1),
    ("heph-engine", 2),
    ("heph-learn", 2),
    ("heph-net", 3),
    ("heph-providers", 3),
    ("heph-runtime", 4),
    ("heph-gateway", 5),
    ("heph-cli", 6),
    ("heph-desktop", 6),
    ("heph-wasm", 6),
];

/// Stands beside the floors and may look at all of them; nothing may look at it.
const BESIDE: &str = "heph-world";

/// Words that mean clock, disk, socket, environment, output or own randomness, and may not stand in a
/// crate of floors 0 to 2.
const IMPURE: &[&str] = &[
    "std::time",
    "std::net",
    "std::fs::read",
    "File::open",
    "File::create",
    "std::env",
    "std::process",
    "SystemTime",
    "Instant::now",
    "println!",
    "eprintln!",
    "tokio",
    "thread_rng",
    "getrandom",
    "async fn",
];

/// Words that make a socket, or a client that makes its own.
const SOCKETS: &[&str] = &[
    "TcpStream::connect",
    "TcpListener::bind",
    "UdpSocket::bind",
    "TcpSocket::",
    "iroh::Endpoint::builder",
    "ureq::get",
    "ureq::post",
    "ureq::agent()",
    "Agent::new_with",
    "Agent::with_parts",
    ".new_agent()",
];

/// Where they may stand: what each opens is told in `docs/privacy.md`, "The network log".
const OPENERS: &[&str] = &[
    // The peers' socket and the relay, which count what they carry.
    "heph-net/src/endpoint/here.rs",
    "heph-net/src/relay.rs",
    // The guard of connections, its pairs of sockets where a system has none, and HTTP whose connections it opens.
    "heph-runtime/src/guard/keep.rs",
    "heph-runtime/src/guard.rs",
    "heph-runtime/src/egress/counted.rs",
    // The engine behind a node, which whoever starts the node names.
    "heph-providers/src/dial.rs",
    // The door; and a look at which address this machine has, which sends nothing.
    "heph-gateway/src/connection.rs",
    "heph-cli/src/machine.rs",
    // The window's socket, which the engine inherits, and its question at that door; loopback both.
    "heph-desktop/src/engine.rs",
    "heph-desktop/src/door.rs",
];

/// File names that hide what they own.
const VAGUE: &[&str] = &[
    "mod", "utils", "util", "common", "helpers", "helper", "manager", "misc",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace stands two folders up")
}

fn floor(name: &str) -> Option<u8> {
    FLOORS.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
}

/// Workspaces: the one of the whole tree, and that of the window, whose libraries nothing else is built with.
const WORKSPACES: &[&str] = &["Cargo.toml", "crates/heph-desktop/Cargo.toml"];

/// Every crate of the tree with the HEPH crates it imports outside of tests.
fn imports() -> BTreeMap<String, Vec<String>> {
    WORKSPACES
        .iter()
        .flat_map(|manifest| imports_of(manifest))
        .collect()
}

fn imports_of(manifest: &str) -> BTreeMap<String, Vec<String>> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .args(["--manifest-path", manifest])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).expect("cargo metadata is JSON");
    let name = |v: &serde_json::Value| v["name"].as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().expect("a list of packages");
    packages
        .iter()
        .map(|p| {
            let dependencies = p["dependencies"].as_array().expect("a list of dependencies");
            let ours = dependencies
                .iter()
                .filter(|d| d["kind"] != "dev" && name(d).starts_with("heph"));
            (name(p), ours.map(name).collect())
        })
        .collect()
}

/// The Rust files below `folder`, build output left out.
fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder").flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|n| n != "target") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn sources(crate_name: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    rust_files(&root().join("crates").join(crate_name).join("src"), &mut files);
    files
        .into_iter()
        .map(|f| (f.clone(), fs::read_to_string(f).expect("UTF-8 source")))
        .collect()
}

/// What a program runs: the file without its trailing tests and without its comments.
fn code_lines(source: &str) -> impl Iterator<Item = (usize, &str)> {
    let body = source.split("#[cfg(test)]\nmod ").next().unwrap_or(source);
    body.lines()
        .enumerate()
        .map(|(n, l)| (n + 1, l))
        .filter(|(_, l)| !l.trim_start().starts_with("//"))
}

#[test]
fn imports_point_down() {
    for (name, dependencies) in imports() {
        if name == BESIDE {
            continue;
        }
        let own =
            floor(&name).unwrap_or_else(|| panic!("{name} has no floor: add it to docs/architecture.md"));
        for dependency in dependencies {
            assert_ne!(dependency, BESIDE, "{name} imports {BESIDE}: nothing may");
            let below = floor(&dependency).unwrap_or_else(|| panic!("{dependency} has no floor"));
            assert!(
                below < own,
                "{name} (floor {own}) imports {dependency} (floor {below}): imports point down"
            );
        }
    }
}

#[test]
fn only_kernels_say_unsafe() {
    for (name, _) in imports() {
        let manifest =
            fs::read_to_string(root().join("crates").join(&name).join("Cargo.toml")).expect("a manifest");
        if name == "heph-kernels" {
            assert!(
                manifest.contains("undocumented_unsafe_blocks"),
                "kernels must explain each unsafe block"
            );
            continue;
        }
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{name} must inherit the workspace's lints"
        );
        for (file, source) in sources(&name) {
            for (number, line) in code_lines(&source) {
                let says = line.contains("unsafe ") || line.contains("unsafe_code");
                assert!(
                    !says,
                    "{}:{number} says unsafe: only heph-kernels may",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn lower_floors_are_pure() {
    for (name, _) in imports() {
        if floor(&name).is_none_or(|f| f > 2) {
            continue;
        }
        assert!(
            root().join("crates").join(&name).join("clippy.toml").exists(),
            "{name} needs the pure clippy.toml"
        );
        for (file, source) in sources(&name) {
            for (number, line) in code_lines(&source) {
                for word in IMPURE {
                    assert!(
                        !line.contains(word),
                        "{}:{number} says {word}: {name} is pure",
                        file.display()
                    );
                }
            }
        }
    }
}

#[test]
fn every_module_says_what_it_is() {
    for (name, _) in imports() {
        for (file, source) in sources(&name) {
            assert!(
                source.starts_with("//!"),
                "{} opens without saying what it is",
                file.display()
            );
            let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
            assert!(
                !VAGUE.contains(&stem),
                "{}: name the thing it owns",
                file.display()
            );
        }
    }
}

#[test]
fn sockets_are_made_where_they_are_counted() {
    for (name, _) in imports() {
        if name == BESIDE {
            continue;
        }
        for (file, source) in sources(&name) {
            let allowed = OPENERS.iter().any(|opener| file.ends_with(opener));
            let tests = file.file_stem().is_some_and(|stem| stem == "tests");
            for (number, line) in code_lines(&source).filter(|_| !allowed && !tests) {
                for word in SOCKETS {
                    let said = line.contains(word);
                    assert!(
                        !said,
                        "{}:{number} says {word}: nobody would count what it sends",
                        file.display()
                    );
                }
            }
        }
    }
}

#[test]
fn every_workspace_has_the_same_lints() {
    let lints = |manifest: &str| {
        let text = fs::read_to_string(root().join(manifest)).expect("a manifest");
        let start = text
            .find("[workspace.lints.rust]")
            .expect("the workspace's lints");
        let end = text[start..].find("[profile").expect("profiles after the lints");
        text[start..start + end].to_owned()
    };
    for manifest in WORKSPACES {
        assert_eq!(lints(manifest), lints(WORKSPACES[0]), "{manifest}");
    }
}

#[test]
fn the_floor_table_of_the_docs_is_this_one() {
    let docs = fs::read_to_string(root().join("docs/architecture.md")).expect("docs/architecture.md");
    for (name, _) in imports() {
        assert!(
            docs.contains(&format!("`{name}`")),
            "docs/architecture.md does not name {name}"
        );
    }
}
