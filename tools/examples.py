#!/usr/bin/env python3
"""Runs the example clients against a real gateway: each tells the same story in a lattice of its own.

    python3 tools/examples.py                 every example
    python3 tools/examples.py python curl     these

One whose tools are not here is skipped, and told what to install. Ends with a table, and with exit code 1 where an example
failed. `make examples` builds the gateway and then calls this.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator

import dev_gateway
import setup
from dev_gateway import BINARIES, FREE_PORTS, ROOT, new_token, stopped_behind

CLIENTS = ROOT / "examples" / "clients"
TYPESCRIPT = CLIENTS / "typescript"
RUST = CLIENTS / "rust"
PROTO = ROOT / "proto"

NODE_FLOOR = 20
CHROMIUMS = ["chromium", "chromium-browser", "google-chrome"]
EXAMPLE_SECONDS_MAX = 120


class ExampleFailed(Exception):
    """Says what went wrong; the example's own words are above."""


class ToolMissing(Exception):
    """Says what to install."""


@dataclass(frozen=True)
class Gateway:
    endpoint: str
    token: str
    page: str


@dataclass
class Run:
    name: str
    result: str
    seconds: float
    note: str = field(default="")


def run(command: list[str | Path], **options: object) -> None:
    program = Path(command[0]).name
    try:
        code = subprocess.run(command, **{"cwd": ROOT, "timeout": EXAMPLE_SECONDS_MAX, **options}).returncode
    except subprocess.TimeoutExpired as error:
        raise ExampleFailed(f"{program} did not end within {EXAMPLE_SECONDS_MAX} s") from error
    if code != 0:
        raise ExampleFailed(f"{program} ended with exit code {code}")


def environment(gateway: Gateway, name: str, **more: str) -> dict[str, str]:
    return {**os.environ, "ENDPOINT": gateway.endpoint, "TOKEN": gateway.token, "LATTICE": lattice(name), **more}


def lattice(name: str) -> str:
    return f"example-{name}"


# --- the examples ---


def run_python(gateway: Gateway) -> None:
    path = os.pathsep.join(map(str, [setup.STUBS, CLIENTS]))
    run([setup.python_client(), CLIENTS / "python" / "link.py"], env=environment(gateway, "python", PYTHONPATH=path))


def run_curl(gateway: Gateway) -> None:
    require("curl", "apt-get install curl")
    run(["bash", CLIENTS / "curl" / "link.sh"], env=environment(gateway, "curl"))


def run_rust(gateway: Gateway) -> None:
    # The first build takes longer than any example.
    build = ["cargo", "build", "--locked", "--manifest-path", RUST / "Cargo.toml", "--target-dir", BINARIES.parent]
    run(build, timeout=None)
    run([BINARIES / "link-example"], env=environment(gateway, "rust"))


def run_node(gateway: Gateway) -> None:
    build_typescript()
    run(["node", "out/node.mjs"], cwd=TYPESCRIPT, env=environment(gateway, "node"))


def run_browser(gateway: Gateway) -> None:
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if chromium is None:
        raise ToolMissing("a Chromium: apt-get install chromium, or set CHROMIUM")
    build_typescript()
    url = f"{gateway.page}#endpoint={gateway.endpoint}&token={gateway.token}&lattice={lattice('browser')}"
    run(["node", "in_browser.mjs", chromium, url], cwd=TYPESCRIPT)


EXAMPLES = {"python": run_python, "curl": run_curl, "rust": run_rust, "node": run_node, "browser": run_browser}


def require(program: str, way_out: str) -> None:
    if shutil.which(program) is None:
        raise ToolMissing(f"{program}: {way_out}")


@functools.cache
def build_typescript() -> None:
    """Gets the packages of the lock file, generates what `proto/` says, checks the types and bundles."""
    way_out = f"Node.js {NODE_FLOOR} or later, with npm"
    require("node", way_out)
    require("npm", way_out)
    told = subprocess.run(["node", "--version"], stdout=subprocess.PIPE, text=True).stdout
    version = re.match(r"v(\d+)\.", told)
    if version is None or int(version[1]) < NODE_FLOOR:
        raise ToolMissing(f"{way_out}; this is {told.strip()}")
    run(["npm", "ci", "--no-progress", "--loglevel=error"], cwd=TYPESCRIPT, timeout=None)
    generate_typescript()
    run(["npm", "run", "--silent", "build"], cwd=TYPESCRIPT, timeout=None)


