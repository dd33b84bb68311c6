# `make` lists what there is. Tools that are missing are installed by `make setup` (Debian 12; elsewhere it names them).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup build images run demo pictures bench test test-all e2e lint clean

# Before cargo: the cache, and a cargo that is new enough.
env := source .ci/env;

# The agent needs root to load programs into the kernel.
as_root := $$([[ $$EUID == 0 ]] || echo --config "target.$$(rustc -vV | sed -n 's/^host: //p').runner='sudo'")

# What is built here is meant to run: without the BPF toolchain that is an error, not a warning.
build images run demo pictures test test-all e2e: export SCOPE_HTTP_STATISTICS_BPF_REQUIRED := 1

help:
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 8

setup: ## install what is missing to build and run
	.ci/setup

build: ## build agent and operator for release
	$(env) cargo build --release --bins -p scope-http-statistics-agent -p scope-http-statistics-operator

images: ## images of agent and operator, with their bills of materials, as target/images/*.tar
	.ci/setup images
	$(env) cargo xtask images $(ARGS)

run: ## run the agent in the foreground; flags in ARGS="…"
	$(env) cargo run --release $(as_root) -p scope-http-statistics-agent -- run $(ARGS)

demo: setup ## install, build, and watch the agent count a real nginx
	$(env) cargo build --release --bins -p scope-http-statistics-agent
	$(env) cargo run --release $(as_root) -p scope-http-statistics-agent --example demo

pictures: ## make the README's pictures from what a real agent shows over a real nginx; needs tmux
	$(env) cargo build --release --bins --example demo --example pictures -p scope-http-statistics-agent
	.ci/pictures

bench: setup ## measure what it costs (docs/internals/benchmarks.md), in a quarter of an hour; RECORD=1 writes the results there
	.ci/bench $(if $(RECORD),--record)

test: ## checks and tests by risk: this kernel, five others in guests, an API server, a node; ARGS="--tier lint"
	.ci/setup test
	$(env) cargo xtask test $(ARGS)

test-all: ## all of them
	.ci/setup images
	.ci/setup test
	$(env) cargo xtask test --all $(ARGS)

e2e: ## the chart and the images on a real cluster of one node, or with E2E_KUBECONFIG=… on yours
	.ci/e2e

lint: ## formatting, clippy, documentation, dependencies, scripts, workflows
	.ci/setup lint
	$(env) cargo xtask test --tier lint

clean: ## remove what was built; not the cache outside the checkout
	$(env) cargo clean
