//! Programs that are scripts of the shell, in the place of `heph`, for tests.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Long enough for a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A program that is `script`, run in `folder`, where it lies.
pub(crate) fn program(folder: &Path, script: &str) -> PathBuf {
    let program = folder.join("heph");
    // Another process writes it: a program that a test beside this one begins in that moment would inherit what this process writes,
    // and the system begins no file that somebody writes.
    let mut writes = Command::new("sh")
        .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
        .arg(&program)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let text = format!("#!/bin/sh\ncd {}\n{script}\n", folder.display());
    writes.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(writes.wait().unwrap().success());
    program
}
