//! What the page may ask of the window. Nothing here reads or writes what a person said; that is the door's.
//!
//! Every command asks first whether it is the engine's page, or this program's own, that speaks.

use serde::{Deserialize, Serialize};
use tauri::{AppHandle, Manager, State, WebviewWindow, Wry};
use tauri_plugin_dialog::{Dialog, DialogExt as _};

use crate::desktop::{self, Desktop, notify};
use crate::engine;
use crate::kept;
use crate::lending;
use crate::link::Link;
use crate::{menu, pages};

/// How the window stands.
#[derive(Debug, Serialize)]
pub(crate) struct Standing {
    engine: engine::State,
    lending: lending::State,
    caps: kept::Lending,
    /// Whether it goes on in the tray when its last window is closed.
    stays: bool,
    /// Whether it starts with the computer.
    login: bool,
    shortcut: String,
    version: String,
}

/// A change that the person made on the page; what is not named stays.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Change {
    lend: Option<bool>,
    rest: Option<bool>,
    caps: Option<kept::Lending>,
    stays: Option<bool>,
    login: Option<bool>,
    /// The language of menus.
    tongue: Option<String>,
    look: Option<kept::Look>,
}

/// Work that took long and is done.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Done {
    Answer,
    Model,
}

/// Why nothing was done.
#[derive(Debug, Serialize)]
pub(crate) struct Refused(&'static str);

/// A language's name is short.
const TONGUE_MAX: usize = 16;

/// Only the pages that this program opened may ask.
fn allowed(window: &WebviewWindow) -> Result<(), Refused> {
    let url = window.url().map_err(|_| Refused("the window has no page"))?;
    match pages::is_ours(&url, window.state::<Desktop>().engine.page().as_ref()) {
        true => Ok(()),
        false => Err(Refused("this page may ask nothing of the window")),
    }
}

/// How the window stands.
#[tauri::command]
pub(crate) fn standing(
    app: AppHandle,
    window: WebviewWindow,
    desktop: State<'_, Desktop>,
) -> Result<Standing, Refused> {
    allowed(&window)?;
    let kept = desktop.kept();
    Ok(Standing {
        engine: desktop.engine.state(),
        lending: desktop.lending.state(),
        caps: kept.lending,
        stays: kept.stays,
        login: desktop::starts_with_the_computer(&app),
        shortcut: kept.shortcut,
        version: app.package_info().version.to_string(),
    })
}

/// Makes a change.
#[tauri::command]
pub(crate) fn change(
    app: AppHandle,
    window: WebviewWindow,
    desktop: State<'_, Desktop>,
    change: Change,
) -> Result<(), Refused> {
    allowed(&window)?;
    if let Some(caps) = change.caps {
        desktop.keep(|kept| {
            kept.lending = kept::Lending {
                on: kept.lending.on,
                ..caps
            }
        });
        if desktop.lending.state() == lending::State::On {
            desktop::begin_to_lend(&app);
        }
    }
    if let Some(on) = change.lend {
        desktop::lend(&app, on);
    }
    if let Some(rests) = change.rest {
        desktop::rest(&app, rests);
    }
    if let Some(stays) = change.stays {
        desktop.keep(|kept| kept.stays = stays);
    }
    if let Some(on) = change.login {
        desktop::start_with_the_computer(&app, on);
    }
    if let Some(tongue) = change.tongue.filter(|tongue| tongue.len() <= TONGUE_MAX) {
        desktop.keep(|kept| kept.tongue = Some(tongue));
    }
    // A look is told to every widget of the system's, also where it is the same.
    if let Some(look) = change.look.filter(|look| *look != desktop.kept().look) {
        desktop.keep(|kept| kept.look = look);
        app.set_theme(pages::theme(look));
    }
    menu::show(&app);
    Ok(())
}

/// The page changed whether this machine is cut off.
#[tauri::command]
pub(crate) fn look_again(app: AppHandle, window: WebviewWindow) -> Result<(), Refused> {
    allowed(&window)?;
    desktop::look_whether_cut(&app);
    Ok(())
}

/// Starts an engine that ended again and again once more.
#[tauri::command]
pub(crate) fn again(window: WebviewWindow, desktop: State<'_, Desktop>) -> Result<(), Refused> {
    allowed(&window)?;
    desktop.engine.again();
    Ok(())
}

/// The link that waits for the page of the first window; once.
#[tauri::command]
pub(crate) fn link(window: WebviewWindow, desktop: State<'_, Desktop>) -> Result<Option<String>, Refused> {
    allowed(&window)?;
    // The first window comes to the front for it: any other might take it unseen.
    if window.label() != pages::MAIN {
        return Ok(None);
    }
    Ok(desktop.taken_link().map(|Link::Join { ticket }| ticket))
}

/// Tells the person that long work is done, where nobody looks at the window. Never what came of it: others may see the screen.
#[tauri::command]
pub(crate) fn done(
    app: AppHandle,
    window: WebviewWindow,
    desktop: State<'_, Desktop>,
    what: Done,
) -> Result<(), Refused> {
    allowed(&window)?;
    if !window.is_focused().unwrap_or(false) {
        let words = desktop.words();
        let title = match what {
            Done::Answer => words.answered,
            Done::Model => words.pulled,
        };
        notify(&app, title, words.look);
    }
    Ok(())
}

/// Has the person choose a folder in the system's own way; `None` where they chose none.
#[tauri::command]
pub(crate) async fn choose_folder(app: AppHandle, window: WebviewWindow) -> Result<Option<String>, Refused> {
    allowed(&window)?;
    // Taken up here: what this library puts into pages no page of ours needs.
    if app.try_state::<Dialog<Wry>>().is_none() {
        app.plugin(tauri_plugin_dialog::init())
            .map_err(|_| Refused("folders cannot be chosen here"))?;
    }
    // Not on the main thread: the dialog needs that one.
    let chosen = app.dialog().file().set_parent(&window).blocking_pick_folder();
    let path = chosen.and_then(|chosen| chosen.into_path().ok());
    Ok(path.map(|path| path.to_string_lossy().into_owned()))
}

/// Puts the window for a quick question away.
#[tauri::command]
pub(crate) fn put_away(window: WebviewWindow) -> Result<(), Refused> {
    allowed(&window)?;
    if window.label() == pages::QUICK {
        let _ = window.hide();
    }
    Ok(())
}
