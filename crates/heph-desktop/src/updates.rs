//! Newer versions of the program, where the build names a place for them and the key that signs them.
//!
//! Off unless the person switches it on, and not where a file `no-updates` or the switch that cuts everything off forbids it. Only
//! ever asked by a press in the menu.

use tauri::AppHandle;

use crate::desktop::notify;

/// Where updates are and who signs them.
pub(crate) struct Place {
    address: &'static str,
    key: &'static str,
}

/// As `HEPH_UPDATE_ADDRESS` and `HEPH_UPDATE_KEY` (minisign) said when this was built. There is no key that stands for one.
pub(crate) const PLACE: Option<Place> =
    match (option_env!("HEPH_UPDATE_ADDRESS"), option_env!("HEPH_UPDATE_KEY")) {
        (Some(address), Some(key)) => Some(Place { address, key }),
        _ => None,
    };

/// Looks for a newer version, and installs one whose signature is right.
pub(crate) fn look(app: &AppHandle) {
    use tauri::Manager as _;
    let desktop = app.state::<crate::desktop::Desktop>();
    let words = desktop.words();
    let may = desktop.kept().may_update(desktop.folder()) && !desktop.is_cut();
    let Some(place) = PLACE.filter(|_| may) else {
        return notify(app, "HEPH", words.update_failed);
    };
    let app = app.clone();
    tauri::async_runtime::spawn(async move {
        let said = match install(&app, &place).await {
            Ok(true) => words.update_found,
            Ok(false) => words.update_none,
            Err(_) => words.update_failed,
        };
        notify(&app, "HEPH", said);
    });
}

/// Whether there was a newer version; it is installed then.
async fn install(app: &AppHandle, place: &Place) -> Result<bool, Box<dyn std::error::Error>> {
    use tauri_plugin_updater::UpdaterExt as _;
    let updater = app
        .updater_builder()
        .endpoints(vec![place.address.parse()?])?
        .pubkey(place.key)
        .build()?;
    let Some(update) = updater.check().await? else {
        return Ok(false);
    };
    update.download_and_install(|_, _| (), || ()).await?;
    Ok(true)
}
