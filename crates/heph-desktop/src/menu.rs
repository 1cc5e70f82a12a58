//! The menu of a window and the one in the tray: made once for a language, and kept true.

use std::panic::{self, AssertUnwindSafe};
use std::thread;
use std::time::Duration;

use tauri::menu::{
    AboutMetadata, CheckMenuItem, CheckMenuItemBuilder, Menu, MenuBuilder, MenuItem, MenuItemBuilder,
    SubmenuBuilder,
};
use tauri::tray::TrayIconBuilder;
use tauri::{AppHandle, Manager, Wry};

use crate::desktop::{self, Desktop, Tray};
use crate::words::Words;
use crate::{lending, pages, updates};

/// The tray's name.
const TRAY: &str = "heph";

/// What the menus offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Open,
    Quick,
    Cut,
    Lend,
    Rest,
    Chat,
    Window,
    Close,
    Quit,
    Larger,
    Smaller,
    Usual,
    Reload,
    Screen,
    Stay,
    Login,
    MayUpdate,
    Updates,
}

impl Act {
    const ALL: [Self; 18] = [
        Self::Open,
        Self::Quick,
        Self::Cut,
        Self::Lend,
        Self::Rest,
        Self::Chat,
        Self::Window,
        Self::Close,
        Self::Quit,
        Self::Larger,
        Self::Smaller,
        Self::Usual,
        Self::Reload,
        Self::Screen,
        Self::Stay,
        Self::Login,
        Self::MayUpdate,
        Self::Updates,
    ];

    /// What menus call it.
    fn id(self) -> String {
        format!("{self:?}")
    }

    /// The act of an item.
    pub(crate) fn of(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|act| act.id() == id)
    }
}

/// Both menus, and those of their lines that change.
pub(crate) struct Menus {
    words: &'static Words,
    window: Menu<Wry>,
    tray: Menu<Wry>,
    lines: Lines,
}

/// Lines that change; those of both menus are the same.
struct Lines {
    cut: CheckMenuItem<Wry>,
    lend: CheckMenuItem<Wry>,
    rest: CheckMenuItem<Wry>,
    stay: CheckMenuItem<Wry>,
    login: CheckMenuItem<Wry>,
    /// Whether updates are allowed, and the line that looks for one; where this program replaces itself.
    updates: Option<(CheckMenuItem<Wry>, MenuItem<Wry>)>,
}

/// Shows both menus as things stand now.
pub(crate) fn show(app: &AppHandle) {
    let handle = app.clone();
    // Menus belong to the main thread. A program that ends has none.
    let _ = app.run_on_main_thread(move || {
        let _ = shown(&handle);
    });
}

/// Shows the icon in the tray from now on. Its library is loaded for it, so it comes when the first page can be seen.
pub(crate) fn stand_in_the_tray(app: &AppHandle) {
    /// From the page's last byte to its picture, on a slow machine.
    const LATER: Duration = Duration::from_millis(300);
    if app.state::<Desktop>().tray() != Tray::NotYet {
        return;
    }
    let app = app.clone();
    thread::spawn(move || {
        thread::sleep(LATER);
        let desktop = app.state::<Desktop>();
        if desktop.tray() == Tray::NotYet {
            desktop.set_tray(Tray::May);
        }
        show(&app);
    });
}

fn shown(app: &AppHandle) -> tauri::Result<()> {
    let desktop = app.state::<Desktop>();
    let mut kept = desktop.menus();
    let known = kept
        .as_ref()
        .is_some_and(|menus| std::ptr::eq(menus.words, desktop.words()));
    if !known {
        let menus = made(app)?;
        for window in app
            .webview_windows()
            .into_values()
            .filter(|window| window.label() != pages::QUICK)
        {
            window.remove_menu()?;
        }
        *kept = Some(menus);
    }
    let Some(menus) = kept.as_ref() else { return Ok(()) };
    if desktop.tray() == Tray::May && (!known || app.tray_by_id(TRAY).is_none()) {
        // The library for it panics where a system has it not, and the window goes on without an icon.
        let there = panic::catch_unwind(AssertUnwindSafe(|| in_tray(app, &menus.tray)));
        if !matches!(there, Ok(Ok(()))) {
            desktop.set_tray(Tray::Cannot);
        }
    }
    if cfg!(target_os = "macos") {
        app.set_menu(menus.window.clone())?;
    } else {
        for window in app.webview_windows().into_values() {
            if window.label() != pages::QUICK && window.menu().is_none() {
                window.set_menu(menus.window.clone())?;
            }
        }
    }
    let state = desktop.lending.state();
    let lends = matches!(state, lending::State::On | lending::State::Paused);
    menus.lines.cut.set_checked(desktop.is_cut())?;
    menus.lines.lend.set_checked(lends)?;
    menus.lines.rest.set_enabled(lends)?;
    menus.lines.rest.set_checked(state == lending::State::Paused)?;
    let wished = desktop.kept();
    menus.lines.stay.set_checked(wished.stays)?;
    if let Some((may, look)) = &menus.lines.updates {
        may.set_checked(wished.updates)?;
        look.set_enabled(wished.updates)?;
    }
    menus
        .lines
        .login
        .set_checked(desktop::starts_with_the_computer(app))
}

