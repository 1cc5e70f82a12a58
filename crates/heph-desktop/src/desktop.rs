//! What the window's program holds, and what it does when a person wants something of it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use serde::Serialize;
use tauri::{AppHandle, Manager, Wry};
use tauri_plugin_autostart::ManagerExt as _;
use tauri_plugin_notification::{Notification, NotificationExt as _};

use crate::engine::{self, Engine};
use crate::kept::Kept;
use crate::lending::{self, Lending};
use crate::link::Link;
use crate::menu::{self, Act, Menus};
use crate::words::{self, Words, words};
use crate::{door, pages, updates};

/// Steps of the page's size.
const ZOOM: [f64; 9] = [0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0];

/// The usual step.
const USUAL: usize = 4;

/// All of it, as every part of the program finds it.
pub(crate) struct Desktop {
    pub(crate) engine: Engine,
    pub(crate) lending: Lending,
    /// Where the window keeps its own.
    folder: PathBuf,
    kept: Mutex<Kept>,
    /// How this machine was the last time the engine was asked.
    cut: Mutex<bool>,
    zoom: Mutex<usize>,
    /// A link that came before there was a page to show it.
    link: Mutex<Option<Link>>,
    menus: Mutex<Option<Menus>>,
    tray: Mutex<Tray>,
}

/// Whether there is an icon in the tray.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tray {
    /// The first page has not come: nothing is to be in its way.
    NotYet,
    /// It may be there.
    May,
    /// This system has no library for it, or refuses it.
    Cannot,
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desktop {
    pub(crate) fn new(
        engine: Engine,
        lending: Lending,
        folder: PathBuf,
        kept: Kept,
        link: Option<Link>,
    ) -> Self {
        Self {
            engine,
            lending,
            folder,
            kept: Mutex::new(kept),
            cut: Mutex::new(false),
            zoom: Mutex::new(USUAL),
            link: Mutex::new(link),
            menus: Mutex::new(None),
            tray: Mutex::new(Tray::NotYet),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn kept(&self) -> Kept {
        locked(&self.kept).clone()
    }

    /// Changes what is kept. A disk that takes nothing costs what was to be kept, and nothing else.
    pub(crate) fn keep(&self, change: impl FnOnce(&mut Kept)) {
        let mut kept = locked(&self.kept);
        let before = kept.clone();
        change(&mut kept);
        if *kept != before {
            let _ = kept.write(&self.folder);
        }
    }

    pub(crate) fn words(&self) -> &'static Words {
        match &locked(&self.kept).tongue {
            Some(tongue) => words(tongue),
            None => words(&words::of_system()),
        }
    }

    pub(crate) fn is_cut(&self) -> bool {
        *locked(&self.cut)
    }

    pub(crate) fn menus(&self) -> MutexGuard<'_, Option<Menus>> {
        locked(&self.menus)
    }

    pub(crate) fn tray(&self) -> Tray {
        *locked(&self.tray)
    }

    pub(crate) fn set_tray(&self, tray: Tray) {
        *locked(&self.tray) = tray;
    }

    /// The link that waits, for the page that takes it.
    pub(crate) fn taken_link(&self) -> Option<Link> {
        locked(&self.link).take()
    }
}

/// How the engine stands, with a sentence for the person where something is wrong.
#[derive(Serialize)]
pub(crate) struct Heard<'a> {
    #[serde(flatten)]
    state: &'a engine::State,
    said: Option<&'static str>,
}

impl<'a> Heard<'a> {
    pub(crate) fn new(state: &'a engine::State, words: &'static Words) -> Self {
        let said = match state {
            engine::State::Starting | engine::State::Open { .. } => None,
            engine::State::Again { .. } => Some(words.broke),
            engine::State::Ended { .. } => Some(words.failed),
        };
        Self { state, said }
    }
}

/// Hears what becomes of the engine, and tells pages and the person.
pub(crate) fn hears(app: &AppHandle, state: &engine::State) {
    let desktop = app.state::<Desktop>();
    pages::tell(app, "engine", &Heard::new(state, desktop.words()));
    match state {
        engine::State::Starting => {}
        engine::State::Open { .. } => {
            let port = desktop.engine.port();
            desktop.keep(|kept| kept.port = Some(port));
            pages::enter(app);
            look_whether_cut(app);
        }
        engine::State::Again { .. } => notify(app, "HEPH", desktop.words().broke),
        engine::State::Ended { why } => notify(app, desktop.words().failed, why),
    }
}

