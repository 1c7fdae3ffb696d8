#!/usr/bin/env python3
"""Starts the built gateway with a nats-server of its own, applies `examples/lattice` and keeps serving.

    python3 tools/run.py [OPTIONS OF `lattice-gateway dev`]

`make run` gets what is missing, builds and then calls this.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys

import dev_gateway
from dev_gateway import BINARIES, EXAMPLE, ROOT

# Options by which the gateway tells about itself and serves nothing.
TELLING = {"-h", "--help", "-V", "--version"}
DEFAULT_LISTENERS = {"--listen": ("127.0.0.1", 7400), "--admin-listen": ("127.0.0.1", 7401)}


class CommandFailed(Exception):
    """A `latticectl` command did not succeed."""


def refuse_taken_ports(args: list[str]) -> None:
    for option, address in DEFAULT_LISTENERS.items():
        if any(arg.split("=")[0] == option for arg in args):
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                sys.exit(
                    f"run: cannot listen on {address[0]}:{address[1]} ({error.strerror}); "
                    "another gateway may be running. Stop it, or let the system choose free ports:\n"
                    "    make run ARGS='--listen 127.0.0.1:0 --admin-listen 127.0.0.1:0'"
                )


# Put the example lattice, and show what then stands.
COMMANDS = [
    ["lattice", "provision"],
    ["apply", "-f", str(EXAMPLE.relative_to(ROOT))],
    ["claims", "list", "--fresh"],
    ["link", "list", "--fresh"],
    ["ref", "list", "--fresh"],
    ["lattice", "show"],
]


def latticectl(command: list[str], environment: dict[str, str]) -> None:
    print(f"\n$ {shlex.join(['latticectl', *command])}", flush=True)
    code = subprocess.run([BINARIES / "latticectl", *command], cwd=ROOT, env=environment).returncode
    if code != 0:
        raise CommandFailed(f"{shlex.join(['latticectl', *command])} failed (exit code {code})")


def say_what_next(ready: dict[str, str]) -> None:
    program = os.path.relpath(BINARIES / "latticectl", ROOT)
    print(f"\nThe gateway serves gRPC on {ready['grpc']}. Try it from another terminal, in this folder:\n")
    if ready["grpc"] != "%s:%d" % DEFAULT_LISTENERS["--listen"]:
        print(f"    export LATTICECTL_ENDPOINT=http://{ready['grpc']}")
    print(f"    {program} link list -o json")
    print(f"    {program} --help")
    print(f"    curl http://{ready['admin']}/readyz")
    print("\nCtrl-C stops it and its nats-server.", flush=True)


def main() -> int:
    args = sys.argv[1:]
    if TELLING.intersection(args):
        return subprocess.run([BINARIES / "lattice-gateway", "dev", *args]).returncode
    refuse_taken_ports(args)
    print(f"$ {shlex.join(['lattice-gateway', 'dev', *args])}", flush=True)
    gateway = dev_gateway.start(args)
    stopping = False

    def stop(_signal: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True
        gateway.terminate()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)

    try:
        ready = dev_gateway.wait_ready(gateway)
        environment = {
            **os.environ,
            "LATTICECTL_ENDPOINT": f"http://{ready['grpc']}",
            "LATTICECTL_LATTICE": "default",
        }
        for command in COMMANDS:
            latticectl(command, environment)
        say_what_next(ready)
    except (dev_gateway.NotServing, CommandFailed) as error:
        if not stopping:
            gateway.terminate()
            gateway.wait()
            sys.exit(f"run: {error}")
    return 0 if gateway.wait() == 0 or stopping else 1


if __name__ == "__main__":
    sys.exit(main())
