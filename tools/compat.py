#!/usr/bin/env python3
"""Runs the integration tests on every version of nats-server that the gateway is meant for.

    python3 tools/compat.py                          every test on every version
    python3 tools/compat.py --facts-only             what JetStream does, the gateway before clusters, provisioning
    python3 tools/compat.py --only facts:: dedup::   tests with these in their names
    python3 tools/compat.py --versions 2.10 2.15     these versions

Ends with a table, and with exit code 1 where a test failed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import setup
from setup import NATS_VERSIONS, ROOT, SetupError, dotted

FACTS = ["facts::", "cluster::", "provisioning::"]

# What cargo's test harness prints of each test, and at the end.
FAILED = re.compile(r"^test (\S+) \.\.\. FAILED$")
RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed")


@dataclass
class Run:
    version: str
    passed: int
    failed: list[str]
    seconds: float
    # An exit code that the tests' own results do not explain is a failure too.
    code: int


def cargo_test(*args: str) -> list[str]:
    return ["cargo", "test", "--test", "it", *args]


def run_tests(version: str, server: Path, only: list[str]) -> Run:
    start = time.monotonic()
    passed, failed = 0, []
    environment = {**os.environ, "NATS_SERVER": str(server)}
    process = subprocess.Popen(
        cargo_test("--", *only), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        print(line, end="", flush=True)
        if match := FAILED.match(line):
            failed.append(match[1])
        if match := RESULT.match(line):
            passed = int(match[1])
    return Run(version, passed, failed, time.monotonic() - start, process.wait())


def print_table(runs: list[Run]) -> None:
    print(f"\n{'nats-server':12} {'passed':>6} {'failed':>6} {'seconds':>8}")
    for run in runs:
        print(f"{run.version:12} {run.passed:6} {len(run.failed):6} {run.seconds:8.1f}")
        for name in run.failed:
            print(f"    failed: {name}")
        if run.code != 0 and not run.failed:
            print(f"    failed: cargo test ended with exit code {run.code}")
    sys.stdout.flush()


def main() -> None:
    known = [dotted(version) for version in NATS_VERSIONS]
    parser = argparse.ArgumentParser(description="Runs the integration tests on versions of nats-server.")
    parser.add_argument("--versions", nargs="+", default=known, metavar="VERSION", help=f"of {', '.join(known)}")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="tests with one of these in their names")
    parser.add_argument(
        "--facts-only", action="store_const", const=FACTS, dest="only", help=f"the same as --only {' '.join(FACTS)}"
    )
    args = parser.parse_args()
    try:
        servers = [setup.nats_server_of(version) for version in args.versions]
    except SetupError as error:
        sys.exit(f"compat: error: {error}")
    if subprocess.run(cargo_test("--no-run"), cwd=ROOT).returncode != 0:
        sys.exit("compat: error: the tests do not build")
    runs = []
    for server in servers:
        version = server.parent.name
        print(f"\ncompat: nats-server {version} ({len(runs) + 1} of {len(servers)})", flush=True)
        runs.append(run_tests(version, server, args.only))
    print_table(runs)
    if any(run.code != 0 for run in runs):
        sys.exit(1)


if __name__ == "__main__":
    main()
