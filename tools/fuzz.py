#!/usr/bin/env python3
"""Feeds the gateway's parsers with made-up input, each for a bounded number of runs.

    python3 tools/fuzz.py                       every target in full: 10 M runs, 1 M where signatures are checked
    python3 tools/fuzz.py --runs 200000         every target, this many runs
    python3 tools/fuzz.py --target etag         one target (may be given several times)
    python3 tools/fuzz.py --input FILE          one input of the target whose folder it is in, such as one that failed

The targets are laid out for cargo-fuzz, and `cargo fuzz run -s none` runs them too. Here cargo builds them itself, with
the flags that cargo-fuzz would give: that needs no tool to be installed, and works with a stable Rust. There are no
sanitizers; the gateway forbids unsafe code, so a bug is a panic.

What a run finds is kept in `fuzz/corpus/<target>` beside the seeds, under names that git ignores.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FUZZ = ROOT / "fuzz"
MANIFEST = FUZZ / "Cargo.toml"
TARGET_FOLDER = FUZZ / "target"

PURE = 10_000_000
SIGNATURES = 1_000_000


@dataclass(frozen=True)
class Target:
    name: str
    runs: int
    bytes_max: int


TARGETS = [
    Target("claims_token", PURE, 2048),
    Target("claims_token_signed", SIGNATURES, 1024),
    Target("bearer_jwt", PURE, 1024),
    Target("unsigned_claims", PURE, 1024),
    Target("interface_link", PURE, 768),
    Target("link_definition", PURE, 768),
    Target("oci_reference", PURE, 640),
    Target("nkey", PURE, 64),
    Target("identifiers", PURE, 320),
    Target("etag", PURE, 64),
    Target("page_token", PURE, 512),
    Target("stored_record", PURE, 1024),
    Target("evidence", PURE, 1024),
]

# What cargo-fuzz passes, and one unit of code generation, without which the counters of a crate are many.
INSTRUMENTED = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
]
INPUT_SECONDS_MAX = 10
MEMORY_MIB_MAX = 1024
PROGRESS_SECONDS = 5

# What libFuzzer prints: `#4096	NEW    cov: 12 ft: 34 corp: 5/67b …` and, at the end, `stat::… : 123`.
STATUS = re.compile(r"^#(\d+)\s+\w+\s+cov: (\d+) .*corp: (\d+)")
EXECUTED = re.compile(r"^stat::number_of_executed_units:\s+(\d+)")


class FuzzError(Exception):
    """Says what is wrong and the way out."""


@dataclass
class Outcome:
    target: str
    runs: int
    seconds: float
    coverage: int
    inputs: int
    failed: Path | None
    passed: bool

    @property
    def result(self) -> str:
        if self.passed:
            return "passed"
        return f"FAILED: {relative(self.failed)}" if self.failed else "FAILED without an input"


def say(text: str) -> None:
    print(f"fuzz: {text}", file=sys.stderr, flush=True)


def relative(path: Path) -> str:
    return os.path.relpath(path, ROOT)


# --- building ---


def locked_versions(lock: Path) -> dict[str, set[str]]:
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r'^name = "(.+)"\nversion = "(.+)"$', lock.read_text(), re.MULTILINE):
        versions.setdefault(name, set()).add(version)
    return versions


def check_locks() -> None:
    """The parsers are to meet the input with the dependencies that the gateway ships with."""
    shipped = locked_versions(ROOT / "Cargo.lock")
    differing = sorted(
        name
        for name, versions in locked_versions(FUZZ / "Cargo.lock").items()
        if name in shipped and not versions <= shipped[name]
    )
    if differing:
        raise FuzzError(
            f"fuzz/Cargo.lock has other versions than Cargo.lock of: {', '.join(differing)}. Make it anew:\n"
            "    cp Cargo.lock fuzz/Cargo.lock && cargo fetch --manifest-path fuzz/Cargo.toml"
        )


def host_triple() -> str:
    told = subprocess.run(["rustc", "-vV"], stdout=subprocess.PIPE, text=True, check=True).stdout
    host = re.search(r"^host: (.+)$", told, re.MULTILINE)
    if not host:
        raise FuzzError("rustc -vV does not tell the host it is built for")
    return host[1]


def build(targets: list[Target]) -> Path:
    """Builds the targets and gives the folder they are in."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler.split()[0]) is None:
        raise FuzzError(
            f"libFuzzer is built with a C++ compiler, and there is no {compiler}. "
            "Debian, Ubuntu: apt-get install g++; or set CXX."
        )
    check_locks()
    host, start = host_triple(), time.monotonic()
    # With a target named, build scripts and macros stay as they are.
    command = ["cargo", "build", "--release", "--locked", "--manifest-path", MANIFEST]
    command += ["--target", host, "--target-dir", TARGET_FOLDER]
    for target in targets:
        command += ["--bin", target.name]
    environment = {**os.environ, "RUSTFLAGS": " ".join(INSTRUMENTED)}
    environment.pop("CARGO_ENCODED_RUSTFLAGS", None)
    if subprocess.run(command, cwd=ROOT, env=environment).returncode != 0:
        raise FuzzError("the targets do not build (cargo's own words are above)")
    say(f"built {len(targets)} targets in {time.monotonic() - start:.0f} s")
    return TARGET_FOLDER / host / "release"


