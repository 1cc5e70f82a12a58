//! The window: HEPH's page in a window of its own, with a menu, a tray and an engine beside it.
//!
//! Begins `heph serve` and shows the page that it serves; begins it anew when it ends. Knows no model, prompt or answer, and
//! asks nobody but that engine. Imports no crate of HEPH: what it needs, the `heph` program beside it says.
#![cfg_attr(windows, windows_subsystem = "windows")]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tauri::{AppHandle, Manager, RunEvent, WindowEvent};
use tauri_plugin_global_shortcut::{GlobalShortcutExt as _, ShortcutState};

use crate::desktop::{Desktop, Tray};
use crate::engine::Engine;
use crate::kept::Kept;
use crate::lending::Lending;
use crate::link::Link;
use crate::menu::Act;

mod bridge;
mod desktop;
mod door;
mod dropped;
mod engine;
mod kept;
mod lending;
mod link;
mod menu;
mod pages;
#[cfg(all(test, unix))]
mod scripted;
mod updates;
mod words;

/// Said by the entry that starts the window with the computer: it comes up unseen.
const UNSEEN: &str = "--unseen";

/// The name on the session's bus; windows of one profile find each other by it.
const BUS_NAME: &str = "org.heph.window";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // Without a screen there is no other place to say it.
            let _ = writeln!(std::io::stderr().lock(), "heph-desktop: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    // Before there is another thread, which might read what is set.
    #[cfg(target_os = "linux")]
    draw_without_a_card()?;
    let folder = folder().ok_or("no folder is known for what the window keeps; set HEPH_HOME")?;
    let kept = Kept::read(&folder);
    let program = program()?;
    // Before anything of the window: both take their time, and neither needs the other.
    let engine = Engine::start(program.clone(), kept.port);
    let link = Link::among(words());
    let desktop = Desktop::new(engine, Lending::new(program), folder.clone(), kept, link);
    let app = tauri::Builder::default()
        .plugin(one_instance())
        .plugin(state_of_windows(&folder))
        .plugin(shortcuts())
        .plugin(
            tauri_plugin_autostart::Builder::new()
                .arg(UNSEEN)
                .app_name("HEPH")
                .build(),
        )
        .manage(desktop)
        .invoke_handler(tauri::generate_handler![
            bridge::again,
            bridge::change,
            bridge::choose_folder,
            bridge::done,
            bridge::link,
            bridge::look_again,
            bridge::put_away,
            bridge::standing,
        ])
        .on_menu_event(|app, event| {
            if let Some(act) = Act::of(event.id().as_ref()) {
                desktop::act(app, act);
            }
        })
        .on_window_event(|window, event| {
            if let WindowEvent::CloseRequested { api, .. } = event {
                let app = window.app_handle();
                let small = |label: &str| label == pages::QUICK;
                let desktop = app.state::<Desktop>();
                // Without an icon nobody would find it again.
                let stays = desktop.kept().stays && desktop.tray() != Tray::Cannot;
                let windows = app.webview_windows();
                let last = windows
                    .keys()
                    .all(|label| small(label) || label == window.label());
                if small(window.label()) || (last && stays) {
                    api.prevent_close();
                    let _ = window.hide();
                } else if last && let Some(quick) = app.get_webview_window(pages::QUICK) {
                    // The small one is put away most times: a program of which nothing is seen would be left.
                    let _ = quick.destroy();
                }
            }
        })
        .setup(|app| {
            set_up(app.handle())?;
            Ok(())
        })
        .build(tauri::generate_context!())?;
    app.run(|app, event| {
        if let RunEvent::Exit = event {
            let desktop = app.state::<Desktop>();
            desktop.lending.stop(lending::State::Off);
            desktop.engine.end();
        }
    });
    Ok(())
}

/// What is set where there is no graphics card, unless a person set some of it: there the way over one gains nothing.
#[cfg(target_os = "linux")]
const WITHOUT_A_CARD: [(&str, &str); 3] = [
    // WebKit's page draws into memory: 95 MB less, and a tenth of a second of work.
    ("WEBKIT_DISABLE_DMABUF_RENDERER", "1"),
    // The window asks neither for GLX nor which card is to be used: it loads no Mesa and no LLVM, which are 24 MB and 40 ms.
    ("GDK_GL", "disable"),
    ("WEBKIT_WEB_RENDER_DEVICE_FILE", "/dev/null"),
];

#[cfg(target_os = "linux")]
fn draw_without_a_card() -> Result<(), glib::BoolError> {
    let set = |(name, _): &(&str, &str)| std::env::var_os(name).is_some();
    if std::path::Path::new("/dev/dri").exists() || WITHOUT_A_CARD.iter().any(set) {
        return Ok(());
    }
    WITHOUT_A_CARD
        .iter()
        .try_for_each(|(name, value)| glib::setenv(name, value, true))
}

