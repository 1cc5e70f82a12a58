//! A tokenizer from the metadata of a GGUF file.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::bpe::Bpe;
use super::charsmap::Charsmap;
use super::families::{Family, family};
use super::normalizer::{Bert, Normalizer, SPACE, SentencePiece};
use super::pattern::Pattern;
use super::pieces::{Cut, Matches};
use super::special::{AddedToken, AddedTokens};
use super::spm::Spm;
use super::texts::{Ids, Texts};
use super::trie::Trie;
use super::unigram::Unigram;
use super::wordpiece::WordPiece;
use super::{ENDS, Model, SpecialTokens, Tokenizer, TokenizerError, Tokens};
use super::{byte_level, byte_of_token, byte_tokens, end_ids};

/// What a GGUF file says about its vocabulary, as plain data: the keys under `tokenizer.ggml.`, and two more.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VocabularyMetadata {
    /// `model`: `llama`, `gpt2`, `t5`, `bert`.
    pub model: String,
    /// `pre`: name of the pre-tokenizer of a `gpt2` vocabulary.
    pub pre: Option<String>,
    /// `tokens`: the spelling of each token.
    pub tokens: Arc<Texts>,
    /// `scores`: empty, or one score a token.
    pub scores: Vec<f32>,
    /// `token_type`: empty, or for each token 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// `merges`: two tokens with a space between, most frequent first.
    pub merges: Texts,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `eot_token_id`.
    pub eot: Option<u32>,
    /// `eom_token_id`.
    pub eom: Option<u32>,
    /// `unknown_token_id`.
    pub unknown: Option<u32>,
    /// `seperator_token_id`, spelled so.
    pub separator: Option<u32>,
    /// `padding_token_id`.
    pub padding: Option<u32>,
    /// `mask_token_id`.
    pub mask: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `remove_extra_whitespaces`.
    pub remove_extra_whitespaces: Option<bool>,
    /// `precompiled_charsmap`.
    pub precompiled_charsmap: Vec<u8>,
    /// `normalizer.lowercase`.
    pub lowercase: Option<bool>,
    /// `normalizer.strip_accents`.
    pub strip_accents: Option<bool>,
    /// `general.name`.
    pub name: Option<String>,
    /// `general.architecture`.
    pub architecture: Option<String>,
}

/// What a token is, as GGUF numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
    Undefined,
}

/// A word of more characters than this is unknown to WordPiece vocabularies.
const LONGEST_WORD: usize = 100;

impl Tokenizer {
    /// The tokenizer that a GGUF file describes.
    ///
    /// # Errors
    /// Names of models and pre-tokenizers that are not known, lists of unequal length, a broken
    /// normalisation table. Odd tokens, merges and scores are no error: they are never met.
    pub fn from_metadata(vocabulary: &VocabularyMetadata) -> Result<Self, TokenizerError> {
        vocabulary.check()?;
        let kinds = vocabulary.kinds();
        match vocabulary.model.as_str() {
            "llama" => Ok(vocabulary.sentencepiece(&kinds)),
            "gpt2" | "whitespace" => {
                vocabulary.byte_pairs(&kinds, vocabulary.pre.as_deref().unwrap_or("default"))
            }
            "gemma4" => vocabulary.byte_pairs(&kinds, "gemma4"),
            "t5" => vocabulary.unigram(&kinds),
            "bert" => vocabulary.wordpiece(&kinds),
            other => Err(TokenizerError::UnknownModel(other.to_owned())),
        }
    }
}

impl VocabularyMetadata {
    fn check(&self) -> Result<(), TokenizerError> {
        let tokens = self.tokens.len();
        if tokens == 0 || u32::try_from(tokens).is_err() {
            return Err(TokenizerError::Size(tokens));
        }
        for (what, entries) in [
            ("scores", self.scores.len()),
            ("token types", self.token_types.len()),
        ] {
            if entries != 0 && entries < tokens {
                return Err(TokenizerError::Uneven {
                    what,
                    tokens,
                    entries,
                });
            }
        }
        Ok(())
    }

