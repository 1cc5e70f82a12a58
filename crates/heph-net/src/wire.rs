//! Frames: what two peers say to each other, byte by byte. `docs/wire.md` is the reference.
