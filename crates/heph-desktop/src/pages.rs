//! The windows, and the page in them: the engine's own, and one of this program for the time in which there is no engine.
//!
//! A window shows nothing else: whatever leads elsewhere is opened in the person's browser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;
use tauri::webview::{DownloadEvent, NewWindowResponse, PageLoadEvent};
use tauri::window::Color;
use tauri::{AppHandle, Manager, Theme, Url, WebviewUrl, WebviewWindow, WebviewWindowBuilder};

use crate::desktop::{Desktop, Heard, notify};
use crate::kept::Look;
use crate::{dropped, menu};

/// The window that is opened at the start.
pub(crate) const MAIN: &str = "main";

/// The window for a quick question.
pub(crate) const QUICK: &str = "quick";

/// Windows at one time; each has a process of its own.
const WINDOWS_MAX: usize = 8;

/// How long the first window waits for the engine before it shows that it waits.
const AT_ONCE: Duration = Duration::from_millis(400);

/// Files of one name in the folder of downloads.
const SAME_NAME_MAX: usize = 1000;

/// Says to a page that it is small: of its frame only what may leave is shown. Escape puts the window away.
const SMALL: &str = "addEventListener('DOMContentLoaded', () => {
  const style = document.createElement('style');
  style.textContent = 'nav { display: none !important } .frame { grid-template: auto minmax(0, 1fr) / minmax(0, 1fr) !important; grid-template-areas: \"head\" \"main\" !important }';
  document.head.append(style);
});
addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && !event.defaultPrevented) window.__TAURI_INTERNALS__.invoke('put_away');
});";

/// Opens the first window; unseen where the program came up with the computer.
pub(crate) fn first(app: &AppHandle, seen: bool) -> tauri::Result<()> {
    let desktop = app.state::<Desktop>();
    let page = desktop.engine.page_within(AT_ONCE);
    open(app, MAIN, page, |window| {
        window.visible(seen).inner_size(1180.0, 780.0)
    })
    .map(drop)
}

/// Another window beside those that are there.
pub(crate) fn another(app: &AppHandle) {
    let windows = app.webview_windows();
    let free = (2..=WINDOWS_MAX)
        .map(|n| format!("{MAIN}-{n}"))
        .find(|label| !windows.contains_key(label));
    if let Some(label) = free {
        let page = app.state::<Desktop>().engine.page();
        let _ = open(app, &label, page, |window| window.inner_size(1180.0, 780.0));
        menu::show(app);
    }
}

/// Shows the window for a quick question, in front of everything; puts it away where it is in front.
pub(crate) fn quick(app: &AppHandle) {
    if let Some(window) = app.get_webview_window(QUICK) {
        if window.is_visible().unwrap_or(false) && window.is_focused().unwrap_or(false) {
            let _ = window.hide();
        } else {
            let _ = window.show().and_then(|()| window.set_focus());
            eval(&window, "wish", &"chat");
        }
        return;
    }
    let page = app.state::<Desktop>().engine.page();
    let _ = open(app, QUICK, page, |window| {
        window
            .inner_size(640.0, 460.0)
            .always_on_top(true)
            .skip_taskbar(true)
            .center()
            .initialization_script(SMALL)
    });
}

/// Brings the first window to the front.
pub(crate) fn show(app: &AppHandle) {
    match app.get_webview_window(MAIN) {
        Some(window) => {
            let _ = window
                .unminimize()
                .and_then(|()| window.show())
                .and_then(|()| window.set_focus());
        }
        None => {
            let page = app.state::<Desktop>().engine.page();
            let _ = open(app, MAIN, page, |window| window.inner_size(1180.0, 780.0));
            menu::show(app);
        }
    }
}

/// The window that a person looks at.
pub(crate) fn focused(app: &AppHandle) -> Option<WebviewWindow> {
    let windows = app.webview_windows();
    let found = windows
        .values()
        .find(|window| window.is_focused().unwrap_or(false));
    found.or_else(|| windows.get(MAIN)).cloned()
}

/// Takes every window to the engine's page that is not there.
pub(crate) fn enter(app: &AppHandle) {
    let engine = &app.state::<Desktop>().engine;
    let Some(page) = engine.page() else { return };
    for window in app.webview_windows().into_values() {
        if !window.url().is_ok_and(|url| url.origin() == page.origin()) {
            let _ = window.navigate(page.clone());
        }
    }
}