/// Does what a line of a menu says.
pub(crate) fn act(app: &AppHandle, act: Act) {
    let desktop = app.state::<Desktop>();
    match act {
        Act::Open => pages::show(app),
        Act::Quick => pages::quick(app),
        Act::Cut => cut(app, !desktop.is_cut()),
        Act::Lend => lend(
            app,
            !matches!(
                desktop.lending.state(),
                lending::State::On | lending::State::Paused
            ),
        ),
        Act::Rest => rest(app, desktop.lending.state() != lending::State::Paused),
        Act::Chat => pages::wish(app, "chat"),
        Act::Window => pages::another(app),
        Act::Close => {
            if let Some(window) = pages::focused(app) {
                let _ = window.close();
            }
        }
        Act::Quit => quit(app),
        Act::Larger => zoom(app, |at| (at + 1).min(ZOOM.len() - 1)),
        Act::Smaller => zoom(app, |at| at.saturating_sub(1)),
        Act::Usual => zoom(app, |_| USUAL),
        Act::Reload => pages::reload(app),
        Act::Screen => {
            if let Some(window) = pages::focused(app) {
                let _ = window.set_fullscreen(!window.is_fullscreen().unwrap_or(false));
            }
        }
        Act::Stay => {
            desktop.keep(|kept| kept.stays = !kept.stays);
            menu::show(app);
        }
        Act::Login => {
            start_with_the_computer(app, !starts_with_the_computer(app));
            menu::show(app);
        }
        Act::MayUpdate => {
            desktop.keep(|kept| kept.updates = !kept.updates);
            menu::show(app);
        }
        Act::Updates => updates::look(app),
    }
}

/// Opens what a link asks for: the page of machines, with the ticket in its field. Nobody is met unasked.
pub(crate) fn follow(app: &AppHandle, link: Link) {
    *locked(&app.state::<Desktop>().link) = Some(link);
    pages::show(app);
    pages::tell_first(app, "link", &());
}

/// Cuts this machine off, or ends that, through the door; shows in menus and pages how it is then.
pub(crate) fn cut(app: &AppHandle, off: bool) {
    if off {
        rest_while_cut(app);
    }
    asked(app, move |page| door::cut(page, off));
}

/// Asks how it is.
pub(crate) fn look_whether_cut(app: &AppHandle) {
    asked(app, door::is_cut);
}

fn asked(app: &AppHandle, what: impl FnOnce(&tauri::Url) -> std::io::Result<bool> + Send + 'static) {
    let app = app.clone();
    thread::spawn(move || {
        let desktop = app.state::<Desktop>();
        let Some(page) = desktop.engine.page() else {
            return menu::show(&app);
        };
        if let Ok(is) = what(&page) {
            *locked(&desktop.cut) = is;
            if is {
                rest_while_cut(&app);
            }
            pages::tell(&app, "cut", &is);
        }
        // Also where nothing changed: the line that was pressed shows what is.
        menu::show(&app);
    });
}

/// The node of this computer is a process of its own: it ends at once, and goes on when the person says so.
fn rest_while_cut(app: &AppHandle) {
    if app.state::<Desktop>().lending.state() == lending::State::On {
        rest(app, true);
    }
}

/// Lends this computer, or ends that, and remembers it.
pub(crate) fn lend(app: &AppHandle, on: bool) {
    let desktop = app.state::<Desktop>();
    desktop.keep(|kept| kept.lending.on = on);
    if on {
        begin_to_lend(app);
    } else {
        desktop.lending.stop(lending::State::Off);
    }
    lent(app);
}

/// Lets the lending rest, or go on. Not remembered: after a start it goes on.
pub(crate) fn rest(app: &AppHandle, rests: bool) {
    if rests {
        app.state::<Desktop>().lending.stop(lending::State::Paused);
    } else {
        begin_to_lend(app);
    }
    lent(app);
}

/// Lends within what is kept.
pub(crate) fn begin_to_lend(app: &AppHandle) {
    let desktop = app.state::<Desktop>();
    let handle = app.clone();
    desktop
        .lending
        .begin(&desktop.kept().lending, move || lent(&handle));
}

fn lent(app: &AppHandle) {
    let desktop = app.state::<Desktop>();
    let state = desktop.lending.state();
    pages::tell(app, "lending", &state);
    menu::show(app);
    if let lending::State::Failed { why } = &state {
        notify(app, desktop.words().lend, why);
    }
}

pub(crate) fn starts_with_the_computer(app: &AppHandle) -> bool {
    app.autolaunch().is_enabled().unwrap_or(false)
}

pub(crate) fn start_with_the_computer(app: &AppHandle, on: bool) {
    let launch = app.autolaunch();
    // What could not be changed is shown as it is.
    let _ = if on { launch.enable() } else { launch.disable() };
}

/// Ends everything that the window began.
pub(crate) fn quit(app: &AppHandle) {
    app.exit(0);
}

/// Tells the person, who may be at another window.
pub(crate) fn notify(app: &AppHandle, title: &str, body: &str) {
    // Taken up here: this library puts a question to the window into every page that is opened, which no page of ours needs.
    if app.try_state::<Notification<Wry>>().is_none()
        && app.plugin(tauri_plugin_notification::init()).is_err()
    {
        return;
    }
    // Where nobody shows notifications there is nobody to tell.
    let _ = app.notification().builder().title(title).body(body).show();
}

fn zoom(app: &AppHandle, step: impl Fn(usize) -> usize) {
    let desktop = app.state::<Desktop>();
    let at = {
        let mut at = locked(&desktop.zoom);
        *at = step(*at);
        *at
    };
    for window in app.webview_windows().into_values() {
        let _ = window.set_zoom(ZOOM[at]);
    }
}
