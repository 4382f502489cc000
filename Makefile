# Build, test, run. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS += --no-print-directory

BINARY := gitlab_runner_fleet_exporter
TOOLS := .tools
# A count, not a time: at a deadline go test now and then calls the end a failure.
FUZZTIME ?= 20000x
# Go runs the tests of a package again when what it is built of, or a file that
# they opened, has changed. TESTFLAGS='-shuffle=on' runs all, in another order.
TESTFLAGS ?=

# Some environments build without VCS stamping, so the build does not rest on
# that; the date is the commit's, for builds that repeat.
PKG := github.com/prometheus/common/version
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
BRANCH ?= $(shell git rev-parse --abbrev-ref HEAD 2>/dev/null || echo unknown)
BUILD_DATE ?= $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X $(PKG).Version=$(VERSION) -X $(PKG).Revision=$(REVISION) -X $(PKG).Branch=$(BRANCH) -X $(PKG).BuildDate=$(BUILD_DATE)

.PHONY: help build tools test test-ship modules fmt vet lint fuzz rules vuln unit sim sim-health bench bench-compare bench-scale bench-queries demo docs pictures clean

help: ## this list
	@awk -F': .*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

build: ## the binary, static
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BINARY) .

demo: build ## run against a simulated GitLab
	./$(BINARY) --demo

tools: ## install what the tests need into .tools
	@test/tools.sh

test: tools modules fmt vet lint rules vuln unit ## everything that needs neither root nor a network

modules:
	@echo "== go mod verify"
	@go mod verify

fmt:
	@echo "== format"
	@out=$$($(TOOLS)/golangci-lint fmt --diff); if [ -n "$$out" ]; then echo "$$out"; echo "run: .tools/golangci-lint fmt"; exit 1; fi

vet:
	@echo "== go vet"
	@go vet ./...

lint:
	@echo "== golangci-lint"
	@$(TOOLS)/golangci-lint run

# `promtool test rules` runs as a Go test in alerts/. test/promcheck is a
# module of its own, so that Prometheus' tree stays out of ours.
rules:
	@echo "== promcheck: metrics and labels of rules and dashboards"
	@cd test/promcheck && go vet ./... && go test -count=1 ./...
	@echo "== promtool: rules"
	@$(TOOLS)/promtool check rules --lint=all --lint-fatal alerts/rules.yml

vuln:
	@echo "== govulncheck"
	@test/vuln.sh

fuzz: ## look for inputs that break a parser or a codec, each target FUZZTIME long
	@echo "== fuzz, $(FUZZTIME) each"
	@test/fuzz.sh $(FUZZTIME)

unit:
	@echo "== go test"
	@touch $(TOOLS)/extra-skips
	@go build -o $(TOOLS)/summary ./test/summary
	@go test -json -race $(TESTFLAGS) -timeout 30m ./... | $(TOOLS)/summary $(TOOLS)/extra-skips

test-ship: tools ## what needs root and a Debian, or minutes: the image, other people's clients, a full disk, packages and chart, breakages up to the notification
	@test/ship.sh

sim: ## the simulations at full size, the ledger's with a million jobs
	go test ./internal/monitor ./internal/inventory ./internal/queue -timeout 60m
	go test ./internal/ledger -run TestSimulation -timeout 60m -v -args -sim.jobs=1000000

sim-health: ## ten simulated months through the health rules, by GraphQL and by REST, and a week through the monitor (15 minutes)
	go run ./test/healthsim
	go test ./internal/monitor -run TestHealthWeek -timeout 30m -v -args -health.days=7

bench: ## every benchmark
	go test -run '^$$' -bench . -benchmem ./...

bench-compare: ## decode, fold, build and encode beside another commit, by benchstat: BASE=v1.0.0
	@test/bench-compare.sh "$(BASE)"

# SCALE passes flags, such as SCALE='-runners=100000 -limits=0': docs/performance.md.
bench-scale: ## measure the program against large simulated fleets (more than an hour)
	go run ./test/scale -ldflags '$(LDFLAGS)' $(SCALE)
	go test ./test/scale -run '^$$' -bench Scale -benchtime 300x -timeout 60m

bench-queries: tools ## rules and panels over 10,000 runners in a real Prometheus (25 minutes)
	go test ./dashboards -run '^$$' -bench AtScale -benchtime 1x -timeout 60m -args -scale.runners=10000 -scale.for=20m
	cd test/promcheck && go test -run '^$$' -bench RulesInAnOutage -benchtime 5x .

pictures: build tools ## draw the dashboards over the demonstration; needs chromium, node and pngquant
	dashboards/render/draw.sh

docs: ## write the generated parts of the documents
	go test ./docs -update

clean: ## remove what was built
	rm -rf $(BINARY) dist