    fn kinds(&self) -> Vec<Kind> {
        let kinds = self
            .tokens
            .iter()
            .enumerate()
            .map(|(id, text)| match self.token_types.get(id) {
                _ if ENDS.contains(&text) => Kind::Control,
                None | Some(1) => Kind::Normal,
                Some(2) => Kind::Unknown,
                Some(3) => Kind::Control,
                Some(4) => Kind::UserDefined,
                Some(5) => Kind::Unused,
                Some(6) => Kind::Byte,
                Some(_) => Kind::Undefined,
            });
        kinds.collect()
    }

    /// SentencePiece with pairs: visible spaces, byte tokens.
    fn sentencepiece(&self, kinds: &[Kind]) -> Tokenizer {
        let ids = self.ids(kinds, |kind| {
            !matches!(kind, Kind::Control | Kind::Unknown | Kind::Byte)
        });
        let special = self.special(Some(1), Some(2), Some(0));
        let space_prefix = self.add_space_prefix.unwrap_or(true);
        let score = |score: &f32| if score.is_nan() { f32::NEG_INFINITY } else { *score };
        let mut scores: Vec<f32> = self.scores.iter().map(score).collect();
        scores.resize(self.tokens.len(), 0.0);
        let bytes = byte_tokens(self.entries(kinds, |_| true));
        let model = Spm {
            longest: ids.longest(),
            ids,
            scores,
            bytes: bytes.unwrap_or_else(|| Box::new([None; 256])),
            unknown: special.unknown,
        };
        let mut normalizers = vec![Normalizer::ReplaceText {
            from: " ".to_owned(),
            to: SPACE.to_string(),
        }];
        if space_prefix {
            normalizers.push(Normalizer::Prepend(SPACE.to_string()));
        }
        Tokenizer {
            normalizers,
            space_prefix,
            ..self.assemble(
                kinds,
                Model::Spm(model),
                special,
                self.add_bos.unwrap_or(true),
                self.add_eos,
            )
        }
    }

    /// Byte-pair encoding with a named family of cuts.
    fn byte_pairs(&self, kinds: &[Kind], pre: &str) -> Result<Tokenizer, TokenizerError> {
        let family = family(pre).ok_or_else(|| TokenizerError::UnknownPreTokenizer(pre.to_owned()))?;
        let ids = self.ids(kinds, |_| true);
        let bos = (!family.no_default_bos && family.byte_level).then_some(11);
        let special = self.special(bos, family.byte_level.then_some(11), None);
        let model = Bpe {
            merges: self.merges(&ids),
            bytes: if family.byte_level {
                None
            } else {
                byte_tokens(self.entries(kinds, |_| true))
            },
            whole_pieces: family.whole_pieces,
            ids,
            ..Bpe::default()
        };
        let add_bos = self.add_bos.unwrap_or(family.add_bos) || pre == "gemma4";
        let spaces = Normalizer::ReplaceText {
            from: " ".to_owned(),
            to: SPACE.to_string(),
        };
        Ok(Tokenizer {
            normalizers: if family.byte_level {
                Vec::new()
            } else {
                vec![spaces]
            },
            cuts: family.cuts()?,
            ..self.assemble_as(
                kinds,
                &|text| family.bytes_of(text),
                Model::Bpe(Box::new(model)),
                special,
                add_bos,
                self.add_eos,
            )
        })
    }

    /// SentencePiece's unigrams.
    fn unigram(&self, kinds: &[Kind]) -> Result<Tokenizer, TokenizerError> {
        let special = self.special(None, Some(1), Some(2));
        let mut scores: Vec<f64> = self.scores.iter().map(|&score| f64::from(score)).collect();
        scores.resize(self.tokens.len(), 0.0);
        let normal = kinds
            .iter()
            .zip(&scores)
            .filter(|(kind, score)| **kind == Kind::Normal && !score.is_nan());
        let rarest = normal.map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
        for (score, kind) in scores.iter_mut().zip(kinds) {
            if *kind == Kind::UserDefined {
                *score = 0.0;
            }
        }
        let matched = |kind: Kind| matches!(kind, Kind::Normal | Kind::UserDefined | Kind::Unused);
        let tokens = self.entries(kinds, matched);
        let model = Unigram::new(tokens, scores, rarest, special.unknown, None);
        let kept = self.entries(kinds, |kind| kind == Kind::UserDefined);
        let space_prefix = self.add_space_prefix.unwrap_or(true);
        let rules = SentencePiece {
            charsmap: match self.precompiled_charsmap.as_slice() {
                [] => None,
                table => Some(Charsmap::new(table)?),
            },
            kept: Trie::new(kept.map(|(text, id)| (text.as_bytes(), id))),
            space_prefix,
            merge_spaces: self.remove_extra_whitespaces.unwrap_or(false),
        };
        let add_eos = Some(self.add_eos.unwrap_or(true));
        Ok(Tokenizer {
            normalizers: vec![Normalizer::SentencePiece(rules)],
            space_prefix,
            ..self.assemble(
                kinds,
                Model::Unigram(model),
                special,
                self.add_bos.unwrap_or(false),
                add_eos,
            )
        })
    }

