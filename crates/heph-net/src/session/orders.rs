//! Orders and replies as frames, and back: the shapes are checked against what the session is.

use heph_types::{
    Branch, Course, Forward, GUESSES_MAX, Order, Pass, Position, Reply, StageInput, StageSpec, Tag, TokenId,
    WireCodec,
};

use super::{Codecs, SessionError};
use crate::codec;
use crate::wire::{ChoicesFrame, Epoch, Fill, ForwardFrame, Frame, GuessesFrame, Line, RowsFrame, TakeUntil};

/// What both ends remember of a forward order until it is answered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    pub(super) epoch: Epoch,
    pub(super) first: Position,
    /// Its tokens.
    pub(super) count: usize,
    /// Rows to be answered.
    pub(super) answers: usize,
    pub(super) until: TakeUntil,
    /// The format of the answer's rows.
    pub(super) reply: WireCodec,
    /// The ids that the order holds for the positions of its answers but the last; empty where it holds none.
    pub(super) ids: Vec<TokenId>,
    /// Other ways in which these ids may go on, counted from the first of them.
    pub(super) branches: Vec<Branch>,
    /// What it takes of the window: four bytes for each number and each id, however they travel.
    pub(super) bytes: usize,
    /// The name of its rows, where another node hands them over.
    pub(super) handed: Option<Tag>,
    /// Whether a later order takes the place of all of it.
    pub(super) void: bool,
}

impl Asked {
    /// What is to be remembered of a frame.
    pub(super) fn of(frame: &ForwardFrame) -> Asked {
        let (count, numbers, ids) = match &frame.fill {
            Fill::Tokens(tokens) => (tokens.len(), 0, tokens),
            Fill::Rows { rows, tokens } => {
                let count = rows.tokens as usize;
                (count, count * rows.width as usize, tokens)
            }
            Fill::Handed {
                count, width, tokens, ..
            } => (*count as usize, *count as usize * *width as usize, tokens),
        };
        let handed = match &frame.fill {
            Fill::Handed { tag, .. } => Some(*tag),
            Fill::Tokens(_) | Fill::Rows { .. } => None,
        };
        let answers = frame.answers as usize;
        // Choice j stands one behind its row, where the order has an id for all but the last.
        let from = ids.len().saturating_sub(answers.saturating_sub(1));
        Asked {
            epoch: frame.epoch,
            first: frame.first,
            count,
            answers,
            until: frame.until,
            reply: frame.reply,
            ids: ids[from..].to_vec(),
            branches: Vec::new(),
            bytes: 4 * (numbers + ids.len()),
            handed,
            void: false,
        }
    }

    /// What is to be remembered of guesses. A branch takes as much of the window as all that goes through the stage for it.
    pub(super) fn of_guesses(frame: &GuessesFrame) -> Asked {
        let count = frame.tokens.len();
        let branches = frame.branches.iter().map(|branch| Branch {
            at: branch.at.saturating_sub(1),
            tokens: branch.tokens.clone(),
        });
        let along: usize = frame
            .branches
            .iter()
            .map(|b| b.at as usize + b.tokens.len())
            .sum();
        Asked {
            epoch: frame.epoch,
            first: frame.first,
            count,
            answers: count,
            until: TakeUntil::Disagreement,
            reply: WireCodec::F32,
            ids: frame.tokens.get(1..).unwrap_or_default().to_vec(),
            branches: branches.collect(),
            bytes: 4 * (count + along),
            handed: None,
            void: false,
        }
    }

    /// How choices ran through what was guessed.
    fn course(&self, chosen: &[TokenId]) -> Course {
        // As many answers as ids, and one more: the first id is the first guess.
        Course::of(&self.ids, self.ids.len() + 1, &self.branches, chosen)
    }

    /// The position behind its last token.
    pub(super) fn end(&self) -> usize {
        self.first.index() + self.count
    }

    /// Position of the first answered row.
    fn answered(&self) -> usize {
        self.end() - self.answers
    }
}

/// What the other end understands, and what the session is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Means {
    pub(super) chooses: bool,
    pub(super) codecs: Codecs,
    /// Numbers of a row.
    pub(super) width: usize,
    /// Whether guesses have a message of their own.
    pub(super) guesses: bool,
}

