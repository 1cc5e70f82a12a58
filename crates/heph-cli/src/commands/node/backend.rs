//! A model that a serving engine of this machine runs, lent through `heph node`.

use heph_providers::{Address, Dialect, Limits, Provider, Retention, Secret};
use heph_runtime::guard::ENGINE;
use heph_runtime::node::{BackedModel, Backend, Node};
use heph_runtime::profile;
use heph_types::{Held, LayerRange, Leaves, Role, Speed};

use super::Arguments;
use crate::engine::EngineArguments;
use crate::failure::{Exit, Failure};
use heph_runtime::settings::Settings;

/// Contexts that an engine is thought to have room for: it knows better, and refuses by itself.
const CONTEXTS: u64 = 64;

/// What a node with an engine behind it lends.
pub(super) struct Backed {
    pub(super) node: Node,
    pub(super) speed: Speed,
    pub(super) held: Held,
    pub(super) memory: u64,
}

/// `openai:ADDRESS`.
pub(super) fn address(text: &str) -> Result<Address, String> {
    let shape = text
        .strip_prefix("openai:")
        .or_else(|| text.strip_prefix("vllm:"));
    let address = shape.ok_or("write it as openai:http://127.0.0.1:8000/v1")?;
    address
        .parse()
        .map_err(|e: heph_providers::AddressError| e.to_string())
}

/// The node that lends its one model by the engine at `address`.
pub(super) fn lend(
    node: Node,
    address: &Address,
    arguments: &Arguments,
    how: &EngineArguments,
    settings: &Settings,
) -> Result<Backed, Failure> {
    let [name] = &arguments.lent()[..] else {
        let sentence = "an engine lends one model; start a node for each";
        return Err(Failure::new(Exit::Usage, sentence));
    };
    let opened = how.open(name, None, 1, settings)?;
    let (hash, graph, words) = (opened.hash()?, opened.graph()?, opened.words()?);
    let counted = profile::of_model(hash, name, &graph, opened.context());
    let end = words.tokenizer.eog_ids().first().copied();
    let end =
        end.ok_or_else(|| Failure::new(Exit::Input, format!("{name} has no token that ends an answer")))?;
    let model = BackedModel {
        layers: graph.layers.len(),
        width: graph.hidden,
        vocab: graph.vocab,
        context: opened.context(),
        end,
    };
    let provider = Provider {
        name: ENGINE.to_owned(),
        dialect: Dialect::Vllm,
        url: address.clone(),
        models: vec![
            arguments
                .backend_model
                .clone()
                .unwrap_or_else(|| "model".to_owned()),
        ],
        role: Role::Own,
        sees: Leaves::Text,
        region: None,
        retention: Retention::Nothing,
        price: None,
        speed: None,
    };
    let provider = provider
        .checked()
        .map_err(|e| Failure::new(Exit::Usage, e.to_string()))?;
    let network = |sentence: String| {
        Failure::new(Exit::Network, sentence).hint(format!("does an engine answer at {address}?"))
    };
    let outlet = arguments.outlet(settings);
    let mut backend =
        Backend::new(provider, key(arguments)?, model, Limits::default(), outlet).map_err(network)?;
    if arguments.backend_model.is_none() {
        backend = match &backend.models().map_err(network)?[..] {
            [only] => backend.asking_for(only.clone()),
            several => {
                let known = several.join(", ");
                let sentence = format!("the engine has several models: {known}");
                return Err(Failure::new(Exit::Usage, sentence).hint("--backend-model says which is lent"));
            }
        };
    }
    let speed = backend.timed(&counted).map_err(network)?;
    let count = model.layers;
    let layers = LayerRange::new(0, count, count).map_err(|e| Failure::new(Exit::Input, e.to_string()))?;
    let weights: u64 = counted.layers.iter().map(|layer| layer.weight_bytes).sum();
    let position: f64 = counted.layers.iter().map(|layer| layer.kv_bytes_f16).sum();
    let caches = (position * model.context as f64) as u64 * CONTEXTS;
    Ok(Backed {
        node: node.with_backend(hash, backend),
        speed,
        held: Held { model: hash, layers },
        memory: weights + counted.head.weight_bytes + counted.embed_bytes + caches,
    })
}

fn key(arguments: &Arguments) -> Result<Option<Secret>, Failure> {
    let Some(variable) = &arguments.backend_key_env else {
        return Ok(None);
    };
    let value = std::env::var(variable)
        .map_err(|_| Failure::new(Exit::Usage, format!("the variable {variable} is not set")))?;
    let none = || Failure::new(Exit::Usage, format!("the variable {variable} holds no key"));
    Secret::new(&value).map(Some).ok_or_else(none)
}
