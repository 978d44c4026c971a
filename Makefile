# Every target is one script or one command; see `make help`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help engine tools build demo demo-container run clients test lint soak bench clean-engine

BUF := .cache/tools/npm/node_modules/.bin/buf

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

engine: ## Make sure that a Docker engine answers
	@scripts/engine

tools: ## Install what the tests need
	@scripts/tools

build: ## Build the release binary
	cargo build --release

demo: ## Show the whole service on a real engine, then clean up
	@scripts/demo

demo-container: ## The same with the service itself in a container
	@scripts/demo --container

run: ## Keep a server running on 127.0.0.1:11337
	@scripts/serve

clients: tools ## Make the generated code of the clients anew from the proto
	@scripts/clients

lint: tools ## Formatting, clippy, docs, licences, protos
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet
	.cache/tools/bin/cargo-deny --log-level error check bans licenses sources
	$(BUF) lint
	@scripts/buf-breaking $(BUF)
	@scripts/clients --check

test: engine tools lint ## Everything: lint, Rust tests, third-party clients
	@scripts/demo-image
	@# Without traces, what failed and why is the last that is printed.
	RUST_BACKTRACE=0 cargo test
	tests/third_party/run

soak: engine ## Kill the service 50 times while containers print 1,000,000 lines
	@scripts/tools demo && scripts/demo-image
	SOAK_KILLS=$${SOAK_KILLS:-50} SOAK_LINES=$${SOAK_LINES:-1000000} \
		cargo test --release --test it logs::kills:: -- --nocapture --test-threads 1
	SOAK_SPECS=$${SOAK_SPECS:-100} SOAK_OTHERS=$${SOAK_OTHERS:-400} \
		cargo test --release --test it health::crowds::each -- --nocapture
	PROPTEST_CASES=$${SOAK_CASES:-100000} cargo test --release --lib fuzz_

bench: engine ## Side by side with the raw engine
	@scripts/tools demo && scripts/demo-image
	cargo bench --bench side_by_side

clean-engine: ## Stop the engine that scripts/engine started
	@scripts/engine stop
