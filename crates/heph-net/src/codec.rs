//! Hidden states as bytes on the wire: exact, packed without loss, or rounded by name.
