//! Files and folders that are dropped on a window. The page gets the content of files, and the paths of folders: what becomes of
//! them the person says there.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tauri::{DragDropEvent, WebviewWindow, WindowEvent};

/// Files that are read of one drop; the page takes as many.
const FILES_MAX: usize = 16;

/// Bytes that are read of a file: what is longer is too long for the page, and arrives as too long.
const BYTES_MAX: u64 = 2 << 20;

/// What was dropped.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Dropped {
    files: Vec<DroppedFile>,
    folders: Vec<PathBuf>,
}

/// A file; the page looks whether it is a text.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct DroppedFile {
    name: String,
    bytes: Vec<u8>,
}

/// Has `window` take what is dropped on it.
pub(crate) fn taken_by(window: &WebviewWindow) {
    let page = window.clone();
    window.on_window_event(move |event| {
        if let WindowEvent::DragDrop(event) = event {
            let (what, about) = match event {
                DragDropEvent::Enter { .. } => ("dragged", serde_json::Value::Bool(true)),
                DragDropEvent::Leave => ("dragged", serde_json::Value::Bool(false)),
                DragDropEvent::Drop { paths, .. } => {
                    ("dropped", serde_json::to_value(read(paths)).unwrap_or_default())
                }
                _ => return,
            };
            let detail = serde_json::json!({ "what": what, "about": about });
            let _ = page.eval(format!(
                "dispatchEvent(new CustomEvent('heph', {{ detail: {detail} }}))"
            ));
        }
    });
}

fn read(paths: &[PathBuf]) -> Dropped {
    let (folders, files): (Vec<&PathBuf>, Vec<&PathBuf>) = paths.iter().partition(|path| path.is_dir());
    Dropped {
        files: files
            .into_iter()
            .take(FILES_MAX)
            .filter_map(|path| file(path))
            .collect(),
        folders: folders.into_iter().take(FILES_MAX).cloned().collect(),
    }
}

fn file(path: &Path) -> Option<DroppedFile> {
    // Pipes and devices have no end.
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    fs::File::open(path)
        .ok()?
        .take(BYTES_MAX)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(DroppedFile {
        name: path.file_name()?.to_string_lossy().into_owned(),
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_as_paths_and_files_with_their_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a.txt"), "text").unwrap();
        fs::write(path("long"), vec![7; 3 << 20]).unwrap();
        fs::create_dir(path("notes")).unwrap();
        let dropped = read(&[
            path("a.txt"),
            path("notes"),
            path("gone"),
            path("long"),
            "/dev/zero".into(),
        ]);
        assert_eq!(dropped.folders, [path("notes")]);
        let names: Vec<_> = dropped
            .files
            .iter()
            .map(|file| (file.name.as_str(), file.bytes.len()))
            .collect();
        assert_eq!(names, [("a.txt", 4), ("long", BYTES_MAX as usize)]);
        let many: Vec<_> = (0..100).map(|_| path("a.txt")).collect();
        assert_eq!(read(&many).files.len(), FILES_MAX);
    }
}
