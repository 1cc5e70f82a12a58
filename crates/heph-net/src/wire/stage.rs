//! The messages of a session at work. They are sent for every token, so their heads are short: see the sums in
//! `docs/wire.md`.

use heph_types::{
    BRANCHES_MAX, Branch, CachePart, DryOptions, GUESSES_MAX, KvFormat, LayerRange, ModelHash, NodeId,
    Position, SamplingOptions, StageSpec, Tag, Ticket, TokenId, WireCodec,
};

use super::bytes::{Reader, Writer};
use super::{ADDRESS_MAX, BIAS_MAX, CACHE_PART_MAX, ENDS_MAX, TOKENS_MAX, WireError};
use crate::address::NodeAddress;
use crate::codec::{self, CodecError, PackedRows};

/// A session's short name on one stream: sessions are counted from 0 as they are opened, and no number comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line(pub u32);

/// How often a session was rolled back. What was asked in an earlier epoch is not answered any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u32);

/// `Order::Forward` on the wire.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardFrame {
    /// The session.
    pub line: Line,
    /// Its epoch; the next one where the order goes back.
    pub epoch: Epoch,
    /// Position of the first token.
    pub first: Position,
    /// How many of the last rows are to be answered.
    pub answers: u32,
    /// Which of the chosen tokens are wanted.
    pub until: TakeUntil,
    /// The format in which rows are to be answered.
    pub reply: WireCodec,
    /// The tokens.
    pub fill: Fill,
    /// The name under which the answered rows also go to the next stage's node. Version 3.
    pub pass: Option<Tag>,
}

/// Which of the chosen tokens are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeUntil {
    /// One for each answered row.
    End,
    /// Those up to and including the first that is not the token which the order itself gives for its position: the
    /// later ones rest on a token that the model would not have chosen.
    Disagreement,
}

/// What a forward order carries.
#[derive(Debug, Clone, PartialEq)]
pub enum Fill {
    /// Token ids.
    Tokens(Vec<TokenId>),
    /// Hidden states, and the ids of the same tokens or none.
    Rows {
        /// The rows.
        rows: PackedRows,
        /// The ids.
        tokens: Vec<TokenId>,
    },
    /// Hidden states that another node hands over, and the ids of the same tokens or none. Version 3.
    Handed {
        /// Under which name.
        tag: Tag,
        /// How many rows.
        count: u32,
        /// Numbers of a row.
        width: u32,
        /// The ids.
        tokens: Vec<TokenId>,
    },
}

/// `Order::Forward` on the wire, where every row is answered up to the first choice that was not guessed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuessesFrame {
    /// The session.
    pub line: Line,
    /// Its epoch; the next one where the order goes back.
    pub epoch: Epoch,
    /// Position of the first token.
    pub first: Position,
    /// Other ways in which the tokens may go on.
    pub branches: Vec<Branch>,
    /// The tokens: the last one known, and what is guessed to follow.
    pub tokens: Vec<TokenId>,
}

/// `Order::Generate` on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateFrame {
    /// The session.
    pub line: Line,
    /// Its epoch.
    pub epoch: Epoch,
    /// The position of `last`: the end of the cache.
    pub at: Position,
    /// The token to begin with.
    pub last: TokenId,
    /// Tokens to choose at most.
    pub tokens_max: u32,
    /// Tokens that end the answer.
    pub ends: Vec<TokenId>,
}

/// Hidden states, as an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowsFrame {
    /// The session.
    pub line: Line,
    /// The order's epoch.
    pub epoch: Epoch,
    /// Position of the first row.
    pub first: Position,
    /// The rows.
    pub rows: PackedRows,
}

/// Hidden states that go from one node to the next. Version 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandFrame {
    /// Their name.
    pub tag: Tag,
    /// The rows.
    pub rows: PackedRows,
}

/// Asks a node to hand rows to another. Version 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinFrame {
    /// The session whose rows are handed on.
    pub line: Line,
    /// The node that awaits them.
    pub to: NodeId,
    /// What it asks for.
    pub ticket: Ticket,
    /// Where it is.
    pub address: NodeAddress,
}

/// Chosen tokens, as an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChoicesFrame {
    /// The session.
    pub line: Line,
    /// The order's epoch.
    pub epoch: Epoch,
    /// Position of the first chosen token.
    pub first: Position,
    /// How many of the first choices are the tokens that the order itself held for these positions.
    pub agreed: u32,
    /// The choices after those.
    pub tokens: Vec<TokenId>,
}

