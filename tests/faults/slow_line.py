"""A line between two network devices that takes its time: netem is missing from many kernels. A program of its own.

    python -m tests.faults.slow_line DEVICE DEVICE DELAY_S

It carries whole frames, in order, each `DELAY_S` after it came, and says "ready" when it does.
"""

from __future__ import annotations

import queue
import socket
import sys
import threading
import time
from typing import Final

ANY_PROTOCOL: Final = 3  # ETH_P_ALL
SOL_PACKET: Final = 263
PACKET_VNET_HDR: Final = 15  # frames come with what is left to do to them: checksums, and cutting large ones up
PACKET_IGNORE_OUTGOING: Final = 23
FRAME_BYTES: Final = 2**16 + 64  # the largest that veth hands over uncut, and its two headers
WAITING: Final = 10_000  # frames on the way; more is a flood, and a line drops it


def tapped(device: str) -> socket.socket:
    """A socket for the raw frames of `device`."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ANY_PROTOCOL))
    tap.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    tap.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    tap.bind((device, ANY_PROTOCOL))
    return tap


def carry(source: socket.socket, target: socket.socket, delay_s: float) -> None:
    """Start to carry what arrives at `source` over to `target`."""
    on_the_way: queue.Queue[tuple[float, bytes]] = queue.Queue(WAITING)

    def take() -> None:
        while True:
            frame = source.recv(FRAME_BYTES)
            if not on_the_way.full():
                on_the_way.put((time.monotonic() + delay_s, frame))

    def deliver() -> None:
        while True:
            due, frame = on_the_way.get()
            time.sleep(max(0.0, due - time.monotonic()))
            target.send(frame)

    for work in (take, deliver):
        threading.Thread(target=work, daemon=True).start()


def main() -> None:
    one, other = tapped(sys.argv[1]), tapped(sys.argv[2])
    carry(one, other, float(sys.argv[3]))
    carry(other, one, float(sys.argv[3]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()  # its end is the end of the line


if __name__ == "__main__":
    main()
