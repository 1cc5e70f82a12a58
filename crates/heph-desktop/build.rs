//! Names the commands that pages may ask of the window, and puts icons and the waiting page into the program.

/// See `src/bridge.rs`.
const COMMANDS: &[&str] = &[
    "again",
    "change",
    "choose_folder",
    "done",
    "link",
    "look_again",
    "put_away",
    "standing",
];

fn main() {
    let manifest = tauri_build::AppManifest::new().commands(COMMANDS);
    if let Err(error) = tauri_build::try_build(tauri_build::Attributes::new().app_manifest(manifest)) {
        println!("cargo::error={error:#}");
    }
}