fn set_up(app: &AppHandle) -> tauri::Result<()> {
    let unseen = words().any(|word| word == UNSEEN);
    pages::first(app, !unseen)?;
    menu::show(app);
    let desktop = app.state::<Desktop>();
    let handle = app.clone();
    desktop.engine.tell(move |state| desktop::hears(&handle, state));
    let kept = desktop.kept();
    // Another program may have these keys; the menu has the window, too.
    let _ = app.global_shortcut().register(kept.shortcut.as_str());
    if kept.lending.on {
        desktop::begin_to_lend(app);
    }
    links(app);
    Ok(())
}

/// What this program was started with, as far as it is text. Nothing else is for it.
fn words() -> impl Iterator<Item = String> {
    std::env::args_os()
        .skip(1)
        .filter_map(|word| word.into_string().ok())
}

/// Has the system know who opens `heph:` links. An installed program is known already; one of a folder says it itself. Other programs are
/// begun for that, so it waits until the page is there.
#[cfg(not(target_os = "macos"))]
fn links(app: &AppHandle) {
    use tauri_plugin_deep_link::DeepLinkExt as _;
    const LATER: std::time::Duration = std::time::Duration::from_secs(5);
    let app = app.clone();
    std::thread::spawn(move || {
        std::thread::sleep(LATER);
        // Its library reads what this program was started with, and panics where that is no text.
        let readable = std::env::args_os().all(|word| word.to_str().is_some());
        if readable && app.plugin(tauri_plugin_deep_link::init()).is_ok() {
            let _ = app.deep_link().register_all();
        }
    });
}

/// There the system knows it from the program's bundle, and tells of links while the program runs.
#[cfg(target_os = "macos")]
fn links(app: &AppHandle) {
    use tauri_plugin_deep_link::DeepLinkExt as _;
    if app.plugin(tauri_plugin_deep_link::init()).is_err() {
        return;
    }
    let handle = app.clone();
    app.deep_link().on_open_url(move |event| {
        if let Some(link) = Link::among(event.urls().iter().map(tauri::Url::as_str)) {
            desktop::follow(&handle, link);
        }
    });
}

/// The window's own folder, within HEPH's: two profiles share nothing.
fn folder() -> Option<PathBuf> {
    let home = std::env::var_os("HEPH_HOME").filter(|home| !home.is_empty());
    let home = home
        .map(PathBuf::from)
        .or_else(|| dirs::data_local_dir().map(|data| data.join("heph")))?;
    Some(home.join("window"))
}

/// The program `heph`, which lies beside this one.
fn program() -> std::io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.with_file_name(format!("heph{}", std::env::consts::EXE_SUFFIX)))
}

/// One window program for each profile: a second one hands its link over and ends.
fn one_instance() -> tauri::plugin::TauriPlugin<tauri::Wry> {
    let mut name = BUS_NAME.to_owned();
    if let Some(home) = std::env::var_os("HEPH_HOME") {
        let mut hasher = DefaultHasher::new();
        home.hash(&mut hasher);
        name = format!("{name}.p{:x}", hasher.finish());
    }
    tauri_plugin_single_instance::Builder::new()
        .dbus_id(name)
        .callback(|app, arguments, _| {
            let (handle, link) = (app.clone(), Link::among(&arguments));
            // A program that is started together with this one is heard before there is a window. The main thread has opened the first one
            // when it comes to this, so nobody opens another of its name.
            let _ = app.run_on_main_thread(move || match link {
                Some(link) => desktop::follow(&handle, link),
                None => pages::show(&handle),
            });
        })
        .build()
}

/// Where windows were is where they are again; the small one is always in the middle, and whether one is seen is not remembered.
fn state_of_windows(folder: &Path) -> tauri::plugin::TauriPlugin<tauri::Wry> {
    use tauri_plugin_window_state::{DEFAULT_FILENAME, StateFlags};
    // A whole path stays itself where the library puts it behind its own folder, which all profiles share.
    let file = folder.join("windows.json");
    tauri_plugin_window_state::Builder::new()
        .with_filename(file.to_str().unwrap_or(DEFAULT_FILENAME))
        .with_denylist(&[pages::QUICK])
        .with_state_flags(StateFlags::POSITION | StateFlags::SIZE | StateFlags::MAXIMIZED)
        .build()
}

fn shortcuts() -> tauri::plugin::TauriPlugin<tauri::Wry> {
    tauri_plugin_global_shortcut::Builder::new()
        .with_handler(|app, _, event| {
            if event.state() == ShortcutState::Pressed {
                pages::quick(app);
            }
        })
        .build()
}
