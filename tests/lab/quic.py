"""Reads what was sent over QUIC, with the keys that a test build wrote down (SSLKEYLOGFILE).

Every packet is read: those of the handshake, those of 0-RTT and 1-RTT, those behind a change of keys, on every path of a
connection. Which connection a packet belongs to is told by the id that it is sent to: every id was given out in a packet that was
read before, its path with it. Needs the Python package `cryptography`.

Left unread is what no key that was written opens: connections of a process that was killed before it wrote its keys, and
stateless resets, which are random bytes.
"""

import collections
import struct

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives import hashes, hmac
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    MISSING = None
except ImportError as why:
    MISSING = f"the Python package cryptography: {why}"

# Bytes of our connection ids in short packets, which do not tell.
ID_LENGTH = 8
# RFC 9001, 5.2: what the first keys of version 1 are drawn from.
SALT = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
# The three of TLS 1.3: key bytes and digest bytes.
CIPHERS = {"aes-128": (16, 32), "aes-256": (32, 48), "chacha": (32, 32)}
# Names of the secrets by level, the client's and the server's.
INITIAL, EARLY, HANDSHAKE, DATA = "initial", "early", "handshake", "data"
SECRETS = {
    (EARLY, True): "CLIENT_EARLY_TRAFFIC_SECRET",
    (HANDSHAKE, True): "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
    (HANDSHAKE, False): "SERVER_HANDSHAKE_TRAFFIC_SECRET",
    (DATA, True): "CLIENT_TRAFFIC_SECRET_0",
    (DATA, False): "SERVER_TRAFFIC_SECRET_0",
}


def secrets(path):
    """Secrets by the client's random number and their name; a hello that came twice may have been answered twice."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    try:
        for line in open(path, encoding="ascii", errors="replace"):
            words = line.split()
            if len(words) == 3 and words[0] in SECRETS.values():
                found[bytes.fromhex(words[1])][words[0]].append(bytes.fromhex(words[2]))
    except FileNotFoundError:
        pass
    return found


def expand(secret, label, length):
    digest = hashes.SHA384() if len(secret) == 48 else hashes.SHA256()
    label = b"tls13 " + label
    info = struct.pack(">H", length) + bytes([len(label)]) + label + b"\x00"
    return HKDFExpand(digest, length, info).derive(secret)


def first_secret(connection_id, of_client):
    """The secret of the first packets, which everybody knows who sees one."""
    extract = hmac.HMAC(SALT, hashes.SHA256())
    extract.update(connection_id)
    return expand(extract.finalize(), b"client in" if of_client else b"server in", 32)


class Keys:
    """One direction's keys of one level under one cipher, from generation to generation."""

    def __init__(self, secret, cipher):
        self.cipher, self.size = cipher, CIPHERS[cipher][0]
        self.header = expand(secret, b"quic hp", self.size)
        # The mask of headers stays as it is when keys change.
        self.block = Cipher(algorithms.AES(self.header), modes.ECB()).encryptor() if cipher != "chacha" else None
        self.secrets, self.open_by = [secret], []
        self.now = 0
        # By path: each counts its packets.
        self.largest = {}

    def mask(self, sample):
        if self.block:
            return self.block.update(sample)[:5]
        return Cipher(algorithms.ChaCha20(self.header, sample), mode=None).encryptor().update(bytes(5))

    def generation(self, number):
        """(key, initial vector) after so many changes."""
        while len(self.open_by) <= number:
            secret = self.secrets[-1]
            key = expand(secret, b"quic key", self.size)
            aead = ChaCha20Poly1305(key) if self.cipher == "chacha" else AESGCM(key)
            self.open_by.append((aead, expand(secret, b"quic iv", 12)))
            self.secrets.append(expand(secret, b"quic ku", len(secret)))
        return self.open_by[number]

    def open(self, packet, at, path):
        """The content of a packet whose number stands at `at`; nothing where the keys are others."""
        if len(packet) < at + 4 + 16:
            return None
        short = not packet[0] & 0x80
        mask = self.mask(packet[at + 4 : at + 20])
        first = packet[0] ^ (mask[0] & (0x1F if short else 0x0F))
        length = (first & 3) + 1
        told = bytes(a ^ b for a, b in zip(packet[at : at + length], mask[1:]))
        number = nearest(int.from_bytes(told, "big"), length, self.largest.get(path, -1))
        head, sealed = bytes([first]) + packet[1:at] + told, packet[at + length :]
        counter = struct.pack(">IQ", path, number)
        for generation in self.generations(first) if short else (0,):
            aead, vector = self.generation(generation)
            nonce = bytes(a ^ b for a, b in zip(vector, counter))
            try:
                content = aead.decrypt(nonce, sealed, head)
            except InvalidTag:
                continue
            self.now = max(self.now, generation)
            self.largest[path] = max(self.largest.get(path, -1), number)
            return content
        return None

    def generations(self, first):
        """Which ones a short packet may be of: its head tells whether the number of changes is odd."""
        odd = first >> 2 & 1
        return [one for one in (self.now, self.now + 1, self.now - 1) if one >= 0 and one % 2 == odd]


