"""Measures a strait as a ping and a flood of UDP packets see it; `echo` is the other end.

    probe.py echo ADDRESS                    answers pings and counts a flood
    probe.py ping ADDRESS COUNT              round trips in milliseconds, one a line; "lost" for a lost one
    probe.py flood ADDRESS MBIT SECONDS      sends so much and prints what arrived, in Mbit/s
"""

import socket
import sys
import time

PORT = 7007
PAYLOAD = 1200


def echo(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, PORT))
        first = last = 0.0
        count = 0
        while True:
            data, sender = sock.recvfrom(2048)
            now = time.monotonic()
            if data[:1] == b"f":
                if count == 0:
                    first = now
                count, last = count + 1, now
            elif data[:1] == b"?":
                # The first packet only starts the clock.
                rate = (count - 1) * (PAYLOAD + 28) * 8 / 1e6 / max(last - first, 1e-9) if count > 1 else 0.0
                sock.sendto(f"{rate:.3f}".encode(), sender)
                count = 0
            else:
                sock.sendto(data, sender)


def ping(address, count):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        for number in range(count):
            sent = time.monotonic()
            sock.sendto(b"p%08d" % number, (address, PORT))
            try:
                sock.recv(2048)
                print(f"{(time.monotonic() - sent) * 1e3:.3f}")
            except OSError:
                print("lost")


def flood(address, mbit, seconds):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        gap = (PAYLOAD + 28) * 8 / (mbit * 1e6)
        began = time.monotonic()
        sent = 0
        while time.monotonic() - began < seconds:
            if time.monotonic() - began >= sent * gap:
                sock.sendto(b"f" * PAYLOAD, (address, PORT))
                sent += 1
            else:
                time.sleep(min(gap, 1e-3))
        time.sleep(0.5)
        sock.sendto(b"?", (address, PORT))
        print(sock.recv(2048).decode())


if __name__ == "__main__":
    what, address, *rest = sys.argv[1:]
    numbers = [float(word) for word in rest]
    {"echo": echo, "ping": lambda a, n: ping(a, int(n)), "flood": flood}[what](address, *numbers)
