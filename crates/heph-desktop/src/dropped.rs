//! Files and folders that are dropped on a window. The page gets the content of files, and the paths of folders: what becomes of
//! them the person says there.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;

use base64::Engine as _;
use serde::Serialize;
use tauri::{DragDropEvent, WebviewWindow, WindowEvent};

/// Files and folders that are looked at of one drop; the page takes half as many, and says so of the others.
const COUNT_MAX: usize = 16;

/// Bytes that are read of a file: what is longer is too long for the page (`FILE_BYTES_MAX` in `ui/src/text/files.ts`), and arrives as
/// too long.
const BYTES_MAX: u64 = 1 << 20;

/// What was dropped.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Dropped {
    files: Vec<DroppedFile>,
    /// As they are written; a name that is no text has a mark where it is none, and the door knows no such folder.
    folders: Vec<String>,
}

/// A file; the page looks whether it is a text.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct DroppedFile {
    name: String,
    /// In base64; `None` where it cannot be read.
    bytes: Option<String>,
}

/// Has `window` take what is dropped on it.
pub(crate) fn taken_by(window: &WebviewWindow) {
    let page = window.clone();
    window.on_window_event(move |event| {
        if let WindowEvent::DragDrop(DragDropEvent::Drop { paths, .. }) = event {
            let (page, paths) = (page.clone(), paths.clone());
            // A disk of another machine may take its time, and the window does not wait for it.
            thread::spawn(move || {
                let detail = serde_json::json!({ "what": "dropped", "about": read(&paths) });
                let _ = page.eval(format!(
                    "dispatchEvent(new CustomEvent('heph', {{ detail: {detail} }}))"
                ));
            });
        }
    });
}

fn read(paths: &[PathBuf]) -> Dropped {
    let looked_at = &paths[..paths.len().min(COUNT_MAX)];
    let (folders, files): (Vec<&PathBuf>, Vec<&PathBuf>) = looked_at.iter().partition(|path| path.is_dir());
    Dropped {
        files: files.into_iter().filter_map(|path| file(path)).collect(),
        folders: folders
            .into_iter()
            .map(|path| path.to_string_lossy().into_owned())
            .collect(),
    }
}

fn file(path: &Path) -> Option<DroppedFile> {
    Some(DroppedFile {
        name: path.file_name()?.to_string_lossy().into_owned(),
        bytes: beginning(path).map(|bytes| base64::engine::general_purpose::STANDARD.encode(bytes)),
    })
}

/// The first bytes of a file; `None` where there are none to be had: pipes and devices have no end, and others may forbid it.
fn beginning(path: &Path) -> Option<Vec<u8>> {
    let about = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let mut bytes = Vec::new();
    // No more than it says that it has: what the system makes while it is read (`/proc`) says nothing, and may keep a reader waiting.
    let length = about.len().min(BYTES_MAX);
    fs::File::open(path)
        .ok()?
        .take(length)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes of a file came.
    fn length(file: &DroppedFile) -> Option<usize> {
        let decoded = |text: &String| base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        file.bytes.as_ref().map(|text| decoded(text).len())
    }

    #[test]
    fn folders_come_as_paths_and_files_with_their_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a.txt"), "text").unwrap();
        fs::write(path("long"), vec![7; 3 << 20]).unwrap();
        fs::write(path("empty"), "").unwrap();
        fs::create_dir(path("notes")).unwrap();
        let dropped = read(&[
            path("a.txt"),
            path("notes"),
            path("gone"),
            path("long"),
            path("empty"),
        ]);
        assert_eq!(dropped.folders, [path("notes").to_str().unwrap()]);
        assert_eq!(dropped.files[0].bytes.as_deref(), Some("dGV4dA=="));
        let lengths: Vec<_> = dropped
            .files
            .iter()
            .map(|file| (file.name.as_str(), length(file)))
            .collect();
        assert_eq!(
            lengths,
            [
                ("a.txt", Some(4)),
                ("gone", None),
                ("long", Some(BYTES_MAX as usize)),
                ("empty", Some(0))
            ]
        );
        let many: Vec<_> = (0..100).map(|_| path("a.txt")).collect();
        assert_eq!(read(&many).files.len(), COUNT_MAX);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn nobody_waits_for_what_has_no_end() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let made = std::process::Command::new("mkfifo")
            .arg(path("pipe"))
            .status()
            .unwrap();
        assert!(made.success());
        std::os::unix::fs::symlink("/dev/zero", path("zeros")).unwrap();
        std::os::unix::fs::symlink(path("loop"), path("loop")).unwrap();
        let odd = folder.path().join(OsStr::from_bytes(b"odd\xff"));
        fs::create_dir(&odd).unwrap();
        fs::write(odd.join(OsStr::from_bytes(b"\xfe.txt")), "x").unwrap();
        // This one is read by whoever waits for the system's next message.
        let paths = [
            path("pipe"),
            path("zeros"),
            path("loop"),
            "/proc/kmsg".into(),
            "/proc/version".into(),
            odd.join(OsStr::from_bytes(b"\xfe.txt")),
            odd.clone(),
        ];
        let (tell, told) = std::sync::mpsc::channel();
        thread::spawn(move || tell.send(read(&paths)));
        let dropped = told
            .recv_timeout(crate::scripted::PATIENCE)
            .expect("nobody waits");
        let lengths: Vec<_> = dropped
            .files
            .iter()
            .map(|file| (file.name.as_str(), length(file)))
            .collect();
        let [pipe, zeros, turns, system, made, text] = lengths.as_slice() else {
            panic!("{lengths:?}");
        };
        assert_eq!(
            [pipe, zeros, turns, made, text],
            [
                &("pipe", None),
                &("zeros", None),
                &("loop", None),
                &("version", Some(0)),
                &("\u{fffd}.txt", Some(1))
            ]
        );
        assert!(system.1.is_none_or(|length| length == 0), "{system:?}");
        assert_eq!(
            dropped.folders,
            [odd.to_string_lossy()],
            "one odd name loses no other"
        );
        assert!(serde_json::to_value(&dropped).is_ok());
    }
}
