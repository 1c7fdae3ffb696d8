"""What these tests share."""

from __future__ import annotations

import subprocess
import tempfile
import time
import unittest
from pathlib import Path
from typing import Callable, TypeVar

import dev_gateway
from dev_gateway import BINARIES, ROOT

PACKAGING = ROOT / "packaging"
GATEWAY = BINARIES / "lattice-gateway"
LATTICECTL = BINARIES / "latticectl"
PATIENCE_SECONDS = 60

ACTOR = "MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5"
PROVIDER = "VDBAXWLT2DO27TIZ4XGJ4NJINMUJ5CTDC3TZ4RFICJXCMRGSQMO6IG6N"
CONTRACT = "wasmcloud:httpserver"

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


def dev(test: unittest.TestCase, *lattices: str) -> dict[str, str]:
    """The addresses of a `lattice-gateway dev` with these lattices."""
    gateway = dev_gateway.start(dev_gateway.FREE_PORTS, test.enterContext(tempfile.TemporaryFile()))
    test.enterContext(dev_gateway.stopped_behind(gateway))
    ready = dev_gateway.wait_ready(gateway)
    for lattice in lattices:
        provision = [LATTICECTL, "--endpoint", f"http://{ready['grpc']}", "lattice", "provision", lattice]
        subprocess.run(provision, check=True, capture_output=True)
    return ready


class Served:
    """`lattice-gateway serve`; whenever it is started again it is at the addresses that it had."""

    def __init__(self, test: unittest.TestCase, config: Path) -> None:
        self.port = dev_gateway.free_port()
        self.admin = f"127.0.0.1:{dev_gateway.free_port()}"
        self.config = config
        self.start()
        test.addCleanup(self.stop)

    def start(self) -> None:
        listen = ["--listen", f"127.0.0.1:{self.port}", "--admin-listen", self.admin]
        self.process = subprocess.Popen([GATEWAY, "serve", "--config", self.config, *listen], stderr=subprocess.DEVNULL)
        until("the gateway is ready", self.is_ready)

    def is_ready(self) -> bool:
        asked = [GATEWAY, "healthcheck", "--admin-listen", self.admin]
        return subprocess.run(asked, capture_output=True).returncode == 0

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()


def configuration(folder: Path, nats: str, verbs: list[str], settings: str = "") -> tuple[Path, str]:
    """A file that lets one caller in, on every lattice of that NATS, and that caller's token."""
    token, token_sha256 = dev_gateway.new_token()
    file = folder / "gateway.toml"
    file.write_text(f"""
{settings}
nats.servers = "{nats}"
lattices."*".trusted_issuers = ["*"]
[callers.tests]
token_sha256 = ["{token_sha256}"]
grants = [{{ lattices = ["*"], verbs = {verbs} }}]
""")
    return file, token