/// Loads the page anew.
pub(crate) fn reload(app: &AppHandle) {
    let Some(window) = focused(app) else { return };
    let page = app.state::<Desktop>().engine.page();
    let _ = match (page, window.url()) {
        // The page stays where it is; it has the token. Not by a word to the page: its process may have ended.
        (Some(page), Ok(url)) if page.origin() == url.origin() => window.reload(),
        (Some(page), _) => window.navigate(page),
        (None, _) => Ok(()),
    };
}

/// Has the page that a person looks at do something.
pub(crate) fn wish(app: &AppHandle, what: &str) {
    if let Some(window) = focused(app) {
        eval(&window, "wish", &what);
    }
}

/// Tells every page of something.
pub(crate) fn tell(app: &AppHandle, what: &str, about: &impl Serialize) {
    for window in app.webview_windows().into_values() {
        eval(&window, what, about);
    }
}

/// Tells the page of the first window of something.
pub(crate) fn tell_first(app: &AppHandle, what: &str, about: &impl Serialize) {
    if let Some(window) = app.get_webview_window(MAIN) {
        eval(&window, what, about);
    }
}

fn eval(window: &WebviewWindow, what: &str, about: &impl Serialize) {
    let detail = serde_json::json!({ "what": what, "about": about });
    // JSON is an expression of JavaScript.
    let _ = window.eval(format!(
        "dispatchEvent(new CustomEvent('heph', {{ detail: {detail} }}))"
    ));
}

fn open<'a>(
    app: &'a AppHandle,
    label: &str,
    page: Option<Url>,
    shape: impl FnOnce(
        WebviewWindowBuilder<'a, tauri::Wry, AppHandle>,
    ) -> WebviewWindowBuilder<'a, tauri::Wry, AppHandle>,
) -> tauri::Result<WebviewWindow> {
    let desktop = app.state::<Desktop>();
    let theme = theme(desktop.kept().look);
    let url = page.map_or_else(|| WebviewUrl::App("index.html".into()), WebviewUrl::External);
    let (inside, elsewhere) = (app.clone(), app.clone());
    let window = WebviewWindowBuilder::new(app, label, url)
        .title("HEPH")
        .theme(theme)
        .background_color(ground(theme))
        .data_directory(desktop.folder().join("page"))
        .min_inner_size(360.0, 420.0)
        .on_navigation(move |url| {
            let ours = is_ours(url, inside.state::<Desktop>().engine.page().as_ref());
            if !ours {
                in_browser(url);
            }
            ours
        })
        .on_new_window(|url, _| {
            in_browser(&url);
            NewWindowResponse::Deny
        })
        .on_download(move |_, event| {
            downloaded(&elsewhere, event);
            true
        })
        .on_page_load(|window, load| {
            if load.event() == PageLoadEvent::Finished {
                let desktop = window.state::<Desktop>();
                eval(
                    &window,
                    "engine",
                    &Heard::new(&desktop.engine.state(), desktop.words()),
                );
                if window.label() == QUICK {
                    // A person writes at once.
                    eval(&window, "wish", &"chat");
                }
                menu::stand_in_the_tray(window.app_handle());
            }
        });
    let window = shape(window).build()?;
    dropped::taken_by(&window);
    mended(&window)?;
    Ok(window)
}

/// Loads the page anew where WebKit's process for it ended; its chats are the door's. One that ends at once again is given a while.
#[cfg(target_os = "linux")]
fn mended(window: &WebviewWindow) -> tauri::Result<()> {
    use std::cell::Cell;
    use std::time::Instant;

    use webkit2gtk::WebViewExt as _;
    /// A page that falls that soon after the last time might only fall again, and so is not loaded more often than this.
    const TOO_SOON: Duration = Duration::from_secs(5);
    window.with_webview(|webview| {
        let last: Cell<Option<Instant>> = Cell::new(None);
        webview.inner().connect_web_process_terminated(move |page, _| {
            let before = last.replace(Some(Instant::now()));
            if before.is_none_or(|before| before.elapsed() > TOO_SOON) {
                return page.reload();
            }
            let page = page.clone();
            glib::timeout_add_local_once(TOO_SOON, move || page.reload());
        });
    })
}

/// Elsewhere it was not tried what becomes of such a page.
#[cfg(not(target_os = "linux"))]
fn mended(_: &WebviewWindow) -> tauri::Result<()> {
    Ok(())
}

