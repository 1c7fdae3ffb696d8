#!/usr/bin/env python3
"""Starts the built gateway with a nats-server of its own, applies `examples/lattice` and keeps serving.

    python3 tools/run.py [OPTIONS OF `lattice-gateway dev`]

`make run` gets what is missing, builds and then calls this.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from typing import Any

import dev_gateway
from dev_gateway import BINARIES, EXAMPLE, ROOT

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


def example_commands(example: dict[str, Any]) -> list[list[str]]:
    """The `latticectl` commands that put the example lattice and show what then stands."""
    commands = [["lattice", "provision"]]
    for token in example["claims"]:
        commands.append(["claims", "put", str((EXAMPLE / token).relative_to(ROOT))])
    for link in example["link_definitions"]:
        command = ["link", "put", link["actor_id"], link["provider_id"], link["contract_id"]]
        command += ["--name", link["link_name"]]
        for key, value in link["values"].items():
            command += ["--value", f"{key}={value}"]
        commands.append(command)
    for reference in example["oci_references"]:
        commands.append(["ref", "set", reference["oci_url"], reference["public_key"]])
    commands += [[kind, "list", "--fresh"] for kind in ("claims", "link", "ref")]
    return [*commands, ["lattice", "show"]]


def latticectl(command: list[str], environment: dict[str, str]) -> None:
    print(f"\n$ {shlex.join(['latticectl', *command])}", flush=True)
    code = subprocess.run([BINARIES / "latticectl", *command], cwd=ROOT, env=environment).returncode
    if code != 0:
        raise CommandFailed(f"latticectl {command[0]} {command[1]} failed (exit code {code})")


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
        example = json.loads((EXAMPLE / "example.json").read_text())
        environment = {
            **os.environ,
            "LATTICECTL_ENDPOINT": f"http://{ready['grpc']}",
            "LATTICECTL_LATTICE": example["lattice"],
        }
        for command in example_commands(example):
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
