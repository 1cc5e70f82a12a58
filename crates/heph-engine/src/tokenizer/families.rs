//! The pre-tokenizers that GGUF files call by name in `tokenizer.ggml.pre`.
//!
//! The patterns are those of the vocabularies' own `tokenizer.json`. llama.cpp approximates some of them, and
//! then cuts text in rare scripts otherwise than the model was trained on: `docs/decisions/` says where.

use super::TokenizerError;
use super::pattern::Pattern;
use super::pieces::{Cut, Matches, Thousands};

/// How vocabularies of one name cut text, and what else the name implies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    steps: &'static [Step],
    /// Tokens are spelled with [the stand-ins of bytes](super::byte_level); if not, with visible spaces.
    pub(super) byte_level: bool,
    /// A piece that is a token is never split.
    pub(super) whole_pieces: bool,
    /// Whether a text starts with the beginning-of-text token when the file does not say.
    pub(super) add_bos: bool,
    /// The file's beginning-of-text id has no default.
    pub(super) no_default_bos: bool,
}

/// One cut.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Isolates the matches of a pattern.
    Isolate(&'static str),
    /// Keeps only the matches.
    Keep(&'static str),
    /// Cuts numbers into threes.
    Thousands(Thousands),
}

use Step::{Isolate, Keep};

/// GPT-2's own pattern.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// GPT-4's pattern, numbers in threes (Llama 3).
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The same with single digits (Qwen 2).
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The same with whole numbers (MiniCPM 5, after they were cut into threes).
const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Marks belong to the letters they stand on (Qwen 3.5).
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// No English contractions, so that suffixes after an apostrophe stay together.
const UFAKZEKA: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// White space in runs of powers of two (Jais 2).
const JAIS2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";

/// Words end where capitals begin (GPT-4o).
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The same without contractions and with single digits (Mistral's Tekken).
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// GPT-4o's with single digits.
const YOUTU: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Han characters apart, else like GPT-4o (Kimi K2).
const KIMI_K2: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// DeepSeek 3, after numbers and East Asian text were cut out.
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// The same with each line end apart (Spark 2.5).
const SPARK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##;

/// Ling: a line end at a time.
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// Seed Coder: line ends never belong to punctuation.
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Exaone MoE: several words may be one piece.
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";

/// Bloom: words up to a mark of punctuation in several scripts.
const BLOOM: &str = r" ?[^(\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})]+";

/// Letters of alphabets with two cases. Code points are written as numbers: some look like others.
const DEEPSEEK_LLM_WORDS: &str = r"\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+";

/// ASCII and East Asian punctuation.
const DEEPSEEK_LLM_MARKS: &str =
    r"\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+";

/// Han and Hangul as DeepSeek's first vocabularies cut them.
const DEEPSEEK_EAST: &str = r"[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";

/// Han, Hiragana and Katakana.
const EAST: &str = r"[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";

/// Hangul, East Asian punctuation, Bopomofo, Han and Kana.
const YOUTU_EAST: &str = r"[\u{ac00}-\u{d7a3}\u{3131}-\u{318e}]+|[\u{ff01}\u{2026}\u{201c}\u{201d}\u{2018}\u{2019}\u{2014}\u{ff1a}\u{ff1b}\u{ff0c}\u{3001}-\u{303f}\u{fe30}-\u{fe4f}]+|[\u{3105}-\u{312f}]+|[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";

/// Scripts written without spaces.
const AFMOE_EAST: &str = r"[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{f900}-\u{faff}\u{3040}-\u{309f}\u{30a0}-\u{30ff}\u{ff65}-\u{ff9f}\u{2f00}-\u{2fdf}\u{e40}-\u{e7f}\u{e80}-\u{eff}\u{1780}-\u{17ff}\u{1000}-\u{109f}\u{aa60}-\u{aa7f}\u{a9e0}-\u{a9ff}\u{ac00}-\u{d7af}\u{1100}-\u{11ff}]+";

/// Unicode punctuation and every ASCII symbol.
const PUNCTUATION: &str = r"[\p{P}!-/:-@\[-`{-~]";

/// Lines and runs of line ends.
const LINES: &str = r"[^\n]+|[\n]+";

/// A family of byte-level vocabularies with no more to say.
const fn plain(steps: &'static [Step]) -> Family {
    Family {
        steps,
        byte_level: true,
        whole_pieces: false,
        add_bos: false,
        no_default_bos: false,
    }
}

/// The family that `name` stands for; `None` for a name not known here.
pub(super) fn family(name: &str) -> Option<Family> {
    let family = match name {
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
        | "jina-v5-nano" => Family {
            whole_pieces: true,
            add_bos: true,
            ..plain(&[Isolate(LLAMA3)])
        },
        "dbrx" | "smaug-bpe" => plain(&[Isolate(LLAMA3)]),
        "chatglm-bpe" => Family {
            no_default_bos: true,
            ..plain(&[Isolate(LLAMA3)])
        },
        "glm4" | "glm5" => Family {
            no_default_bos: true,
            whole_pieces: true,
            ..plain(&[Isolate(LLAMA3)])
        },
        "jais-2" => plain(&[Isolate(JAIS2)]),
        "minicpm5" => Family {
            whole_pieces: true,
            ..plain(&[Isolate(r"\p{N}{1,3}"), Isolate(MINICPM5)])
        },
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan"
        | "solar-open" | "grok-2" => plain(&[Isolate(QWEN2)]),
        "qwen35" => plain(&[Isolate(QWEN35)]),
        "ufakzeka" => plain(&[Isolate(UFAKZEKA)]),
        "laguna" => plain(&[Isolate(LINES), Isolate(QWEN2)]),
        "seed-coder" => plain(&[Isolate(SEED_CODER)]),
        "bailingmoe" | "bailingmoe2" | "llada-moe" => plain(&[Isolate(BAILING)]),
        "exaone-moe" => plain(&[Isolate(EXAONE_MOE)]),
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => plain(&[Isolate(GPT4O)]),
        "granite-embed-multi-97m" => Family {
            whole_pieces: true,
            ..plain(&[Isolate(GPT4O)])
        },
        "tekken" => Family {
            whole_pieces: true,
            add_bos: true,
            ..plain(&[Isolate(TEKKEN)])
        },
        "youtu" => Family {
            whole_pieces: true,
            ..plain(&[Isolate(YOUTU_EAST), Isolate(YOUTU)])
        },
        "tiny_aya" | "cohere2moe" => plain(&[Step::Thousands(Thousands::Isolated), Isolate(GPT4O)]),
        "kimi-k2" => plain(&[Isolate(KIMI_K2)]),
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => {
            plain(&[Isolate(r"\p{N}{1,3}"), Isolate(EAST), Isolate(DEEPSEEK3)])
        }
        "spark2_5" => plain(&[
            Isolate(r"\p{N}{1,3}"),
            Isolate(EAST),
            Isolate(SPARK),
            Isolate(r"\p{N}"),
        ]),
        "afmoe" => plain(&[
            Isolate(r"\p{N}+"),
            Step::Thousands(Thousands::Before),
            Isolate(AFMOE_EAST),
            Isolate(DEEPSEEK3),
        ]),
        "deepseek-llm" => plain(&[
            Isolate(r"[\r\n]"),
            Isolate(DEEPSEEK_LLM_WORDS),
            Isolate(DEEPSEEK_LLM_MARKS),
            Isolate(r"\s+$"),
            Isolate(DEEPSEEK_EAST),
            Isolate(r"\p{N}+"),
        ]),
        "deepseek-coder" => plain(&[
            Isolate(r"[\r\n]"),
            Isolate(r"\s?\p{L}+"),
            Isolate(r"\s?\p{P}+"),
            Isolate(DEEPSEEK_EAST),
            Isolate(r"\p{N}"),
        ]),
        "falcon" => plain(&[
            Isolate(r"[\p{P}\$\+<=>\^~\|`]+"),
            Isolate(GPT2),
            Isolate("[0-9][0-9][0-9]"),
        ]),
        "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b"
        | "mellum2" => plain(&[Isolate(r"\p{N}"), Isolate(GPT2)]),
        "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "gigachat" | "jina-v2-es" | "jina-v2-de" | "a.x-4.0"
        | "mellum" | "modern-bert" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling" | "exaone4"
        | "jina-v1-en" | "jina-v2-code" | "roberta-bpe" => plain(&[Isolate(GPT2)]),
        "poro-chat" | "bloom" | "gpt3-finnish" => plain(&[Isolate(BLOOM)]),
        "viking" => plain(&[Isolate(BLOOM), Isolate(r"\p{N}")]),
        "superbpe" => plain(&[Isolate(r"\p{N}+"), Step::Thousands(Thousands::Before)]),
        "chameleon" => Family {
            add_bos: true,
            ..plain(&[
                Isolate("<sentinel:[0-9]+>"),
                Isolate("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"),
                Isolate(r"([\t\n]|    |  )"),
                Isolate(r"\p{N}"),
                Isolate(PUNCTUATION),
                Isolate(GPT2),
            ])
        },
        "gemma4" | "granite-embed-multi-311m" => Family {
            add_bos: true,
            ..spaced(&[Isolate(LINES)])
        },
        "sarvam-moe" => spaced(&[Isolate(LINES)]),
        "whitespace" => spaced(&[Keep(r"\S+")]),
        "default" => plain(&[
            Isolate(r"[\p{P}\$\+<=>\^~\|]+"),
            Isolate(GPT2),
            Isolate(r"\p{N}+"),
            Isolate("[0-9][0-9][0-9]"),
        ]),
        _ => return None,
    };
    Some(family)
}

/// A family whose tokens are plain text with visible spaces.
const fn spaced(steps: &'static [Step]) -> Family {
    Family {
        byte_level: false,
        ..plain(steps)
    }
}

impl Family {
    /// The cuts of this family, the spelling by bytes included where it is one.
    pub(super) fn cuts(&self) -> Result<Vec<Cut>, TokenizerError> {
        let mut cuts = self.steps.iter().map(Step::cut).collect::<Result<Vec<_>, _>>()?;
        if self.byte_level {
            cuts.push(Cut::ByteLevel);
        }
        Ok(cuts)
    }
}

impl Step {
    fn cut(&self) -> Result<Cut, TokenizerError> {
        let by = |pattern, matches, invert| {
            Ok(Cut::Pattern {
                pattern: Pattern::new(pattern)?,
                matches,
                invert,
            })
        };
        match self {
            Isolate(pattern) => by(pattern, Matches::Isolated, false),
            Keep(pattern) => by(pattern, Matches::Removed, true),
            Step::Thousands(form) => Ok(Cut::Thousands(*form)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pieces::Pieces;
    use super::*;

    fn cut(name: &str, text: &str) -> Vec<String> {
        let cuts = family(name).unwrap().cuts().unwrap();
        let cuts = cuts.iter().filter(|cut| !matches!(cut, Cut::ByteLevel));
        let pieces = cuts.fold(Pieces::new(text.to_owned(), true), Pieces::cut);
        pieces.iter().map(str::to_owned).collect()
    }

    #[test]
    fn families_cut_as_their_vocabularies_do() {
        assert_eq!(
            cut("gpt-2", "I'll  say 12 'S"),
            ["I", "'ll", " ", " say", " 12", " '", "S"]
        );
        assert_eq!(
            cut("llama-bpe", "I'LL  x12345!\n\ny"),
            ["I", "'LL", " ", " x", "123", "45", "!\n\n", "y"]
        );
        assert_eq!(cut("qwen2", "a12 "), ["a", "1", "2", " "]);
        assert_eq!(cut("starcoder", " 12"), [" ", "1", "2"]);
        assert_eq!(cut("falcon", "a 1234!!"), ["a", " ", "123", "4", "!!"]);
        assert_eq!(cut("afmoe", "a1234b"), ["a", "1", "234", "b"]);
        assert_eq!(cut("gpt-4o", "HelloWorld's"), ["Hello", "World's"]);
        assert_eq!(cut("tekken", "ПриветМир"), ["Привет", "Мир"]);
        assert_eq!(cut("kimi-k2", "中文abc"), ["中文", "abc"]);
        assert_eq!(cut("deepseek-v3", "中a12345\n"), ["中", "a", "123", "45", "\n"]);
        assert_eq!(cut("bloom", "a, b (c)"), ["a", ",", " b", " (", "c", ")"]);
        assert_eq!(cut("tiny_aya", "1234567 a"), ["1", "234", "567", " a"]);
        assert_eq!(cut("whitespace", " a  b "), ["a", "b"]);
        assert_eq!(cut("superbpe", "x 1234"), ["x ", "1", "234"]);
    }

    #[test]
    fn every_family_loses_no_byte() {
        let text = "A'S  bé\u{301}\r\n\n 1234567,中文かな가 <<>> \u{85}\u{a0}\u{200d}👩‍👩‍👧 ½٣ ſ\t\t";
        let names = [
            "llama3",
            "dbrx",
            "chatglm-bpe",
            "glm4",
            "jais-2",
            "minicpm5",
            "qwen2",
            "qwen35",
            "ufakzeka",
            "laguna",
            "seed-coder",
            "bailingmoe",
            "exaone-moe",
            "gpt-4o",
            "granite-embed-multi-97m",
            "tekken",
            "youtu",
            "tiny_aya",
            "kimi-k2",
            "deepseek-v3",
            "spark2_5",
            "afmoe",
            "deepseek-llm",
            "deepseek-coder",
            "starcoder",
            "gpt-2",
            "bloom",
            "viking",
            "superbpe",
            "chameleon",
            "gemma4",
            "sarvam-moe",
            "default",
        ];
        for name in names {
            assert_eq!(cut(name, text).concat(), text, "{name}");
        }
    }

    #[test]
    fn an_unknown_name_is_no_family() {
        assert!(family("nobody").is_none());
    }
}