def nearest(told, length, largest):
    """The number nearest above `largest` that ends like this (RFC 9000, A.3)."""
    window, expected = 1 << (8 * length), largest + 1
    number = told | expected & ~(window - 1)
    if number + window // 2 <= expected:
        return number + window
    if number > expected + window // 2 and number >= window:
        return number - window
    return number


class Connection:
    """What is known of one connection."""

    def __init__(self, client, server, first_id):
        self.client, self.server = client, server
        self.keys = {}
        for of_client in (True, False):
            self.keys[(INITIAL, of_client)] = [Keys(first_secret(first_id, of_client), "aes-128")]
        self.hello, self.random = bytearray(), None
        # (whether by the client, stream) -> Stream
        self.streams = collections.defaultdict(Stream)

    def speaks(self, protocol):
        """Whether the client asked for this protocol (ALPN)."""
        return bytes([len(protocol)]) + protocol in self.hello

    def meet(self, offset, data, known):
        """The client's hello, which tells by its random number which secrets are whose."""
        if offset > len(self.hello) + (1 << 16):
            return
        self.hello.extend(bytes(max(0, offset + len(data) - len(self.hello))))
        self.hello[offset : offset + len(data)] = data
        random = bytes(self.hello[6:38])
        if self.random is None and random in known:
            self.random = random
            for (level, of_client), name in SECRETS.items():
                fits = ((secret, cipher) for secret in known[random][name] for cipher in CIPHERS)
                self.keys[(level, of_client)] = [Keys(*fit) for fit in fits if len(fit[0]) == CIPHERS[fit[1]][1]]

    def open(self, packet, at, level, of_client, path):
        tried = self.keys.get((level, of_client), [])
        for keys in tried:
            content = keys.open(packet, at, path)
            if content is not None:
                tried.sort(key=lambda one: one is not keys)
                return content
        return None


class Stream:
    """One direction of a stream: what was said at which offset, and when it began."""

    def __init__(self):
        self.pieces, self.began = {}, None

    def add(self, offset, data, at):
        if len(data) > len(self.pieces.get(offset, (b"",))[0]):
            self.pieces[offset] = (data, at)
        self.began = at if self.began is None else self.began

    def when(self, offset):
        """When the byte at `offset` was sent, the first time."""
        spans = ((at, start) for start, (data, at) in self.pieces.items() if start <= offset < start + len(data))
        return min(spans, default=(float("inf"), 0))[0]

    def bytes(self):
        """All of it, each byte once however often it was sent. What was not heard stands as zeros."""
        whole = bytearray()
        for offset, (data, _) in sorted(self.pieces.items()):
            if offset > len(whole):
                whole.extend(bytes(min(offset - len(whole), 1 << 24)))
            whole.extend(data[max(0, len(whole) - offset) :])
        return whole


class Reader:
    """Reads packets of many connections, of both directions and in the order in which they went."""

    def __init__(self, known):
        self.known, self.connections = known, []
        # An id that packets are sent to -> (connection, whether by its client, path)
        self.ids = {}
        self.read = collections.Counter()
        self.unread = collections.Counter()

    def datagram(self, source, destination, packet, at=0.0):
        """What a datagram says, packet by packet. One that the system cuts up later (segmentation offload) holds several."""
        contents = []
        while packet:
            if packet[0] & 0x80:
                content, packet = self.long(source, destination, packet, at)
            else:
                content, packet = self.short(packet, at)
            contents += [content] if content is not None else []
        return contents

    def long(self, source, destination, packet, at):
        """(content, the rest) of a packet of the handshake."""
        try:
            version = packet[1:5]
            to_length = packet[5]
            to, here = packet[6 : 6 + to_length], 6 + to_length
            own, here = packet[here + 1 : here + 1 + packet[here]], here + 1 + packet[here]
            kind = packet[0] >> 4 & 3
            if version != b"\0\0\0\1" or kind == 3:
                return packet, b""
            if kind == 0:
                token, here = number(packet, here)
                here += token
            length, here = number(packet, here)
        except IndexError:
            self.unread["no packet"] += 1
            return None, b""
        packet, rest = packet[: here + length], packet[here + length :]
        level = (INITIAL, EARLY, HANDSHAKE)[kind]
        if to not in self.ids and level == INITIAL:
            self.ids[to] = (Connection(source, destination, to), True, 0)
            self.connections.append(self.ids[to][0])
        if to not in self.ids:
            self.unread[level] += 1
            return None, rest
        connection, of_client, _ = self.ids[to]
        content = connection.open(packet, here, level, of_client, 0)
        if content is None:
            self.unread[level] += 1
            return None, rest
        self.ids.setdefault(own, (connection, not of_client, 0))
        self.take(connection, of_client, level, content, at)
        return content, rest

    def short(self, packet, at):
        """(content, the rest) of a packet behind the handshake."""
        to = packet[1 : 1 + ID_LENGTH]
        known = self.ids.get(to)
        if known is None:
            # A reset answers what nobody knows and is no longer than a datagram.
            self.unread["to no id"] += 1
            return None, b""
        connection, of_client, path = known
        for end in ends(packet, to):
            content = connection.open(packet[:end], 1 + ID_LENGTH, DATA, of_client, path)
            if content is not None:
                self.take(connection, of_client, DATA, content, at)
                return content, packet[end:]
        self.unread[DATA if connection.keys.get((DATA, of_client)) else "no keys"] += 1
        return None, b""

    def take(self, connection, of_client, level, content, at):
        """Learns from a packet that was read."""
        self.read[level] += 1
        for frame in frames(content):
            if frame[0] == "crypto" and level == INITIAL and of_client:
                connection.meet(*frame[1:], self.known)
            elif frame[0] == "id":
                self.ids[frame[2]] = (connection, not of_client, frame[1])
            elif frame[0] == "stream":
                connection.streams[(of_client, frame[1])].add(*frame[2:], at)
            elif frame[0] == "unknown":
                self.unread["frames"] += 1