fn in_tray(app: &AppHandle, menu: &Menu<Wry>) -> tauri::Result<()> {
    match app.tray_by_id(TRAY) {
        Some(tray) => tray.set_menu(Some(menu.clone())),
        None => {
            let mut tray = TrayIconBuilder::with_id(TRAY).menu(menu).tooltip("HEPH");
            if let Some(icon) = app.default_window_icon() {
                tray = tray.icon(icon.clone());
            }
            tray.build(app).map(drop)
        }
    }
}

/// A line of a menu.
fn item(app: &AppHandle, act: Act, words: &str, keys: &str) -> tauri::Result<MenuItem<Wry>> {
    let item = MenuItemBuilder::with_id(act.id(), words);
    if keys.is_empty() {
        item
    } else {
        item.accelerator(keys)
    }
    .build(app)
}

/// A line that is on or off.
fn check(app: &AppHandle, act: Act, words: &str) -> tauri::Result<CheckMenuItem<Wry>> {
    CheckMenuItemBuilder::with_id(act.id(), words).build(app)
}

fn made(app: &AppHandle) -> tauri::Result<Menus> {
    let words = app.state::<Desktop>().words();
    let updates = match updates::place(app) {
        Some(_) => Some((
            check(app, Act::MayUpdate, words.may_update)?,
            item(app, Act::Updates, words.updates, "")?,
        )),
        None => None,
    };
    let lines = Lines {
        updates,
        cut: check(app, Act::Cut, words.cut)?,
        lend: check(app, Act::Lend, words.lend)?,
        rest: check(app, Act::Rest, words.rest)?,
        stay: check(app, Act::Stay, words.stay)?,
        login: check(app, Act::Login, words.login)?,
    };
    let window = of_window(app, words, &lines)?;
    let tray = MenuBuilder::new(app)
        .item(&item(app, Act::Open, words.open, "")?)
        .item(&item(app, Act::Quick, words.quick, "")?)
        .separator()
        .items(&[&lines.cut, &lines.lend, &lines.rest])
        .separator()
        .item(&item(app, Act::Quit, words.quit, "")?)
        .build()?;
    Ok(Menus {
        words,
        window,
        tray,
        lines,
    })
}

fn of_window(app: &AppHandle, words: &Words, lines: &Lines) -> tauri::Result<Menu<Wry>> {
    let file = SubmenuBuilder::new(app, words.file)
        .item(&item(app, Act::Chat, words.chat, "CmdOrCtrl+Shift+O")?)
        .item(&item(app, Act::Quick, words.quick, "")?)
        .item(&item(app, Act::Window, words.window, "CmdOrCtrl+N")?)
        .separator()
        .item(&item(app, Act::Close, words.close, "CmdOrCtrl+W")?)
        .item(&item(app, Act::Quit, words.quit, "CmdOrCtrl+Q")?)
        .build()?;
    let view = SubmenuBuilder::new(app, words.view)
        .item(&item(app, Act::Larger, words.larger, "CmdOrCtrl+=")?)
        .item(&item(app, Act::Smaller, words.smaller, "CmdOrCtrl+-")?)
        .item(&item(app, Act::Usual, words.usual, "CmdOrCtrl+0")?)
        .separator()
        .item(&item(app, Act::Reload, words.reload, "F5")?)
        .item(&item(app, Act::Screen, words.screen, "F11")?)
        .build()?;
    let machine = SubmenuBuilder::new(app, words.machine)
        .item(&lines.cut)
        .separator()
        .items(&[&lines.lend, &lines.rest])
        .separator()
        .items(&[&lines.stay, &lines.login])
        .build()?;
    let about = AboutMetadata {
        name: Some("HEPH".to_owned()),
        version: Some(app.package_info().version.to_string()),
        license: Some("MIT OR Apache-2.0".to_owned()),
        ..AboutMetadata::default()
    };
    let help = SubmenuBuilder::new(app, words.help);
    let help = match &lines.updates {
        Some((may, look)) => help.item(may).item(look),
        None => help.item(&MenuItemBuilder::new(words.no_updates).enabled(false).build(app)?),
    };
    let help = help.about_with_text(words.about, Some(about)).build()?;
    let menu = MenuBuilder::new(app).item(&file);
    // Only there do the system's keys for copying go through the menu.
    #[cfg(target_os = "macos")]
    let menu = menu.item(
        &SubmenuBuilder::new(app, "Edit")
            .undo()
            .redo()
            .separator()
            .cut()
            .copy()
            .paste()
            .select_all()
            .build()?,
    );
    menu.items(&[&view, &machine, &help]).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_known_by_its_name() {
        for act in Act::ALL {
            assert_eq!(Act::of(&act.id()), Some(act));
        }
        assert_eq!(Act::of("Nothing"), None);
    }
}