    /// BERT's WordPiece: tokens that start a word are marked with a visible space.
    fn wordpiece(&self, kinds: &[Kind]) -> Result<Tokenizer, TokenizerError> {
        let special = self.special(Some(101), None, Some(100));
        let matched = |kind: Kind| !matches!(kind, Kind::Control | Kind::Unknown);
        let starts = self
            .entries(kinds, matched)
            .filter_map(|(text, id)| Some((text.strip_prefix(SPACE)?, id)));
        let continues = self
            .entries(kinds, matched)
            .filter(|(text, _)| !text.starts_with(SPACE));
        let model = WordPiece::new(starts, continues, special.unknown, LONGEST_WORD);
        let lowercase = self.lowercase.unwrap_or(true);
        let bert = Bert {
            clean_text: true,
            space_chinese: true,
            strip_accents: self.strip_accents.unwrap_or(lowercase),
            lowercase,
        };
        let suffix = self.valid(self.separator.or(Some(102))).into_iter().collect();
        Ok(Tokenizer {
            normalizers: vec![Normalizer::Bert(bert)],
            cuts: bert_cuts()?,
            suffix,
            space_prefix: true,
            ..self.assemble(kinds, Model::WordPiece(model), special, true, None)
        })
    }

    fn assemble(
        &self,
        kinds: &[Kind],
        model: Model,
        special: SpecialTokens,
        add_bos: bool,
        add_eos: Option<bool>,
    ) -> Tokenizer {
        let bytes_of = |text: &str| text.replace(SPACE, " ").into_bytes();
        self.assemble_as(kinds, &bytes_of, model, special, add_bos, add_eos)
    }

    fn assemble_as(
        &self,
        kinds: &[Kind],
        bytes_of: &dyn Fn(&str) -> Vec<u8>,
        model: Model,
        special: SpecialTokens,
        add_bos: bool,
        add_eos: Option<bool>,
    ) -> Tokenizer {
        Tokenizer {
            tokens: self.list(kinds, bytes_of),
            added: AddedTokens::new(self.added_tokens(kinds)),
            added_normalized: AddedTokens::default(),
            normalizers: Vec::new(),
            cuts: Vec::new(),
            model,
            prefix: special.bos.filter(|_| add_bos).into_iter().collect(),
            suffix: special
                .eos
                .filter(|_| add_eos == Some(true))
                .into_iter()
                .collect(),
            special,
            space_prefix: false,
            spellings: OnceLock::new(),
        }
    }

    /// The special tokens, with the ids that llama.cpp assumes for files that name none.
    fn special(&self, bos: Option<u32>, eos: Option<u32>, unknown: Option<u32>) -> SpecialTokens {
        let or = |named: Option<u32>, default: Option<u32>| self.valid(named).or(self.valid(default));
        let eos = or(self.eos, eos);
        let ends = end_ids(&self.tokens, [eos, self.valid(self.eot), self.valid(self.eom)]);
        SpecialTokens {
            bos: or(self.bos, bos),
            eos,
            unknown: or(self.unknown, unknown),
            end_of_generation: ends,
        }
    }

    fn valid(&self, id: Option<u32>) -> Option<u32> {
        id.filter(|&id| (id as usize) < self.tokens.len())
    }