/// Whether a window may show `url`, and its page ask something of this program: it is our own page, or `page`'s, which the engine
/// serves.
pub(crate) fn is_ours(url: &Url, page: Option<&Url>) -> bool {
    let own = match cfg!(windows) {
        true => url.scheme() == "http" && url.host_str() == Some("tauri.localhost"),
        false => url.scheme() == "tauri" && url.host_str() == Some("localhost"),
    };
    own || page.is_some_and(|page| page.origin() == url.origin())
}

/// The look of windows for that of the page.
pub(crate) fn theme(look: Look) -> Option<Theme> {
    match look {
        Look::System => None,
        Look::Light => Some(Theme::Light),
        Look::Dark => Some(Theme::Dark),
    }
}

/// The page's ground (`ui/src/tokens.css`): nothing flashes before it is there.
fn ground(theme: Option<Theme>) -> Color {
    match theme {
        Some(Theme::Dark) => Color(0x15, 0x16, 0x1a, 0xff),
        _ => Color(0xf6, 0xf4, 0xf0, 0xff),
    }
}

/// Opens an address of the web in the person's browser; nothing else is opened.
fn in_browser(url: &Url) {
    if !matches!(url.scheme(), "https" | "http" | "mailto") {
        return;
    }
    let program = if cfg!(target_os = "macos") {
        "open"
    } else if cfg!(windows) {
        "explorer"
    } else {
        "xdg-open"
    };
    let mut command = Command::new(program);
    command
        .arg(url.as_str())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Ok(mut child) = command.spawn() {
        std::thread::spawn(move || child.wait());
    }
}

/// Puts what the page gives into the folder of downloads, beside what is there.
fn downloaded(app: &AppHandle, event: DownloadEvent<'_>) {
    match event {
        DownloadEvent::Requested { destination, .. } => {
            let folder = app.path().download_dir().or_else(|_| app.path().home_dir());
            if let Ok(folder) = folder {
                let _ = fs::create_dir_all(&folder);
                *destination = beside(&folder, destination);
            }
        }
        DownloadEvent::Finished { path, success, .. } => {
            let words = app.state::<Desktop>().words();
            if let (Some(path), true) = (path, success) {
                notify(app, words.saved, &path.display().to_string());
            }
        }
        _ => {}
    }
}

/// A path in `folder` that is free, with the name of `wished`.
fn beside(folder: &Path, wished: &Path) -> PathBuf {
    let name = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let stem = name(wished.file_stem()).unwrap_or_else(|| "heph".to_owned());
    let ending = name(wished.extension()).map_or_else(String::new, |ending| format!(".{ending}"));
    let first = folder.join(format!("{stem}{ending}"));
    let others = (2..SAME_NAME_MAX).map(|n| folder.join(format!("{stem} ({n}){ending}")));
    let mut free = std::iter::once(first.clone())
        .chain(others)
        .filter(|path| !path.exists());
    free.next().unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(windows))]
    #[test]
    fn only_our_pages_are_shown_and_heard() {
        let url = |text: &str| Url::parse(text).unwrap();
        let page = url("http://127.0.0.1:11500/#token=t");
        for (text, expected) in [
            ("tauri://localhost/index.html", true),
            ("http://127.0.0.1:11500/", true),
            ("http://127.0.0.1:11500/?quick#/chat", true),
            ("http://127.0.0.1:11501/", false),
            ("https://127.0.0.1:11500/", false),
            ("http://localhost:11500/", false),
            ("http://127.0.0.1:11500@example.org/", false),
            ("http://127.0.0.1.example.org:11500/", false),
            ("tauri://elsewhere/", false),
            ("http://tauri.localhost/", false),
            ("file:///etc/passwd", false),
            ("data:text/html,x", false),
            ("about:blank", false),
        ] {
            assert_eq!(is_ours(&url(text), Some(&page)), expected, "{text}");
        }
        assert!(!is_ours(&page, None));
    }

    #[test]
    fn what_is_saved_replaces_nothing_and_leaves_its_folder_never() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        assert_eq!(
            beside(folder.path(), Path::new("/elsewhere/chat.md")),
            path("chat.md")
        );
        fs::write(path("chat.md"), "").unwrap();
        assert_eq!(beside(folder.path(), Path::new("chat.md")), path("chat (2).md"));
        fs::write(path("chat (2).md"), "").unwrap();
        assert_eq!(beside(folder.path(), Path::new("chat.md")), path("chat (3).md"));
        assert_eq!(
            beside(folder.path(), Path::new("../../etc/passwd")),
            path("passwd")
        );
        assert_eq!(beside(folder.path(), Path::new("..")), path("heph"));
        assert_eq!(beside(folder.path(), Path::new("")), path("heph"));
    }
}
