"""Reads what a client sent over TLS 1.3, with the keys that the server wrote down (SSLKEYLOGFILE)."""

from quic import CIPHERS, InvalidTag, SECRETS, AESGCM, ChaCha20Poly1305, expand

RECORD, HANDSHAKE, APPLICATION = 5, 22, 23
FINISHED, NEW_KEY = 20, 24
# Of each record: its head, the kind of its content, and the seal.
AROUND = RECORD + 1 + 16


class Keys:
    """One direction's keys under one cipher."""

    def __init__(self, secret, cipher):
        self.secret, self.cipher, self.number = secret, cipher, 0
        key, self.vector = expand(secret, b"key", CIPHERS[cipher][0]), expand(secret, b"iv", 12)
        self.aead = ChaCha20Poly1305(key) if cipher == "chacha" else AESGCM(key)

    def open(self, head, sealed):
        nonce = (int.from_bytes(self.vector, "big") ^ self.number).to_bytes(12, "big")
        try:
            content = self.aead.decrypt(nonce, sealed, head).rstrip(b"\0")
        except InvalidTag:
            return None
        self.number += 1
        return content[-1], content[:-1]

    def next(self):
        return Keys(expand(self.secret, b"traffic upd", len(self.secret)), self.cipher)


def said(stream, known):
    """(what the client said, bytes of records that no key opened, the records of its words) of one connection. Of a record: where
    it begins in the stream, and how many bytes of words it holds."""
    name = {level: SECRETS[(level, True)] for level in ("handshake", "data")}
    text, unread, records, keys, secrets = bytearray(), 0, [], [], {}
    at = 0
    while at + RECORD <= len(stream):
        head, length = bytes(stream[at : at + RECORD]), int.from_bytes(stream[at + 3 : at + 5], "big")
        body = bytes(stream[at + RECORD : at + RECORD + length])
        at += RECORD + length
        if head[0] == HANDSHAKE and body[:1] == b"\x01":
            secrets = known.get(body[6:38], {})
            keys = several(secrets, name["handshake"])
        if head[0] != APPLICATION:
            continue
        found = next(((one, content) for one in keys if (content := one.open(head, body))), None)
        if found is None:
            unread += RECORD + length
            continue
        keys, (kind, content) = [found[0]], found[1]
        if kind == APPLICATION:
            text += content
            records.append((at - RECORD - length, len(content)))
        elif kind == HANDSHAKE and content[:1] == bytes([FINISHED]):
            keys = several(secrets, name["data"])
        elif kind == HANDSHAKE and content[:1] == bytes([NEW_KEY]):
            keys = [keys[0].next()]
    return text, unread, records


def several(secrets, name):
    return [Keys(one, cipher) for one in secrets.get(name, ()) for cipher in CIPHERS if len(one) == CIPHERS[cipher][1]]


def bodies(text):
    """(head, body) of each request of HTTP/1.1 that stands in a text; a rest that is none is an error."""
    found = []
    while text:
        head, between, rest = bytes(text).partition(b"\r\n\r\n")
        if not between:
            raise ValueError(f"{len(text)} bytes behind the last request")
        lengths = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = lengths[0] if lengths else 0
        if len(rest) < length or b"transfer-encoding" in head.lower():
            raise ValueError("a request whose body is not whole")
        found.append((head + between, rest[:length]))
        text = rest[length:]
    return found
