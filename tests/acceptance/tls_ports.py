#!/usr/bin/env python3
"""Every port that HEPH opens, asked for TLS older than 1.3.

    tls_ports.py HEPH      starts a door with TLS, a door on loopback, a node and a relay, finds every socket that their
                           processes listen at, and asks each for SSL 3.0 to TLS 1.3

No port may answer anything older than TLS 1.3. One that others reach must speak 1.3; one without TLS must be on
loopback alone. Hellos are sent byte for byte, since today's libraries refuse to say the oldest; the last two words are
Python's own.
"""

import os
import pathlib
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings

PATIENCE_S = 30
LOOPBACK = ("127.0.0.1", "::1")
VERSIONS = {"SSL 3.0": 0x0300, "TLS 1.0": 0x0301, "TLS 1.1": 0x0302, "TLS 1.2": 0x0303}

passed = failed = 0


def claim(what, holds, told=""):
    global passed, failed
    passed, failed = passed + bool(holds), failed + (not holds)
    print(f"{'ok    ' if holds else 'FAILED'} {what}  {told if not holds else ''}".rstrip(), flush=True)


def hello(version):
    """A client's first words in `version`: common ciphers of its time, and no word of anything newer."""
    ciphers = [0xC02F, 0xC030, 0xC02B, 0xC02C, 0xC013, 0xC014, 0x009C, 0x002F, 0x0035, 0x000A, 0x0005]
    ciphers = b"".join(struct.pack(">H", cipher) for cipher in ciphers)

    def extension(kind, body):
        return struct.pack(">HH", kind, len(body)) + body

    groups, signatures = bytes.fromhex("0006001d00170018"), bytes.fromhex("000e0403050306030804040105010601")
    extensions = extension(10, groups) + extension(11, b"\x01\x00") + extension(13, signatures)
    body = struct.pack(">H", version) + os.urandom(32) + b"\x00"
    body += struct.pack(">H", len(ciphers)) + ciphers + b"\x01\x00"
    if version > 0x0300:
        body += struct.pack(">H", len(extensions)) + extensions
    handshake = b"\x01" + struct.pack(">I", len(body))[1:] + body
    return b"\x16" + struct.pack(">HH", min(version, 0x0301), len(handshake)) + handshake


def datagram(version):
    """The same in DTLS, for ports of UDP."""
    inner = hello(0x0303)[9:]
    inner = struct.pack(">H", version) + inner[2:35] + b"\x00" + inner[35:]
    handshake = b"\x01" + struct.pack(">I", len(inner))[1:] + bytes(2) + bytes(3) + struct.pack(">I", len(inner))[1:] + inner
    return b"\x16" + struct.pack(">H", version) + bytes(8) + struct.pack(">H", len(handshake)) + handshake


def answer(address, sent):
    """What a TCP port says to some bytes; nothing where it hangs up or keeps silent."""
    try:
        with socket.create_connection(address, timeout=5) as way:
            way.sendall(sent)
            way.settimeout(5)
            return way.recv(4096)
    except OSError:
        return b""


def is_server_hello(said):
    return len(said) > 5 and said[0] == 0x16 and said[5] == 0x02


