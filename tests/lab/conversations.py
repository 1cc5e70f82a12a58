"""Conversations between peers, as docs/wire.md has them, in streams that `quic` read."""

import collections

# What a connection for stages is asked for by (ALPN).
SESSION = b"heph/session/1"

# Kinds of frames.
FORWARD, HANDED_ON = 0x20, 0x30

# How rows are written, by their numbers; 0 are no rows, but tokens.
CODECS = ("tokens", "f32", "packed", "bf16", "int8")

# A piece of an answer that a stage is asked for: when, on which stream, from which position on, and in which formats rows go there and
# come back.
Order = collections.namedtuple("Order", "when stream first up down")


def wire_frames(stream):
    """(kind, what it says, bytes with its length) of each frame of a conversation."""
    at = 0
    while at < len(stream):
        begin = at
        length, at = short(stream, at)
        if not length or at >= len(stream):
            return
        yield stream[at], stream[at + 1 : at + length], at + length - begin
        at += length


def short(data, at):
    """(number, where the next thing stands) of a number that is written short."""
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            break
    return value, at


def orders(reader):
    """What desks asked stages for, in the order of time."""
    told = []
    for connection in reader.connections:
        if not connection.speaks(SESSION):
            continue
        for (of_client, number), stream in connection.streams.items():
            at = 0
            for kind, body, length in wire_frames(stream.bytes()) if of_client else ():
                if kind in (FORWARD, HANDED_ON):
                    told.append(order(stream.when(at), number, body))
                at += length
    return sorted(told)


def order(when, stream, body):
    """A Forward: line, epoch, first position and answers, then what it carries and how its answer travels."""
    here, numbers = 0, []
    for _ in range(4):
        number, here = short(body, here)
        numbers.append(number)
    form = body[here]
    carries, answers = form & 7, form >> 4 & 7
    name = lambda codec: CODECS[codec] if codec < len(CODECS) else str(codec)
    return Order(when, stream, numbers[2], name(carries), name(answers))