def ends(packet, to):
    """Where a packet to an id may end: with the datagram, or before the next one to that id."""
    yield len(packet)
    at = packet.find(to, 1 + ID_LENGTH)
    while at > 0:
        yield at - 1
        at = packet.find(to, at + 1)


def number(content, at):
    """(number, where the next thing stands) of a number of variable length."""
    length = 1 << (content[at] >> 6)
    if at + length > len(content):
        raise IndexError
    return int.from_bytes(content[at : at + length], "big") & ((1 << (8 * length - 2)) - 1), at + length


# Frames of a few numbers, and of so many bytes behind them: RFC 9000, of the extension for several paths, of delays of
# acknowledgement, and of the addresses that iroh tells.
NUMBERS = {
    0x00: (0, 0), 0x01: (0, 0), 0x1E: (0, 0), 0x1F: (0, 0),
    0x04: (3, 0), 0x05: (2, 0), 0x10: (1, 0), 0x11: (2, 0), 0x12: (1, 0), 0x13: (1, 0), 0x14: (1, 0), 0x15: (2, 0),
    0x16: (1, 0), 0x17: (1, 0), 0x19: (1, 0), 0x1A: (0, 8), 0x1B: (0, 8), 0xAF: (4, 0),
    0x3E75: (2, 0), 0x3E76: (2, 0), 0x3E77: (2, 0), 0x3E79: (2, 0), 0x3E7A: (1, 0), 0x3E7B: (1, 0), 0x3E7C: (2, 0),
    0x9F81A6: (1, 6), 0x9F81A7: (1, 18), 0x3D7F90: (1, 6), 0x3D7F91: (1, 18), 0x3D7F92: (1, 6), 0x3D7F93: (1, 18),
    0x3D7F94: (1, 0),
}  # fmt: skip


def frames(content):
    """("stream", stream, offset, data), ("crypto", offset, data), ("id", path, id) of a packet's content, and ("unknown",) where
    it cannot be read on."""

    def several(at, count):
        told = []
        for _ in range(count):
            one, at = number(content, at)
            told.append(one)
        return told, at

    at = 0
    try:
        while at < len(content):
            if content[at] == 0:
                at += 1
                continue
            kind, at = number(content, at)
            if kind in (0x02, 0x03, 0x3E, 0x3F):
                told, at = several(at, 4 + (kind >= 0x3E))
                _, at = several(at, 2 * told[-2] + 3 * (kind & 1))
            elif kind == 0x06:
                (offset, length), at = several(at, 2)
                yield "crypto", offset, content[at : at + length]
                at += length
            elif kind == 0x07:
                length, at = number(content, at)
                at += length
            elif 0x08 <= kind <= 0x0F:
                stream, at = number(content, at)
                offset, at = number(content, at) if kind & 4 else (0, at)
                length, at = number(content, at) if kind & 2 else (len(content) - at, at)
                yield "stream", stream, offset, content[at : at + length]
                at += length
            elif kind in (0x18, 0x3E78):
                told, at = several(at, 2 + (kind == 0x3E78))
                length = content[at]
                yield "id", told[0] if kind == 0x3E78 else 0, content[at + 1 : at + 1 + length]
                at += 1 + length + 16
            elif kind in (0x1C, 0x1D):
                told, at = several(at, 3 if kind == 0x1C else 2)
                at += told[-1]
            elif kind in (0x30, 0x31):
                length, at = number(content, at) if kind & 1 else (len(content) - at, at)
                at += length
            elif kind in NUMBERS:
                count, more = NUMBERS[kind]
                _, at = several(at, count)
                at += more
            else:
                yield ("unknown",)
                return
        if at > len(content):
            yield ("unknown",)
    except IndexError:
        yield ("unknown",)