impl Line {
    pub(super) fn write(self, to: &mut Writer) {
        to.short(self.0);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Line, WireError> {
        from.short().map(Line)
    }
}

impl Epoch {
    pub(super) fn write(self, to: &mut Writer) {
        to.short(self.0);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Epoch, WireError> {
        from.short().map(Epoch)
    }

    /// The epoch after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0.wrapping_add(1))
    }
}

fn codec_number(codec: WireCodec) -> u8 {
    match codec {
        WireCodec::F32 => 1,
        WireCodec::Packed => 2,
        WireCodec::Bf16 => 3,
        WireCodec::Int8 => 4,
    }
}

fn codec_numbered(number: u8) -> Result<WireCodec, WireError> {
    let codec = WireCodec::ALL
        .into_iter()
        .find(|codec| codec_number(*codec) == number);
    let unknown = WireError::Unknown {
        what: "wire codec",
        value: number.into(),
    };
    codec.ok_or(unknown)
}

/// The form byte: what the order carries (0 tokens, or a codec), whether ids stand beside rows, how to answer, and
/// whether to stop at a disagreement.
const FORM_IDS: u8 = 0x08;
const FORM_REPLY: u8 = 4;
const FORM_STOP: u8 = 0x80;

/// What the order carries where another node hands the rows over.
const FORM_HANDED: u8 = 5;

impl ForwardFrame {
    pub(super) fn write(&self, to: &mut Writer) -> Result<(), WireError> {
        self.line.write(to);
        self.epoch.write(to);
        to.short(self.first.0);
        to.short(self.answers);
        let stop = if self.until == TakeUntil::Disagreement {
            FORM_STOP
        } else {
            0
        };
        let form = stop | codec_number(self.reply) << FORM_REPLY;
        match &self.fill {
            Fill::Tokens(tokens) => {
                to.u8(form);
                to.tokens("tokens", tokens, TOKENS_MAX)
            }
            Fill::Rows { rows, tokens } => {
                let ids = if tokens.is_empty() { 0 } else { FORM_IDS };
                to.u8(form | ids | codec_number(rows.codec));
                write_rows(rows, to)?;
                write_ids(tokens, to)
            }
            Fill::Handed {
                tag,
                count,
                width,
                tokens,
            } => {
                let ids = if tokens.is_empty() { 0 } else { FORM_IDS };
                to.u8(form | ids | FORM_HANDED);
                codec::check_shape(*count as usize, *width as usize)?;
                to.short(tag.0);
                to.short(*count);
                to.short(*width);
                write_ids(tokens, to)
            }
        }?;
        self.pass.iter().for_each(|tag| to.short(tag.0));
        Ok(())
    }

