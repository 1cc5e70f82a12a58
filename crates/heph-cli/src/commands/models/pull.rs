//! `heph models pull`.

use heph_runtime::guard::Outlet;
use heph_runtime::pull::{self, Hub, Patience, Repository, Request};
use heph_runtime::settings::Settings;
use heph_runtime::store::{ModelName, Store, StoreError};

use crate::failure::Failure;
use crate::terminal;

/// Download a model from a Hugging Face style hub into the store.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A download that was interrupted goes on where it stopped. HEPH_HUB names another hub than \
                        huggingface.co, HF_TOKEN an access token."
)]
pub(crate) struct Arguments {
    /// The repository, as owner/name
    repository: String,
    /// Which GGUF file of it, if it holds several
    file: Option<String>,
    /// A branch, tag or commit
    #[arg(long, default_value = "main")]
    revision: String,
    /// The SHA-256 that the model's one file must have
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// The name it gets in the store [default: the file's or repository's]
    #[arg(long)]
    name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Downloads and prints the name.
pub(crate) fn run(arguments: &Arguments, store: &Store, settings: &Settings) -> Result<(), Failure> {
    let request = request(arguments)?;
    let (token, outlet) = (settings.hub_token.as_deref(), Outlet::of(settings));
    let hub = Hub::new(&settings.hub, token, Patience::default(), outlet);
    let bar = terminal::bytes_bar(&format!("downloading {}", request.name)).at_once();
    let cancel = terminal::cancel_on_any_signal()?;
    let record = pull::pull(&hub, store, &request, &cancel, &mut |p| terminal::show(&bar, p));
    bar.finish_and_clear();
    super::tell(record?, arguments.json)
}

fn request(arguments: &Arguments) -> Result<Request, Failure> {
    let repository = Repository::new(&arguments.repository)?;
    let name = match (&arguments.name, &arguments.file) {
        (Some(name), _) => ModelName::new(name),
        (None, Some(file)) => ModelName::suggested_by(file),
        (None, None) => ModelName::suggested_by(&arguments.repository),
    };
    Ok(Request {
        repository,
        revision: arguments.revision.clone(),
        file: arguments.file.clone(),
        sha256: arguments.sha256.clone(),
        name: name.map_err(StoreError::from)?,
    })
}