def generate_typescript() -> None:
    python = setup.python_client()
    generated = TYPESCRIPT / "gen"
    shutil.rmtree(generated, ignore_errors=True)
    generated.mkdir()
    protos = [proto.relative_to(PROTO) for proto in sorted(PROTO.rglob("*.proto"))]
    run(
        [python, "-m", "grpc_tools.protoc", f"--proto_path={PROTO}"]
        + [f"--plugin=protoc-gen-es={TYPESCRIPT / 'node_modules' / '.bin' / 'protoc-gen-es'}"]
        + [f"--es_out={generated}", "--es_opt=target=ts", *protos]
    )


# --- what they run against ---


class Pages(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def pages() -> Iterator[str]:
    """Serves the page, and gives its origin."""
    handler = functools.partial(Pages, directory=TYPESCRIPT / "out")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def configuration(nats: str, token_sha256: str, origin: str) -> str:
    return f"""
[server]
cors_origins = "{origin}"

[nats]
servers = "{nats}"

[log]
format = "json"

[lattices."{lattice('*')}"]
trusted_issuers = ["*"]

[callers.example]
token_sha256 = ["{token_sha256}"]
grants = [{{ lattices = ["{lattice('*')}"], verbs = ["read", "values:read", "watch", "links:write"] }}]
"""


@contextlib.contextmanager
def gateway(names: list[str], log: Path) -> Iterator[Gateway]:
    """One that lets in a token's caller alone, on the NATS of a `lattice-gateway dev`, which provisions the lattices."""
    token, token_sha256 = new_token()
    with contextlib.ExitStack() as stack:
        dev = stack.enter_context(stopped_behind(dev_gateway.start(FREE_PORTS, stack.enter_context(log.open("wb")))))
        ready = dev_gateway.wait_ready(dev)
        for name in names:
            command = [BINARIES / "latticectl", "--endpoint", f"http://{ready['grpc']}", "lattice", "provision"]
            run([*command, lattice(name)], stdout=subprocess.DEVNULL)
        origin = stack.enter_context(pages())
        file = log.with_name("gateway.toml")
        file.write_text(configuration(ready["nats"], token_sha256, origin))
        serve = [BINARIES / "lattice-gateway", "serve", "--config", file, *FREE_PORTS]
        serving = stack.enter_context(stopped_behind(subprocess.Popen(serve, stderr=subprocess.PIPE)))
        yield Gateway(f"http://{address_of(serving)}", token, f"{origin}/")


def address_of(serving: subprocess.Popen[bytes]) -> str:
    """Waits until it serves. What it logs then is read on, and is nothing here."""
    for line in serving.stderr:
        fields = json.loads(line)["fields"]
        if fields["message"] == "serving":
            threading.Thread(target=serving.stderr.read, daemon=True).start()
            return fields["grpc"]
    raise dev_gateway.NotServing(f"lattice-gateway serve did not come up (exit code {serving.wait()})")


# --- all of them ---


def try_out(name: str, against: Gateway) -> Run:
    print(f"\nexamples: {name}", flush=True)
    start = time.monotonic()
    try:
        EXAMPLES[name](against)
    except ToolMissing as missing:
        return Run(name, "skipped", 0, f"needs {missing}")
    except (ExampleFailed, setup.SetupError) as error:
        return Run(name, "FAILED", time.monotonic() - start, str(error))
    return Run(name, "passed", time.monotonic() - start)


def print_table(runs: list[Run]) -> None:
    print(f"\n{'example':10} {'result':8} {'seconds':>7}")
    for one in runs:
        print(f"{one.name:10} {one.result:8} {one.seconds:7.1f}  {one.note}".rstrip())
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs the example clients against a real gateway.")
    parser.add_argument("examples", nargs="*", metavar="EXAMPLE", help=f"of {', '.join(EXAMPLES)}; all if none is given")
    names = parser.parse_args().examples or list(EXAMPLES)
    if unknown := set(names) - set(EXAMPLES):
        parser.error(f"there is no example {', '.join(sorted(unknown))}; there are {', '.join(EXAMPLES)}")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "dev.log"
        try:
            with gateway(names, log) as against:
                runs = [try_out(name, against) for name in names]
        except (dev_gateway.NotServing, ExampleFailed) as error:
            sys.exit(f"examples: error: {error}\n{log.read_text()}")
    print_table(runs)
    if any(one.result == "FAILED" for one in runs):
        sys.exit(1)


if __name__ == "__main__":
    main()
