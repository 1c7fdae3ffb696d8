"""Starts the built `lattice-gateway dev` and waits until it serves. For the other tools and the Python tests."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import socket
import subprocess
from pathlib import Path
from typing import IO, Iterator

ROOT = Path(__file__).resolve().parent.parent
BINARIES = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
EXAMPLE = ROOT / "examples" / "lattice"

READY_SECONDS = 60
FREE_PORTS = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]


class NotServing(Exception):
    """The gateway ended, or did not come up in time."""


def start(args: list[str], log: IO[bytes] | None = None, binaries: Path = BINARIES) -> subprocess.Popen[bytes]:
    """Starts it; SIGTERM ends it and its nats-server. It logs to `log`, or else to our standard error."""
    return subprocess.Popen(
        [binaries / "lattice-gateway", "dev", *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        # Ctrl-C then reaches us alone, and we stop it once, in order.
        start_new_session=True,
    )


def wait_ready(gateway: subprocess.Popen[bytes]) -> dict[str, str]:
    """Waits for its ready line and gives the addresses on it: `grpc`, `admin` and `nats`."""
    has_output, _, _ = select.select([gateway.stdout], [], [], READY_SECONDS)
    line = gateway.stdout.readline() if has_output else b""
    if line:
        return json.loads(line)
    gateway.terminate()
    raise NotServing(f"lattice-gateway dev did not come up (exit code {gateway.wait()})")


def free_port() -> int:
    """Below those that outgoing connections are given, so that none takes it while nobody listens there."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


@contextlib.contextmanager
def stopped_behind(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    with process:
        try:
            yield process
        finally:
            process.terminate()


def new_token(binaries: Path = BINARIES) -> tuple[str, str]:
    """A token and its hash."""
    told = subprocess.run([binaries / "lattice-gateway", "token"], stdout=subprocess.PIPE, text=True, check=True).stdout
    values = dict(re.split(r":\s+", line, maxsplit=1) for line in told.splitlines())
    return values["token"], values["token_sha256"]