    /// A forward order; `passes` says whether its rows go on to the next stage.
    pub(super) fn read(from: &mut Reader<'_>, passes: bool) -> Result<ForwardFrame, WireError> {
        let (line, epoch) = (Line::read(from)?, Epoch::read(from)?);
        let (first, answers) = (Position(from.short()?), from.short()?);
        let form = from.u8()?;
        let until = if form & FORM_STOP == 0 {
            TakeUntil::End
        } else {
            TakeUntil::Disagreement
        };
        let reply = codec_numbered(form >> FORM_REPLY & 7)?;
        let fill = match form & 0x0F {
            0 => Fill::Tokens(from.tokens("tokens", TOKENS_MAX)?),
            kind if kind & !FORM_IDS == FORM_HANDED => {
                let (tag, count, width) = (Tag(from.short64()?), from.short()?, from.short()?);
                codec::check_shape(count as usize, width as usize)?;
                let tokens = read_ids(form, from)?;
                Fill::Handed {
                    tag,
                    count,
                    width,
                    tokens,
                }
            }
            kind => {
                let rows = read_rows(codec_numbered(kind & !FORM_IDS)?, from)?;
                let tokens = read_ids(form, from)?;
                Fill::Rows { rows, tokens }
            }
        };
        let pass = match passes {
            true => Some(Tag(from.short64()?)),
            false => None,
        };
        Ok(ForwardFrame {
            line,
            epoch,
            first,
            answers,
            until,
            reply,
            fill,
            pass,
        })
    }
}

/// The ids beside rows, where there are any: the form says so.
fn write_ids(tokens: &[TokenId], to: &mut Writer) -> Result<(), WireError> {
    match tokens.is_empty() {
        true => Ok(()),
        false => to.tokens("tokens", tokens, TOKENS_MAX),
    }
}

fn read_ids(form: u8, from: &mut Reader<'_>) -> Result<Vec<TokenId>, WireError> {
    if form & FORM_IDS == 0 {
        return Ok(Vec::new());
    }
    let tokens = from.tokens("tokens", TOKENS_MAX)?;
    if tokens.is_empty() {
        return Err(WireError::Unknown {
            what: "form of a forward order",
            value: form.into(),
        });
    }
    Ok(tokens)
}

impl HandFrame {
    pub(super) fn write(&self, to: &mut Writer) -> Result<(), WireError> {
        to.short(self.tag.0);
        to.u8(codec_number(self.rows.codec));
        write_rows(&self.rows, to)
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<HandFrame, WireError> {
        let (tag, codec) = (Tag(from.short64()?), codec_numbered(from.u8()?)?);
        let rows = read_rows(codec, from)?;
        Ok(HandFrame { tag, rows })
    }
}

impl JoinFrame {
    pub(super) fn write(&self, to: &mut Writer) -> Result<(), WireError> {
        self.line.write(to);
        to.raw(&self.to.0);
        to.raw(&self.ticket.0);
        let mut address = Vec::new();
        self.address.write(&mut address);
        to.blob("bytes of an address", &address, ADDRESS_MAX)
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<JoinFrame, WireError> {
        let (line, to, ticket) = (Line::read(from)?, NodeId(from.array()?), Ticket(from.array()?));
        let bytes = from.blob("bytes of an address", ADDRESS_MAX)?;
        let mut rest = bytes;
        let address = NodeAddress::read(&mut rest).filter(|_| rest.is_empty());
        let address = address.ok_or(WireError::Address)?;
        // A relay has many spellings, and a message one form.
        let mut again = Vec::new();
        address.write(&mut again);
        match again == bytes {
            true => Ok(JoinFrame {
                line,
                to,
                ticket,
                address,
            }),
            false => Err(WireError::Address),
        }
    }
}

/// Number of branches and of tokens are one number, of which these bits are the branches': a byte less in each round.
const BRANCHES_BITS: u32 = 3;

impl GuessesFrame {
    pub(super) fn write(&self, to: &mut Writer) -> Result<(), WireError> {
        self.line.write(to);
        self.epoch.write(to);
        to.short(self.first.0);
        if self.branches.len() > BRANCHES_MAX || self.tokens.len() > GUESSES_MAX {
            return Err(WireError::TooLong {
                what: "guesses",
                got: self.tokens.len(),
                max: GUESSES_MAX,
            });
        }
        to.short((self.tokens.len() << BRANCHES_BITS | self.branches.len()) as u64);
        for branch in &self.branches {
            to.length("place of a branch", branch.at as usize, GUESSES_MAX)?;
            to.tokens("tokens of a branch", &branch.tokens, GUESSES_MAX)?;
        }
        self.tokens.iter().for_each(|token| to.short(token.0));
        Ok(())
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<GuessesFrame, WireError> {
        let (line, epoch, first) = (Line::read(from)?, Epoch::read(from)?, Position(from.short()?));
        let both = from.length("guesses", GUESSES_MAX << BRANCHES_BITS | BRANCHES_MAX)?;
        let (count, branches) = (both >> BRANCHES_BITS, both & ((1 << BRANCHES_BITS) - 1));
        if branches > BRANCHES_MAX {
            return Err(WireError::TooLong {
                what: "branches",
                got: branches,
                max: BRANCHES_MAX,
            });
        }
        // A branch is a place, a count and a token at least.
        if 3 * branches + count > from.rest.len() {
            return Err(WireError::Short);
        }
        let mut frame = GuessesFrame {
            line,
            epoch,
            first,
            branches: Vec::with_capacity(branches),
            tokens: Vec::with_capacity(count),
        };
        for _ in 0..branches {
            frame.branches.push(Branch {
                at: from.length("place of a branch", GUESSES_MAX)? as u32,
                tokens: from.tokens("tokens of a branch", GUESSES_MAX)?,
            });
        }
        for _ in 0..count {
            frame.tokens.push(TokenId(from.short()?));
        }
        Ok(frame)
    }
}

impl GenerateFrame {
    pub(super) fn write(&self, to: &mut Writer) -> Result<(), WireError> {
        self.line.write(to);
        self.epoch.write(to);
        to.short(self.at.0);
        to.short(self.last.0);
        to.short(self.tokens_max);
        to.tokens("tokens that end an answer", &self.ends, ENDS_MAX)
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<GenerateFrame, WireError> {
        Ok(GenerateFrame {
            line: Line::read(from)?,
            epoch: Epoch::read(from)?,
            at: Position(from.short()?),
            last: TokenId(from.short()?),
            tokens_max: from.short()?,
            ends: from.tokens("tokens that end an answer", ENDS_MAX)?,
        })
    }
}

impl RowsFrame {
    pub(super) fn write(&self, to: &mut Writer) -> Result<(), WireError> {
        self.line.write(to);
        self.epoch.write(to);
        to.short(self.first.0);
        to.u8(codec_number(self.rows.codec));
        write_rows(&self.rows, to)
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<RowsFrame, WireError> {
        let (line, epoch, first) = (Line::read(from)?, Epoch::read(from)?, Position(from.short()?));
        let codec = codec_numbered(from.u8()?)?;
        Ok(RowsFrame {
            line,
            epoch,
            first,
            rows: read_rows(codec, from)?,
        })
    }
}

impl ChoicesFrame {
    pub(super) fn write(&self, to: &mut Writer) -> Result<(), WireError> {
        self.line.write(to);
        self.epoch.write(to);
        to.short(self.first.0);
        to.length("agreed choices", self.agreed as usize, TOKENS_MAX)?;
        to.tokens("choices", &self.tokens, TOKENS_MAX)
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<ChoicesFrame, WireError> {
        Ok(ChoicesFrame {
            line: Line::read(from)?,
            epoch: Epoch::read(from)?,
            first: Position(from.short()?),
            agreed: from.length("agreed choices", TOKENS_MAX)? as u32,
            tokens: from.tokens("choices", TOKENS_MAX)?,
        })
    }
}

/// The shape, then the numbers; their length stands before them where the shape does not give it.
fn write_rows(rows: &PackedRows, to: &mut Writer) -> Result<(), WireError> {
    let (tokens, width) = (rows.tokens as usize, rows.width as usize);
    codec::check_shape(tokens, width)?;
    check_bytes(rows.codec, rows.tokens, rows.width, rows.bytes.len())?;
    to.short(rows.tokens);
    to.short(rows.width);
    if codec::bytes_of(rows.codec, tokens, width).is_none() {
        to.short(rows.bytes.len() as u64);
    }
    to.raw(&rows.bytes);
    Ok(())
}

fn read_rows(codec: WireCodec, from: &mut Reader<'_>) -> Result<PackedRows, WireError> {
    let (tokens, width) = (from.short()?, from.short()?);
    codec::check_shape(tokens as usize, width as usize)?;
    let length = match codec::bytes_of(codec, tokens as usize, width as usize) {
        Some(length) => length,
        None => from.short()? as usize,
    };
    check_bytes(codec, tokens, width, length)?;
    let bytes = from.raw(length)?.to_vec();
    Ok(PackedRows {
        codec,
        tokens,
        width,
        bytes,
    })
}

/// Whether so many bytes can be these rows.
fn check_bytes(codec: WireCodec, tokens: u32, width: u32, got: usize) -> Result<(), CodecError> {
    let (rows, columns) = (tokens as usize, width as usize);
    let fits =
        codec::bytes_least(codec, rows, columns) <= got && got <= codec::bytes_most(codec, rows, columns);
    fits.then_some(()).ok_or(CodecError::WrongLength {
        codec,
        tokens,
        width,
        got,
    })
}

fn kv_number(format: KvFormat) -> u8 {
    match format {
        KvFormat::F32 => 0,
        KvFormat::F16 => 1,
        KvFormat::Q8_0 => 2,
    }
}

pub(super) fn write_spec(spec: &StageSpec, to: &mut Writer) -> Result<(), WireError> {
    to.raw(&spec.model.0);
    to.u16(spec.layers.start() as u16);
    to.u16(spec.layers.end() as u16);
    to.short(spec.context);
    to.u8(kv_number(spec.kv_format));
    to.u8(spec.choose.is_some().into());
    spec.choose
        .as_ref()
        .map_or(Ok(()), |options| write_options(options, to))
}

pub(super) fn read_spec(from: &mut Reader<'_>) -> Result<StageSpec, WireError> {
    let model = ModelHash(from.array()?);
    let (start, end) = (from.u16()?, from.u16()?);
    let layers = LayerRange::new(start.into(), end.into(), u16::MAX.into());
    let layers = layers.map_err(|_| WireError::Layers)?;
    let context = from.short()?;
    let kv = from.u8()?;
    let kv_format = KvFormat::ALL.into_iter().find(|format| kv_number(*format) == kv);
    let kv_format = kv_format.ok_or(WireError::Unknown {
        what: "cache format",
        value: kv.into(),
    })?;
    let choose = match from.u8()? {
        0 => None,
        1 => Some(read_options(from)?),
        value => {
            return Err(WireError::Unknown {
                what: "way to choose",
                value: value.into(),
            });
        }
    };
    Ok(StageSpec {
        model,
        layers,
        context,
        kv_format,
        choose,
    })
}

/// Which of the options that can be absent are there, one bit each, in the order in which they follow.
const TOP_K: u8 = 1;
const TOP_P: u8 = 2;
const MIN_P: u8 = 4;
const TYPICAL_P: u8 = 8;
const DRY: u8 = 16;

pub(super) fn write_options(options: &SamplingOptions, to: &mut Writer) -> Result<(), WireError> {
    let window = |to: &mut Writer, n: usize| to.length("tokens of a penalty's window", n, u32::MAX as usize);
    let bit = |there: bool, bit: u8| if there { bit } else { 0 };
    to.u8(bit(options.top_k.is_some(), TOP_K)
        | bit(options.top_p.is_some(), TOP_P)
        | bit(options.min_p.is_some(), MIN_P)
        | bit(options.typical_p.is_some(), TYPICAL_P)
        | bit(options.dry.is_some(), DRY));
    to.f32(options.temperature);
    if let Some(k) = options.top_k {
        to.length("likeliest tokens", k, u32::MAX as usize)?;
    }
    for share in [options.top_p, options.min_p, options.typical_p]
        .into_iter()
        .flatten()
    {
        to.f32(share);
    }
    to.f32(options.repeat_penalty);
    window(to, options.penalty_window)?;
    to.f32(options.frequency_penalty);
    to.f32(options.presence_penalty);
    if let Some(dry) = &options.dry {
        to.f32(dry.multiplier);
        to.f32(dry.base);
        window(to, dry.allowed_length)?;
        window(to, dry.window)?;
        to.tokens("tokens that break a run", &dry.breakers, ENDS_MAX)?;
    }
    to.length("biased tokens", options.logit_bias.len(), BIAS_MAX)?;
    for (token, bias) in &options.logit_bias {
        to.short(token.0);
        to.f32(*bias);
    }
    to.u64(options.seed);
    Ok(())
}

pub(super) fn read_options(from: &mut Reader<'_>) -> Result<SamplingOptions, WireError> {
    let there = from.u8()?;
    if there >= 2 * DRY {
        return Err(WireError::Unknown {
            what: "set of sampling options",
            value: there.into(),
        });
    }
    let share = |from: &mut Reader<'_>, bit: u8| match there & bit {
        0 => Ok(None),
        _ => from.f32().map(Some),
    };
    let temperature = from.f32()?;
    let top_k = match there & TOP_K {
        0 => None,
        _ => Some(from.short()? as usize),
    };
    let options = SamplingOptions {
        temperature,
        top_k,
        top_p: share(from, TOP_P)?,
        min_p: share(from, MIN_P)?,
        typical_p: share(from, TYPICAL_P)?,
        repeat_penalty: from.f32()?,
        penalty_window: from.short()? as usize,
        frequency_penalty: from.f32()?,
        presence_penalty: from.f32()?,
        dry: match there & DRY {
            0 => None,
            _ => Some(read_dry(from)?),
        },
        logit_bias: {
            let count = from.count("biased tokens", BIAS_MAX, 5)?;
            let entry = |from: &mut Reader<'_>| Ok((TokenId(from.short()?), from.f32()?));
            (0..count)
                .map(|_| entry(from))
                .collect::<Result<_, WireError>>()?
        },
        seed: from.u64()?,
    };
    options.check()?;
    Ok(options)
}

fn read_dry(from: &mut Reader<'_>) -> Result<DryOptions, WireError> {
    Ok(DryOptions {
        multiplier: from.f32()?,
        base: from.f32()?,
        allowed_length: from.short()? as usize,
        window: from.short()? as usize,
        breakers: from.tokens("tokens that break a run", ENDS_MAX)?,
    })
}

pub(super) fn write_part(part: &CachePart, to: &mut Writer) -> Result<(), WireError> {
    to.short(part.first.0);
    to.short(part.tokens);
    to.raw(&part.check);
    to.blob("bytes of a cache", &part.bytes, CACHE_PART_MAX)
}

pub(super) fn read_part(from: &mut Reader<'_>) -> Result<CachePart, WireError> {
    Ok(CachePart {
        first: Position(from.short()?),
        tokens: from.short()?,
        check: from.array()?,
        bytes: from.blob("bytes of a cache", CACHE_PART_MAX)?.to_vec(),
    })
}