    fn entries<'a>(
        &'a self,
        kinds: &'a [Kind],
        wanted: impl Fn(Kind) -> bool + 'a,
    ) -> impl Iterator<Item = (&'a str, u32)> {
        let tokens = self
            .tokens
            .iter()
            .zip(0..)
            .zip(kinds)
            .filter(move |(_, kind)| wanted(**kind));
        tokens.map(|((text, id), _)| (text, id))
    }

    /// The ids by spelling; of equal tokens the last counts.
    fn ids(&self, kinds: &[Kind], wanted: impl Fn(Kind) -> bool) -> Ids {
        Ids::of_places(&self.tokens, |at| wanted(kinds[at]))
    }

    fn merges(&self, ids: &Ids) -> HashMap<(u32, u32), (u32, u32)> {
        let mut merges = HashMap::with_capacity(self.merges.len().min(self.tokens.len()));
        let mut joined = String::new();
        for (rank, merge) in (0..).zip(self.merges.iter()) {
            let Some((left, right)) = split_merge(merge) else {
                continue;
            };
            joined.clear();
            joined.extend([left, right]);
            let pair = ids.get(left).zip(ids.get(right)).zip(ids.get(&joined));
            if let Some(((left, right), id)) = pair {
                merges.entry((left, right)).or_insert((rank, id));
            }
        }
        merges
    }

    /// The tokens, those that are plain text by `bytes_of` their spelling.
    fn list(&self, kinds: &[Kind], bytes_of: &dyn Fn(&str) -> Vec<u8>) -> Tokens {
        Tokens::new(Arc::clone(&self.tokens), |id, text, out| {
            let kind = kinds[id as usize];
            match kind {
                Kind::Normal | Kind::Unused | Kind::Undefined => out.extend(bytes_of(text)),
                Kind::Byte => out.extend(byte_of_token(text)),
                Kind::UserDefined | Kind::Control | Kind::Unknown => out.extend(text.as_bytes()),
            }
            matches!(kind, Kind::Control | Kind::Unknown)
        })
    }

    fn added_tokens<'a>(&'a self, kinds: &'a [Kind]) -> impl Iterator<Item = (&'a str, AddedToken)> {
        let added = |kind| matches!(kind, Kind::Control | Kind::Unknown | Kind::UserDefined);
        self.entries(kinds, added).map(|(text, id)| {
            let token = AddedToken {
                id,
                special: kinds[id as usize] != Kind::UserDefined,
                strip_left: self.strips_left(text),
                strip_right: self.strips_right(text),
                single_word: false,
            };
            (text, token)
        })
    }

    /// GGUF does not say which tokens swallow the white space before them; these vocabularies' mask does.
    fn strips_left(&self, token: &str) -> bool {
        let pre = self.pre.as_deref().unwrap_or_default();
        let architecture = self.architecture.as_deref().unwrap_or_default();
        match token {
            "<mask>" => {
                ["jina-v2-de", "jina-v2-es", "jina-v2-code"].contains(&pre)
                    || ["nomic-bert-moe", "jina-bert-v3"].contains(&architecture)
            }
            "[MASK]" => self.name_has("modern-bert"),
            _ => false,
        }
    }

    /// Nor which swallow the white space after them: in Phi-3 all but three do.
    fn strips_right(&self, token: &str) -> bool {
        (self.name_has("phi-3") || self.name_has("phi3"))
            && !["<unk>", "<s>", "<|endoftext|>"].contains(&token)
    }

    fn name_has(&self, part: &str) -> bool {
        self.name
            .as_ref()
            .is_some_and(|name| name.to_lowercase().contains(part))
    }
}

impl Family {
    fn bytes_of(&self, text: &str) -> Vec<u8> {
        if !self.byte_level {
            return text.replace(SPACE, " ").into_bytes();
        }
        byte_level::decode(text).unwrap_or_else(|| text.as_bytes().to_vec())
    }
}

/// Cuts at white space, which is dropped, and around each mark of punctuation.
pub(super) fn bert_cuts() -> Result<Vec<Cut>, TokenizerError> {
    let spaces = Pattern::new(r"\s")?;
    let marks = Pattern::new(PUNCTUATION)?;
    Ok(vec![
        Cut::Pattern {
            pattern: spaces,
            matches: Matches::Removed,
            invert: false,
        },
        Cut::Pattern {
            pattern: marks,
            matches: Matches::Isolated,
            invert: false,
        },
    ])
}

/// Punctuation as BERT sees it: Unicode's, and every ASCII symbol.
pub(super) const PUNCTUATION: &str = r"[\p{P}!-/:-@\[-`{-~]";

/// The two halves of a merge; the first may itself be a space.
fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let space = merge[first..].find(' ')? + first;
    Some((&merge[..space], &merge[space + 1..]))
}
