# Everything that is done to a checkout. `make help` lists it.
#
# Each recipe is one or two commands; what is longer is Rust (the crate local/) or a script.

CARGO := cargo
HUTONG := $(or $(CARGO_TARGET_DIR),target)/debug/hutong
DENY_VERSION := 0.20.2
MACHETE_VERSION := 0.9.2
# KEEP=1 leaves the demo running and prints where it is.
KEEP ?=
# How many seeds `make soak` runs.
SEEDS ?= 10
# Which benchmarks `make bench` runs, by the beginnings of their names; all if empty.
ONLY ?=
# How often `make bench` and `make bench-peers` measure each pair; 5 and 3 times if empty.
TURNS ?=

export PATH := $(HOME)/.cargo/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo test soak bench bench-peers up down fmt lint golden doc build prerequisites

help: ## Shows this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: build ## Plays the four departments on servers of its own; KEEP=1 leaves them up.
	$(HUTONG) demo $(if $(KEEP),--keep)

test: prerequisites ## Starts servers and runs every test.
	$(CARGO) test --locked --workspace --no-run
	$(HUTONG) local test -- $(CARGO) test --locked --workspace

soak: prerequisites ## Repeats the tests of kills and of views that change, with SEEDS=n seeds.
	$(CARGO) test --locked --package hutong --no-run
	SOAK_SEEDS=$(SEEDS) $(HUTONG) local test -- $(CARGO) test --locked --package hutong --test main -- --nocapture --test-threads=1 every_change_is_delivered whatever_changes_at_once

bench: prerequisites ## Measures speed and memory beside the machine's limits; ONLY="stream sink" picks.
	TURNS=$(TURNS) $(CARGO) bench --locked --package hutong --bench main -- $(ONLY)

bench-peers: prerequisites ## Measures beside Debezium, exactly once on both sides; ONLY="peer_stream" picks.
	TURNS=$(TURNS) $(CARGO) bench --locked --package hutong --bench main -- peers $(ONLY)

up: build ## Starts a local platform on the standard ports.
	$(HUTONG) up

down: ## Stops what `make up` has started.
	$(HUTONG) down

fmt: ## Formats the source.
	$(CARGO) fmt --all

lint: prerequisites ## Checks format, lints, documentation links, licences and unused dependencies.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items
	PATH="$$(scripts/tool cargo-deny $(DENY_VERSION)):$$PATH" cargo-deny check bans licenses sources
	PATH="$$(scripts/tool cargo-deny $(DENY_VERSION)):$$PATH" scripts/advisories
	PATH="$$(scripts/tool cargo-machete $(MACHETE_VERSION)):$$PATH" cargo-machete

golden: prerequisites ## Writes the golden files anew; look at the difference before committing it.
	$(CARGO) test --locked --workspace --no-run
	INSTA_UPDATE=always $(HUTONG) local test -- $(CARGO) test --locked --workspace

doc: prerequisites ## Builds the documentation of the code.
	$(CARGO) doc --locked --workspace --no-deps

build: prerequisites
	$(CARGO) build --locked --package hutong

prerequisites:
	@scripts/prerequisites build
	@scripts/prerequisites servers
