"""Prints the TCP ports that answer at an address: `python scan.py ADDRESS`. Sent to a test host and run there."""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((sys.argv[1], port)) == 0


if __name__ == "__main__":
    ports = range(1, 2**16)
    with ThreadPoolExecutor(64) as pool:
        print(*(port for port, open_ in zip(ports, pool.map(answers, ports), strict=True) if open_))