def offers(address, least, most):
    """The version that Python's library agrees on, or why there is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = least, most
    context.set_ciphers("ALL:@SECLEVEL=0")
    try:
        with socket.create_connection(address, timeout=5) as way, context.wrap_socket(way) as secure:
            return secure.version()
    except (OSError, ssl.SSLError) as why:
        return f"refused: {why}"


def family_of(pid):
    """The process and all that it began: a guard has the sockets of whoever began it."""
    began = {}
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, which may hold anything, ends with the last parenthesis.
            parent = status.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        began.setdefault(int(parent), []).append(int(status.parent.name))
    all_of_it = [pid]
    for one in all_of_it:
        all_of_it += began.get(one, [])
    return all_of_it


def listening(process):
    """(kind, address) of every socket of the process, and of those it began, that takes what comes: TCP that listens, UDP that is bound."""
    inodes = set()
    for pid in family_of(process.pid):
        try:
            entries = [os.readlink(entry) for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        found = (re.fullmatch(r"socket:\[(\d+)\]", entry) for entry in entries)
        inodes |= {one[1] for one in found if one}
    ports = []
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in pathlib.Path(f"/proc/{process.pid}/net/{kind}").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] not in inodes or (kind.startswith("tcp") and words[3] != "0A"):
                continue
            host, port = words[1].split(":")
            raw = b"".join(struct.pack("<I", int(host[i : i + 8], 16)) for i in range(0, len(host), 8))
            family = socket.AF_INET6 if kind.endswith("6") else socket.AF_INET
            ports.append((kind[:3], (socket.inet_ntop(family, raw), int(port, 16))))
    return sorted(set(ports))


class Program:
    """A running HEPH with a folder of its own, ended at the end of the `with`."""

    def __init__(self, heph, words):
        self.home = tempfile.TemporaryDirectory()
        kept = {"PATH": os.environ.get("PATH", ""), "HEPH_HOME": self.home.name, "HEPH_THREADS": "1"}
        self.process = subprocess.Popen(
            [heph, *map(str, words)], env=kept, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def __enter__(self):
        self.first = self.process.stdout.readline()
        return self

    def ports(self, wanted):
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and self.process.poll() is None:
            ports = listening(self.process)
            if {kind for kind, _ in ports} >= wanted:
                return ports
            time.sleep(0.05)
        return []

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.home.cleanup()


def dialled(address):
    """Where to call a socket of this machine."""
    return ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0]), address[1])


def scan(name, address, secure):
    for version, number in VERSIONS.items():
        said = answer(address, hello(number))
        claim(f"{name}: {version} is refused", not is_server_hello(said), said[:16].hex())
    old = offers(address, ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_2)
    claim(f"{name}: nothing up to TLS 1.2 is agreed on", old.startswith("refused"), old)
    new = offers(address, ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_3)
    claim(f"{name}: {'TLS 1.3 is spoken' if secure else 'no TLS is spoken'}", (new == "TLSv1.3") == secure, new)


def scan_udp(name, address):
    for version, number in {"DTLS 1.0": 0xFEFF, "DTLS 1.2": 0xFEFD}.items():
        with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM) as way:
            way.settimeout(1)
            try:
                way.sendto(datagram(number), address)
                said = way.recv(4096)
            except OSError:
                said = b""
        claim(f"{name}: {version} is refused", not said[:1] == b"\x16", said[:16].hex())


def plain(address):
    """The status that a port answers HTTP without TLS with, or nothing."""
    said = answer(address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return int(said.split()[1]) if said.startswith(b"HTTP/1.1 ") else None


def notices_an_old_port():
    """A port of another program that speaks TLS 1.2, so that the scan is known to see one."""
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = f"{folder}/key.pem", f"{folder}/certificate.pem"
        made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
        subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve():
            for _ in range(2):
                with door.accept()[0] as way:
                    try:
                        context.wrap_socket(way, server_side=True).close()
                    except OSError:
                        pass

        threading.Thread(target=serve, daemon=True).start()
        hears = is_server_hello(answer(door.getsockname(), hello(0x0303)))
        agreed = offers(door.getsockname(), ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_2)
        claim("the scan sees a port that speaks TLS 1.2", hears and agreed == "TLSv1.2", f"{hears} {agreed}")


def main():
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    heph = pathlib.Path(sys.argv[1]).resolve()
    notices_an_old_port()
    programs = {
        # name: (words, kinds of sockets)
        "door": (["serve", "--listen", "0.0.0.0:0"], {"tcp"}),
        "door on loopback": (["serve", "--listen", "127.0.0.1:0"], {"tcp"}),
        "node": (["node", "--listen", "0.0.0.0:0", "--json"], {"udp"}),
        "relay": (["relay", "--host", "127.0.0.1", "--listen", "0.0.0.0:0"], {"tcp", "udp"}),
    }
    for name, (words, kinds) in programs.items():
        with Program(heph, words) as program:
            ports = program.ports(kinds)
            claim(f"{name} listens", ports, program.first)
            reached = [address for kind, address in ports if kind == "tcp" and address[0] not in LOOPBACK]
            claim(f"{name}: others reach it as meant", bool(reached) == (name in ("door", "relay")), ports)
            for kind, address in ports:
                if kind == "udp":
                    scan_udp(f"{name}, UDP", dialled(address))
                    continue
                secure = address[0] not in LOOPBACK
                which = f"{name}, TCP" if secure else f"{name}, TCP on loopback"
                scan(which, dialled(address), secure)
                # Whoever speaks plainly to a TLS port is told so, and nothing else.
                told = plain(dialled(address))
                claim(f"{which}: plain HTTP gets {'no more than a refusal' if secure else 'an answer'}", told in (None, 400) if secure else told is not None, told)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