# --- running ---


def fuzz(target: Target, runs: int, binaries: Path) -> Outcome:
    corpus, artifacts = FUZZ / "corpus" / target.name, FUZZ / "artifacts" / target.name
    dictionary = FUZZ / "dictionaries" / f"{target.name}.dict"
    corpus.mkdir(parents=True, exist_ok=True)
    artifacts.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [binaries / target.name, f"-runs={runs}", f"-max_len={target.bytes_max}"]
    command += [f"-timeout={INPUT_SECONDS_MAX}", f"-rss_limit_mb={MEMORY_MIB_MAX}", "-print_final_stats=1"]
    command += [f"-artifact_prefix={artifacts}{os.sep}"]
    if dictionary.exists():
        command.append(f"-dict={dictionary}")
    command.append(corpus)

    say(f"{target.name}: {runs:,} runs")
    before, start = set(artifacts.iterdir()), time.monotonic()
    outcome = Outcome(target.name, 0, 0.0, 0, 0, None, False)
    told: list[str] = []
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        assert process.stderr is not None
        told_at = start
        for line in process.stderr:
            if status := STATUS.match(line):
                outcome.runs, outcome.coverage, outcome.inputs = map(int, status.groups())
                if time.monotonic() - told_at >= PROGRESS_SECONDS:
                    told_at = time.monotonic()
                    rate = outcome.runs / (told_at - start)
                    say(f"{target.name}: {outcome.runs:,} runs, {rate:,.0f}/s, coverage {outcome.coverage}")
            elif executed := EXECUTED.match(line):
                outcome.runs = int(executed[1])
            else:
                told.append(line)
    outcome.seconds = time.monotonic() - start
    outcome.passed = process.returncode == 0
    if not outcome.passed:
        sys.stderr.writelines(told[-60:])
        outcome.failed = max(set(artifacts.iterdir()) - before, key=lambda path: path.stat().st_mtime, default=None)
    return outcome


def table(outcomes: list[Outcome]) -> str:
    rows = [("target", "runs", "seconds", "runs/s", "coverage", "corpus", "result")]
    for outcome in outcomes:
        rate = outcome.runs / max(outcome.seconds, 0.001)
        figures = (f"{outcome.runs:,}", f"{outcome.seconds:.1f}", f"{rate:,.0f}")
        rows.append((outcome.target, *figures, str(outcome.coverage), str(outcome.inputs), outcome.result))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place in (0, 6) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )


def fuzz_all(targets: list[Target], runs: int | None, jobs: int) -> bool:
    binaries = build(targets)
    with ThreadPoolExecutor(max_workers=jobs) as workers:
        outcomes = list(workers.map(lambda target: fuzz(target, runs or target.runs, binaries), targets))
    print(f"\n{table(outcomes)}", flush=True)
    for outcome in outcomes:
        if outcome.failed:
            print(f"\nAgain with that input:\n    make fuzz INPUT={relative(outcome.failed)}")
    return all(outcome.passed for outcome in outcomes)


def replay(file: Path) -> bool:
    file = file.resolve()
    target = next((target for target in TARGETS if target.name == file.parent.name), None)
    if target is None or not file.is_file():
        raise FuzzError(f"{relative(file)} is no file in the folder of a target, such as fuzz/artifacts/etag/crash-…")
    binary = build([target]) / target.name
    return subprocess.run([binary, file], cwd=ROOT).returncode == 0


def main() -> None:
    names = {target.name: target for target in TARGETS}
    parser = argparse.ArgumentParser(description="Feeds the gateway's parsers with made-up input.")
    parser.add_argument("--runs", type=int, help="runs of each target, instead of its own number")
    parser.add_argument("--target", action="append", choices=names, help="one target instead of all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at a time; all cores if not given")
    parser.add_argument("--input", type=Path, help="run this one input only")
    args = parser.parse_args()
    try:
        if args.input:
            passed = replay(args.input)
        else:
            passed = fuzz_all([names[name] for name in args.target or names], args.runs, args.jobs)
    except FuzzError as error:
        sys.exit(f"fuzz: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
