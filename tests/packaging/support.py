"""What the tests of `packaging/` share."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Callable, TypeVar

from dev_gateway import BINARIES, ROOT

PACKAGING = ROOT / "packaging"
GATEWAY = BINARIES / "lattice-gateway"
LATTICECTL = BINARIES / "latticectl"
PATIENCE_SECONDS = 60

T = TypeVar("T")


def until(what: str, look: Callable[[], T | None]) -> T:
    """Looks until there is something to see, and gives that."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        if seen := look():
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"not within {PATIENCE_SECONDS} s: {what}")
        time.sleep(0.05)


def self_signed(folder: Path, *hosts: str) -> tuple[Path, Path]:
    """A certificate for these names, which is its own authority, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    names = ",".join(f"DNS:{host}" for host in hosts)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "9"]
        + ["-subj", "/CN=tests", "-addext", f"subjectAltName={names}", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    return certificate, key
