# Build, test, run. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS += --no-print-directory

BINARY := gitlab_runner_fleet_exporter
TOOLS := $(CURDIR)/.tools
EXTRA_SKIPS := $(TOOLS)/extra-skips
# A count, not a time: at a deadline go test now and then calls the end a failure.
FUZZTIME ?= 20000x

# What the tests need, at versions that resolve and build together:
# name, package, version, build tags.
define TOOL_LIST
golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint v2.15.0
promtool github.com/prometheus/prometheus/cmd/promtool v0.316.0 remove_all_sd
prometheus github.com/prometheus/prometheus/cmd/prometheus v0.316.0 remove_all_sd
alertmanager github.com/prometheus/alertmanager/cmd/alertmanager v0.31.1
amtool github.com/prometheus/alertmanager/cmd/amtool v0.31.1
govulncheck golang.org/x/vuln/cmd/govulncheck v1.9.0
endef
export TOOL_LIST

# The build tells who it is. Some environments build without VCS stamping, so it
# does not rest on that; the date is the commit's, for builds that repeat.
PKG := github.com/prometheus/common/version
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
BRANCH ?= $(shell git rev-parse --abbrev-ref HEAD 2>/dev/null || echo unknown)
BUILD_DATE ?= $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X $(PKG).Version=$(VERSION) -X $(PKG).Revision=$(REVISION) -X $(PKG).Branch=$(BRANCH) -X $(PKG).BuildDate=$(BUILD_DATE)

.PHONY: help build tools test test-ship fmt vet lint fuzz rules vuln unit sim bench bench-compare bench-scale bench-queries demo docs pictures clean

help: ## this list
	@awk -F': .*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

build: ## the binary, static
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BINARY) .

demo: build ## run against a simulated GitLab
	./$(BINARY) --demo

tools: ## install what the tests need into .tools
	@mkdir -p $(TOOLS)
	@while read -r name package version tags; do \
	  have=$$(go version -m "$(TOOLS)/$$name" 2>/dev/null | awk '$$1 == "mod" {print $$3}' || true); \
	  if [ "$$have" != "$$version" ]; then \
	    echo "install $$name $$version"; \
	    GOBIN=$(TOOLS) go install $${tags:+-tags "$$tags"} "$$package@$$version" </dev/null; \
	  fi; \
	done <<<"$$TOOL_LIST"

test: tools fmt vet lint rules vuln unit ## everything that needs neither root nor a network

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

# govulncheck ends with 3 where it found something, and otherwise with 1 where
# its database does not answer: that is a skip, told by name.
vuln:
	@echo "== govulncheck"
	@: >$(EXTRA_SKIPS)
	@code=0; out=$$($(TOOLS)/govulncheck ./... 2>&1) || code=$$?; \
	case $$code in \
	  0) ;; \
	  3) echo "$$out"; exit 1 ;; \
	  *) if grep -qiE 'fetching|dial |lookup|timeout|connection|vuln(erability)? database|unexpected status|403|404' <<<"$$out"; then \
	       printf 'govulncheck\tits database does not answer\n' >>$(EXTRA_SKIPS); \
	     else echo "$$out"; exit 1; fi ;; \
	esac

# Looks for new inputs. The committed ones are run by go test, so `make test`
# has the same outcome each time; what is found here is committed beside them.
fuzz: ## look for inputs that break a parser or a codec, each target FUZZTIME long
	@echo "== fuzz, $(FUZZTIME) each"
	@grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' --exclude-dir=.tools . | while IFS=: read -r file func; do \
	  out=$$(go test -run='^$$' -fuzz="^$${func#func }$$" -fuzztime=$(FUZZTIME) "$$(dirname "$$file")" 2>&1 </dev/null) || { echo "$$out"; exit 1; }; \
	done

unit:
	@echo "== go test"
	@touch $(EXTRA_SKIPS)
	@go build -o $(TOOLS)/summary ./test/summary
	@go test -json -race -shuffle=on -timeout 15m ./... | $(TOOLS)/summary $(EXTRA_SKIPS)

# Packages of the system that the ship tests drive.
SHIP_PACKAGES := python3-gitlab ruby ruby-graphql prometheus prometheus-alertmanager buildah podman runc busybox-static ca-certificates

# By itself: it is about when something arrives, and what builds images beside
# it would be in the way.
BREAKAGES := go test -json -tags ship -run ShipBreakages -count=1 -timeout 30m ./test/breakages | $(TOOLS)/summary

test-ship: tools ## what needs root and a Debian, or minutes: the image, other people's clients, a full disk, eight breakages up to the letter that arrives
	@[ "$$(id -u)" = 0 ] || { echo "make test-ship needs root: it installs packages and builds an image"; exit 1; }
	@echo "== packages"
	@dpkg -s $(SHIP_PACKAGES) >/dev/null 2>&1 || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SHIP_PACKAGES) </dev/null >/dev/null; }
	@mkdir -p $(TOOLS)
	@go build -o $(TOOLS)/summary ./test/summary
	@echo "== go test -tags ship"
	@go test -json -tags ship -run Ship -count=1 -timeout 30m $$(go list ./... | grep -v test/breakages) | $(TOOLS)/summary
	@echo "== eight breakages, in real time (nine minutes)"
	@$(BREAKAGES) || { echo "once more: forty times as fast as life, a machine that stalls for a second stalls for 40 s"; $(BREAKAGES); }

sim: ## the ledger's simulation with a million jobs
	go test ./internal/ledger -run TestSimulation -timeout 60m -v -args -sim.jobs=1000000

bench: ## every benchmark
	go test -run '^$$' -bench . -benchmem ./...

BENCHSTAT_VERSION := v0.0.0-20260908200009-22c9c6c9d4da
# What a reading costs (decode, fold) and what a picture costs (build, encode).
BENCH_COMPARE := ^Benchmark(JobsPage|RunnersPage|Fold|Counters|ListedAndFleet|Publish|Scrape)$$
BENCH_PACKAGES := ./internal/gitlab ./internal/ledger ./internal/inventory ./collector

bench-compare: ## decode, fold, build and encode beside another commit, by benchstat: BASE=v1.0.0
	@[ -n "$(BASE)" ] || { echo "say with what to compare: make bench-compare BASE=<commit or tag>"; exit 1; }
	@mkdir -p $(TOOLS)
	@[ -x $(TOOLS)/benchstat ] || GOBIN=$(TOOLS) go install golang.org/x/perf/cmd/benchstat@$(BENCHSTAT_VERSION)
	@git worktree remove --force $(TOOLS)/base 2>/dev/null || true
	git worktree add --quiet --detach $(TOOLS)/base $(BASE)
	@for round in 1 2 3 4 5 6; do \
	  (cd $(TOOLS)/base && go test -run '^$$' -bench '$(BENCH_COMPARE)' -benchmem -benchtime 0.3s $(BENCH_PACKAGES)) >>$(TOOLS)/base.txt.new; \
	  go test -run '^$$' -bench '$(BENCH_COMPARE)' -benchmem -benchtime 0.3s $(BENCH_PACKAGES) >>$(TOOLS)/this.txt.new; \
	done
	@mv $(TOOLS)/base.txt.new $(TOOLS)/base.txt; mv $(TOOLS)/this.txt.new $(TOOLS)/this.txt
	@git worktree remove --force $(TOOLS)/base
	@cd $(TOOLS) && ./benchstat base.txt this.txt

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
