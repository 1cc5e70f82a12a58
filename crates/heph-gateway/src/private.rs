//! Files of the door that no other user of this machine may read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

/// The file's text, or `InvalidData` where it is longer than `bytes_max` or no text.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text"))
}

/// Makes the file, and its folder where there is none; `AlreadyExists` where somebody was faster.
pub(crate) fn create(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Puts `text` in the file's place in one step: a reader sees the old one or the new one.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    // What a program that was ended left behind.
    let _ = fs::remove_file(&beside);
    create(&beside, text)?;
    fs::rename(&beside, path)
}

/// Whether other users may read or write the file. Always `false` where files have no such mode.
pub(crate) fn is_open(path: &Path) -> bool {
    lets_others(path, 0o077)
}

/// Whether other users may write the file. Always `false` where files have no such mode.
pub(crate) fn is_writable(path: &Path) -> bool {
    lets_others(path, 0o022)
}

#[cfg(unix)]
fn lets_others(path: &Path, bits: u32) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|m| m.permissions().mode() & bits != 0)
}

#[cfg(not(unix))]
fn lets_others(_: &Path, _: u32) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_private_and_replaced_whole() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("new").join("kept");
        create(&path, "one").unwrap();
        assert_eq!(
            create(&path, "two").unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        replace(&path, "three").unwrap();
        assert_eq!(read(&path, 5).unwrap(), "three");
        assert_eq!(read(&path, 4).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(!is_open(&path));
    }
}