/// A forward order as a frame. Where the other end knows no branches, they are left out: they change no choice.
pub(super) fn forward_frame(
    line: Line,
    epoch: Epoch,
    forward: &Forward,
    means: Means,
) -> Result<Frame, SessionError> {
    let Means {
        chooses,
        codecs,
        width,
        ..
    } = means;
    if let Some(guesses) = guesses_frame(line, epoch, forward, means) {
        return Ok(Frame::Guesses(guesses));
    }
    let fill = match &forward.input {
        StageInput::Tokens(tokens) | StageInput::Guesses { tokens, .. } => Fill::Tokens(tokens.clone()),
        StageInput::Rows { hidden, tokens } => Fill::Rows {
            rows: codec::pack(hidden, codecs.up)?,
            tokens: tokens.clone(),
        },
        StageInput::Handed { tag, count, tokens } => Fill::Handed {
            tag: *tag,
            count: u32::try_from(*count).unwrap_or(u32::MAX),
            width: width as u32,
            tokens: tokens.clone(),
        },
    };
    let ids = match &fill {
        Fill::Tokens(tokens) | Fill::Rows { tokens, .. } | Fill::Handed { tokens, .. } => !tokens.is_empty(),
    };
    // What follows a token that would not have been chosen is no use to anybody.
    let guesses = chooses && ids && forward.answers > 1;
    Ok(Frame::Forward(ForwardFrame {
        line,
        epoch,
        first: forward.first,
        answers: forward.answers,
        until: if guesses {
            TakeUntil::Disagreement
        } else {
            TakeUntil::End
        },
        reply: codecs.down,
        fill,
        pass: forward.pass.map(|pass| pass.tag),
    }))
}

/// The shorter frame of an order that is guesses but for its first token.
fn guesses_frame(line: Line, epoch: Epoch, forward: &Forward, means: Means) -> Option<GuessesFrame> {
    let (tokens, branches) = match &forward.input {
        StageInput::Tokens(tokens) => (tokens, Vec::new()),
        StageInput::Guesses { tokens, branches } => (tokens, branches.clone()),
        StageInput::Rows { .. } | StageInput::Handed { .. } => return None,
    };
    let all = forward.pass.is_none() && forward.answers as usize == tokens.len();
    let guesses = all && (2..=GUESSES_MAX).contains(&tokens.len());
    (means.guesses && means.chooses && guesses).then(|| GuessesFrame {
        line,
        epoch,
        first: forward.first,
        branches,
        tokens: tokens.clone(),
    })
}

/// The order in a frame of guesses.
pub(super) fn guesses_order(frame: GuessesFrame, spec: &StageSpec) -> Result<Order, SessionError> {
    let broken = |why| SessionError::Unexpected {
        frame: "Guesses",
        why,
    };
    if spec.choose.is_none() || spec.layers.start() != 0 {
        return Err(broken("only a whole model confirms them"));
    }
    let answers = frame.tokens.len();
    if answers < 2 {
        return Err(broken("it holds none"));
    }
    if frame.first.index().saturating_add(answers) > spec.context as usize {
        return Err(broken("it reaches beyond the context"));
    }
    Branch::check(&frame.branches, &frame.tokens, answers).map_err(broken)?;
    let input = match frame.branches.is_empty() {
        true => StageInput::Tokens(frame.tokens),
        false => StageInput::Guesses {
            tokens: frame.tokens,
            branches: frame.branches,
        },
    };
    Ok(Order::Forward(Forward {
        first: frame.first,
        input,
        answers: answers as u32,
        pass: None,
    }))
}

/// The order in a frame, for a session that is `spec` with rows of `width` numbers.
pub(super) fn forward_order(
    frame: ForwardFrame,
    spec: &StageSpec,
    width: usize,
) -> Result<Order, SessionError> {
    let broken = |why| SessionError::Unexpected {
        frame: "Forward",
        why,
    };
    let asked = Asked::of(&frame);
    if asked.count == 0 || asked.answers > asked.count {
        return Err(broken("it wants more answers than it has tokens"));
    }
    if asked.end() > spec.context as usize {
        return Err(broken("it reaches beyond the context"));
    }
    if spec.choose.is_none() {
        // The answer has to fit a frame, too.
        codec::check_shape(asked.answers, width)?;
    }
    if frame.pass.is_some() && (spec.choose.is_some() || asked.answers < asked.count) {
        return Err(broken("rows are handed on all or not at all"));
    }
    let input = match frame.fill {
        Fill::Tokens(_) if spec.layers.start() != 0 => {
            return Err(broken("tokens are for the first layer"));
        }
        Fill::Tokens(tokens) => StageInput::Tokens(tokens),
        Fill::Rows { rows, tokens } => {
            if rows.width as usize != width {
                return Err(broken("its rows have another width than the model"));
            }
            if !(tokens.is_empty() || tokens.len() == asked.count) {
                return Err(broken("it names some of its tokens"));
            }
            let looks_back = spec.choose.as_ref().is_some_and(|options| options.looks_back());
            StageInput::Rows {
                hidden: codec::unpack(&rows)?,
                // Ids that only say where guesses end are no business of the stage's.
                tokens: if looks_back { tokens } else { Vec::new() },
            }
        }
        Fill::Handed {
            tag,
            count,
            width: theirs,
            tokens,
        } => {
            if theirs as usize != width || spec.layers.end() == 0 {
                return Err(broken("its rows have another width than the model"));
            }
            if !(tokens.is_empty() || tokens.len() == asked.count) {
                return Err(broken("it names some of its tokens"));
            }
            let looks_back = spec.choose.as_ref().is_some_and(|options| options.looks_back());
            StageInput::Handed {
                tag,
                count: count as usize,
                tokens: if looks_back { tokens } else { Vec::new() },
            }
        }
    };
    let codec = frame.reply;
    Ok(Order::Forward(Forward {
        first: frame.first,
        input,
        answers: frame.answers,
        pass: frame.pass.map(|tag| Pass { tag, codec }),
    }))
}

