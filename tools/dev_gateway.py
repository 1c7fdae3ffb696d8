"""Starts the built `lattice-gateway dev` and waits until it serves. For `run.py` and the Python tests."""

from __future__ import annotations

import json
import os
import select
import subprocess
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
BINARIES = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
EXAMPLE = ROOT / "examples" / "lattice"

READY_SECONDS = 60


class NotServing(Exception):
    """The gateway ended, or did not come up in time."""


def start(args: list[str], log: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Starts it; SIGTERM ends it and its nats-server. It logs to `log`, or else to our standard error."""
    return subprocess.Popen(
        [BINARIES / "lattice-gateway", "dev", *args],
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
