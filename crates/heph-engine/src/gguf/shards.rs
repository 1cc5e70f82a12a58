//! Models in several files: `name-00001-of-00003.gguf` and so on.

use super::{Gguf, GgufError};

/// Far above any model in use; stops a file name from asking for endless parts.
const SHARDS_MAX: usize = 4096;

/// The names of all parts of the model that `name` is a part of, in order, or `None` for a name that is no part.
pub fn shard_names(name: &str) -> Option<Vec<String>> {
    let stem = name.strip_suffix(".gguf")?;
    let (front, count) = stem.rsplit_once("-of-")?;
    let (base, number) = front.rsplit_once('-')?;
    let digits = |text: &str| (text.len() == 5).then(|| text.parse::<usize>().ok()).flatten();
    let (count, number) = (digits(count)?, digits(number)?);
    let valid = (1..=count.min(SHARDS_MAX)).contains(&number) && count <= SHARDS_MAX;
    valid.then(|| {
        (1..=count)
            .map(|part| format!("{base}-{part:05}-of-{count:05}.gguf"))
            .collect()
    })
}

impl<'a> Gguf<'a> {
    /// Joins all parts of a sharded model, given in order: metadata of the first, tensors of all.
    ///
    /// # Errors
    /// When the parts do not say that they are these parts of one model, or hold one tensor twice.
    pub fn join(parts: Vec<Gguf<'a>>) -> Result<Gguf<'a>, GgufError> {
        for (index, part) in parts.iter().enumerate() {
            check(part, index, parts.len())?;
        }
        let wanted = parts
            .first()
            .and_then(|first| first.metadata.get("split.tensors.count"))
            .copied();
        let mut tensors = Vec::with_capacity(parts.iter().map(|part| part.tensors.len()).sum());
        let mut first = None;
        for part in parts {
            tensors.extend_from_slice(&part.tensors);
            first.get_or_insert((part.version, part.metadata));
        }
        if let Some(wanted) = wanted
            .and_then(|count| count.as_i64())
            .filter(|&w| w != tensors.len() as i64)
        {
            let why = format!("the model has {wanted} tensors, its parts hold {}", tensors.len());
            return Err(GgufError::Shard { part: 1, why });
        }
        let (version, metadata) = first.ok_or_else(|| GgufError::Shard {
            part: 1,
            why: "there is none".to_owned(),
        })?;
        Gguf::assemble(version, metadata, tensors)
    }

    /// How many files the model is in, as this one says; 1 where it says nothing.
    pub fn shards(&self) -> Result<usize, GgufError> {
        let count = self.metadata.integer("split.count")?.unwrap_or(1).max(1);
        let why = || format!("it says there are {count} parts");
        usize::try_from(count)
            .ok()
            .filter(|&count| count <= SHARDS_MAX)
            .ok_or_else(|| GgufError::Shard { part: 1, why: why() })
    }
}

fn check(part: &Gguf<'_>, index: usize, count: usize) -> Result<(), GgufError> {
    let wrong = |why: String| Err(GgufError::Shard { part: index + 1, why });
    let stated = part.shards()?;
    if stated != count {
        return wrong(format!("it says there are {stated} parts, {count} were given"));
    }
    let number = part.metadata.integer("split.no")?;
    match number {
        Some(number) if number == index as u64 => Ok(()),
        None if count == 1 => Ok(()),
        None => wrong("it does not say which part it is".to_owned()),
        Some(number) => wrong(format!("it says it is part {}", number.saturating_add(1))),
    }
}
