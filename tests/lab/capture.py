#!/usr/bin/env python3
"""Writes down every packet of every interface of a network namespace.

    capture.py FILE [SECONDS]     until it is told to end, or so long; says "ready" once it hears everything, and at its
                                  end how many packets the system gave it and how many it had to drop

The file holds, one after another: length (4 bytes, little-endian), direction (1 byte: 4 outgoing), kind of the interface
(1 byte: 1 loopback), when the system saw it (seconds since 1970, 8 bytes), and the packet from its IP header on. Read by
`packets`.
"""

import collections
import contextlib
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import time

from claims import claim

ALL = 0x0003
LOOPBACK = 772
OUTGOING = 4
HEAD = struct.Struct("<IBBd")
# Numbers of the kernel that Python has no names for.
SO_RCVBUFFORCE, SO_TIMESTAMPNS, SOL_PACKET, PACKET_STATISTICS = 33, 35, 263, 6


def main():
    until = time.monotonic() + float(sys.argv[2]) if len(sys.argv) > 2 else float("inf")
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ALL)) as ear, open(sys.argv[1], "wb") as out:
        # Beyond what the system allows to others: the lab is root.
        ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        ear.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        ear.settimeout(0.2)
        # A shell has what it starts in the background ignore this signal.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("ready", flush=True)
        try:
            while time.monotonic() < until:
                hear(ear, out)
        except KeyboardInterrupt:
            pass
        # What was heard before the end waits in the socket.
        ear.settimeout(0.05)
        while hear(ear, out):
            pass
        heard, dropped = struct.unpack("II", ear.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        print(f"{heard} {dropped}", flush=True)


def hear(ear, out):
    """Writes down the next packet, and says whether there was one."""
    try:
        packet, about, _, (_, protocol, direction, kind, _) = ear.recvmsg(1 << 17, 64)
    except socket.timeout:
        out.flush()
        return False
    if protocol in (0x0800, 0x86DD):
        seconds, nanoseconds = struct.unpack("qq", about[0][2])
        out.write(HEAD.pack(len(packet), direction, kind == LOOPBACK, seconds + nanoseconds / 1e9) + packet)
    return True


# `loopback` says whether it went over that interface; source and destination are addresses with ports, and `number` is that of TCP, of the
# first byte of the payload: ports, payload and number are told of UDP and TCP.
Packet = collections.namedtuple("Packet", "when outgoing loopback protocol source destination body number")


def packets(path):
    """Each packet of a file."""
    whole = open(path, "rb").read()
    at = 0
    while at + HEAD.size <= len(whole):
        length, direction, loopback, when = HEAD.unpack_from(whole, at)
        packet = whole[at + HEAD.size : at + HEAD.size + length]
        at += HEAD.size + length
        if len(packet) < length or not packet:
            return
        if packet[0] >> 4 == 4:
            head, protocol = 4 * (packet[0] & 15), packet[9]
            source, destination = (socket.inet_ntop(socket.AF_INET, packet[i : i + 4]) for i in (12, 16))
            packet = packet[: struct.unpack_from(">H", packet, 2)[0] or len(packet)]
        else:
            head, protocol = 40, packet[6]
            source, destination = (socket.inet_ntop(socket.AF_INET6, packet[i : i + 16]) for i in (8, 24))
        inner = packet[head:]
        if protocol not in (6, 17) or len(inner) < 8:
            yield Packet(when, direction == OUTGOING, bool(loopback), protocol, (source, 0), (destination, 0), inner, 0)
            continue
        ports = struct.unpack_from(">HH", inner)
        body = inner[8:] if protocol == 17 else inner[4 * (inner[12] >> 4) :]
        number = struct.unpack_from(">I", inner, 4)[0] if protocol == 6 else 0
        # A packet that opens a connection takes a number of its own.
        number += inner[13] >> 1 & 1 if protocol == 6 else 0
        ends = (source, ports[0]), (destination, ports[1])
        yield Packet(when, direction == OUTGOING, bool(loopback), protocol, *ends, body, number)


@contextlib.contextmanager
def listening(desk, path):
    """Every packet of the desk's namespace goes to the file meanwhile."""
    ear = desk.host.start([sys.executable, pathlib.Path(__file__).resolve(), path], stdout=subprocess.PIPE, text=True)
    ear.stdout.readline()
    try:
        yield
    finally:
        ear.send_signal(signal.SIGINT)
        heard, dropped = map(int, ear.communicate(timeout=30)[0].split())
        claim(f"the capture of {path.name} missed nothing", heard > 0 and dropped == 0, f"{heard} packets, {dropped} missed")


if __name__ == "__main__":
    sys.exit(main())
