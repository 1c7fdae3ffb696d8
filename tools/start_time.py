#!/usr/bin/env python3
"""Measures how large a release build is, and how soon it serves an empty lattice.

    python3 tools/start_time.py [--runs 20]

Starts `lattice-gateway serve` again and again on one nats-server, and asks all the time: until `/readyz` says 200, and until
a fully consistent read of the lattice, which opens it, is answered. `make start-time` builds and then calls this.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import dev_gateway
from dev_gateway import BINARIES, FREE_PORTS, free_port, new_token, stopped_behind

RELEASE = BINARIES.parent / "release"
READ = "/v1/lattices/default/claims?consistency.fullyConsistent=true"
RUN_SECONDS_MAX = 30

CONFIGURATION = """
[server]
listen = "127.0.0.1:{port}"
admin_listen = "127.0.0.1:{admin_port}"

[nats]
servers = "{nats}"

[log]
filter = "error"

[lattices.default]
trusted_issuers = ["*"]

[callers.measuring]
token_sha256 = ["{token_sha256}"]
grants = [{{ lattices = ["default"], verbs = ["read"] }}]
"""


def until_ok(port: int, path: str, headers: dict[str, str], start: float) -> float:
    """Milliseconds since the start until it answers 200."""
    while time.monotonic() - start < RUN_SECONDS_MAX:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=RUN_SECONDS_MAX)
        try:
            connection.request("GET", path, headers=headers)
            if connection.getresponse().status == 200:
                return (time.monotonic() - start) * 1000
        except OSError:
            # It does not listen yet.
            time.sleep(0.0005)
        finally:
            connection.close()
    raise SystemExit(f"start-time: {path} was not answered with 200 within {RUN_SECONDS_MAX} s")


def run_once(config: Path, port: int, admin_port: int, token: str) -> tuple[float, float]:
    start = time.monotonic()
    with stopped_behind(subprocess.Popen([RELEASE / "lattice-gateway", "serve", "--config", config])):
        ready = until_ok(admin_port, "/readyz", {}, start)
        return ready, until_ok(port, READ, {"authorization": f"Bearer {token}"}, start)


def tell(what: str, milliseconds: list[float]) -> None:
    low, middle, high = min(milliseconds), statistics.median(milliseconds), max(milliseconds)
    print(f"{what:24} {middle:6.1f} ms median, {low:.1f} to {high:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures a release build's size and how soon it serves.")
    parser.add_argument("--runs", type=int, default=20, help="starts; 20 if not given")
    runs = parser.parse_args().runs
    for program in ["lattice-gateway", "latticectl"]:
        print(f"{program:24} {(RELEASE / program).stat().st_size / 1e6:6.1f} MB")
    token, token_sha256 = new_token(RELEASE)
    dev = stopped_behind(dev_gateway.start(FREE_PORTS, binaries=RELEASE))
    with tempfile.TemporaryDirectory() as folder, dev as nats:
        ready = dev_gateway.wait_ready(nats)
        provision = [RELEASE / "latticectl", "--endpoint", f"http://{ready['grpc']}", "lattice", "provision", "default"]
        subprocess.run(provision, stdout=subprocess.DEVNULL, check=True)
        port, admin_port = free_port(), free_port()
        config = Path(folder) / "gateway.toml"
        config.write_text(
            CONFIGURATION.format(port=port, admin_port=admin_port, nats=ready["nats"], token_sha256=token_sha256)
        )
        times = [run_once(config, port, admin_port, token) for _ in range(runs)]
    tell("until it is ready", [time for time, _ in times])
    tell("until a read is answered", [time for _, time in times])


if __name__ == "__main__":
    main()