/// The order with the rows that were handed over for it; `None` where they are others than it awaits.
pub(super) fn filled(order: Order, rows: &codec::PackedRows) -> Option<Order> {
    let Order::Forward(forward) = order else {
        return None;
    };
    let StageInput::Handed { count, tokens, .. } = forward.input else {
        return None;
    };
    let hidden = codec::unpack(rows).ok()?;
    let fits = hidden.tokens() == count;
    fits.then_some(Order::Forward(Forward {
        input: StageInput::Rows { hidden, tokens },
        ..forward
    }))
}

/// Hidden states as a frame.
pub(super) fn rows_frame(
    line: Line,
    asked: &Asked,
    first: Position,
    hidden: &heph_types::Hidden,
) -> Result<RowsFrame, SessionError> {
    Ok(RowsFrame {
        line,
        epoch: asked.epoch,
        first,
        rows: codec::pack(hidden, asked.reply)?,
    })
}

/// Chosen tokens as a frame: those that the order guessed are only counted.
pub(super) fn choices_frame(line: Line, asked: &Asked, first: Position, tokens: &[TokenId]) -> ChoicesFrame {
    let course = asked.course(tokens);
    let agreed = course.agreed;
    let rest = match asked.until {
        TakeUntil::End => &tokens[agreed..],
        TakeUntil::Disagreement => &tokens[agreed..tokens.len().min(course.right() + 1)],
    };
    ChoicesFrame {
        line,
        epoch: asked.epoch,
        first,
        agreed: agreed as u32,
        tokens: rest.to_vec(),
    }
}

/// The reply in a frame of rows.
pub(super) fn rows_reply(frame: &RowsFrame, asked: &Asked, width: usize) -> Result<Reply, SessionError> {
    let broken = |why| SessionError::Unexpected { frame: "Rows", why };
    if frame.epoch != asked.epoch || frame.first.index() != asked.answered() {
        return Err(broken("they are for another place"));
    }
    if frame.rows.tokens as usize != asked.answers || frame.rows.width as usize != width {
        return Err(broken("they have another shape than was asked for"));
    }
    if frame.rows.codec != asked.reply {
        return Err(broken("they have another format than was asked for"));
    }
    Ok(Reply::Rows {
        first: frame.first,
        hidden: codec::unpack(&frame.rows)?,
    })
}

/// The reply in a frame of choices.
pub(super) fn choices_reply(frame: ChoicesFrame, asked: &Asked) -> Result<Reply, SessionError> {
    let broken = |why| SessionError::Unexpected {
        frame: "Choices",
        why,
    };
    let agreed = frame.agreed as usize;
    if frame.epoch != asked.epoch || frame.first.index() != asked.answered() + 1 {
        return Err(broken("they are for another place"));
    }
    let (all, told) = (asked.answers, agreed + frame.tokens.len());
    if agreed > asked.ids.len() {
        return Err(broken("they are not as many as were asked for"));
    }
    let tokens = [&asked.ids[..agreed], &frame.tokens].concat();
    let course = asked.course(&tokens);
    let fits = match asked.until {
        TakeUntil::End => told == all,
        // Behind the last that was guessed there is one more, on a branch too; those that agree are counted.
        TakeUntil::Disagreement => tokens.len() == course.right() + 1 && course.agreed == agreed,
    };
    if !fits {
        return Err(broken("they are not as many as were asked for"));
    }
    Ok(Reply::Choices {
        first: frame.first,
        tokens,
    })
}
