# One command each; `make help` prints the list below.
.DEFAULT_GOAL := help
.PHONY: setup up down test k8s-e2e check proto generate help lint format bench-start bench-soak bench-soak-search bench-structured bench-peers bench-chat bench-embed bench-perplexity bench-profile bench-rerank bench-gateway bench-affinity bench-autoscale drill bench-leaving bench-overload eval-rerank perf-analyzer openapi fuzz
BIN := .venv/bin
# The first Python on PATH that really is 3.11 (a pyenv shim may exist and not work).
PYTHON ?= $(or $(shell for p in python3.11 python3; do $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$p && break; done),python3)
TIERS := unit contract adapter architecture e2e
ARGS ?=
GEN ?= gen

setup: ## install everything into .venv and fetch the demo weights
	@command -v $(PYTHON) >/dev/null || { echo "setup: no $(PYTHON) on PATH. Debian: apt-get install python3.11 libpython3.11 python3.11-venv"; exit 1; }
	@$(PYTHON) -m mesh.bootstrap

up: setup ## start the mesh and wait until it answers; ARGS="--port 8400 ..." is passed on
	@$(BIN)/zhinao up --detach $(ARGS)

down: ## stop the mesh and leave nothing behind; ARGS="--state DIR" for another one
	@if [ -x $(BIN)/zhinao ]; then $(BIN)/zhinao down $(ARGS); else echo "nothing is installed, so nothing runs"; fi

test: setup ## run the whole test suite, tier by tier
	@for tier in $(TIERS); do if [ -d tests/$$tier ]; then echo "== tests/$$tier"; $(BIN)/pytest -q tests/$$tier || exit 1; fi; done

k8s-e2e: setup ## deploy every overlay of k8s/ to a real control plane, built once from Debian's sources, and write docs/kubernetes-e2e.txt; not part of make test
	@$(BIN)/pytest -q tests/k8s -p no:randomly --transcript docs/kubernetes-e2e.txt $(ARGS)

check: setup proto ## run every lint, type and contract check; fails on stale generated code
	@$(BIN)/pre-commit run --all-files
	@git diff --exit-code -- gen protos || { echo "check: protos/ or gen/ changed: commit what make proto wrote"; exit 1; }

lint: ## ruff and pyright only
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

format: ## rewrite the code in the project's format
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

proto: setup ## check the contracts and generate gen/ from them
	@PATH="$(CURDIR)/$(BIN):$$PATH" buf format -w protos
	@PATH="$(CURDIR)/$(BIN):$$PATH" buf lint
	@$(MAKE) --no-print-directory generate

openapi: setup ## write the OpenAPI document of the gateway's routes
	@$(BIN)/python -m services.gateway.document

generate: # the one command that writes generated code; a test runs it into a folder of its own
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m grpc_tools.protoc -I protos --python_out=$(GEN) --grpc_python_out=$(GEN) \
		--mypy_out=quiet:$(GEN) --mypy_grpc_out=quiet:$(GEN) $$(find protos -name '*.proto' | sort)

fuzz: setup ## ask the gateway over 5,000 things that its document allows or forbids; FUZZ_EXAMPLES=N per route
	@FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),400) $(BIN)/pytest -q -s --timeout 3600 tests/contract/gateway/test_fuzz.py

bench-start: setup ## measure an empty cache to the first token, and memory per process
	@$(BIN)/python -m bench.start $(ARGS)

bench-soak: setup ## load a mesh of its own for half an hour and watch its memory; ARGS="--help" explains
	@$(BIN)/python -m bench.soak $(ARGS)

bench-soak-search: setup ## ask a mesh of its own for 20,000 vectors and rankings and watch its memory
	@$(BIN)/python -m bench.soak_search $(ARGS)

bench-structured: setup ## answer 200 JSON schemas on the demo model and judge the answers
	@$(BIN)/python -m bench.structured $(ARGS)

bench-perplexity: setup ## measure what each number format costs in quality
	@$(BIN)/python -m bench.perplexity $(ARGS)

bench-peers: setup ## install the engines that the other benches compare with; some minutes of compiling
	@$(BIN)/python -m bench.peers.install

bench-chat: setup ## measure the chat engine beside its peers; ARGS="--help" explains
	@$(BIN)/python -m bench.chat $(ARGS)

bench-embed: setup ## measure the encoder beside its peers; ARGS="--help" explains
	@$(BIN)/python -m bench.search embed $(ARGS)

bench-rerank: setup ## measure rerankers beside their peers; ARGS="--help" explains
	@$(BIN)/python -m bench.search rerank $(ARGS)

drill: setup ## break parts of a mesh of its own under load and tell what clients saw; some minutes
	@$(BIN)/python -m bench.drill $(ARGS)

bench-affinity: setup ## measure what it is worth that a conversation returns to its worker
	@$(BIN)/python -m bench.affinity $(ARGS)

bench-autoscale: setup ## replay a trace of load to a mesh that scales itself
	@$(BIN)/python -m bench.autoscale $(ARGS)

bench-gateway: setup ## measure what the gateway costs beside LiteLLM's and SMG; ARGS="--help" explains
	@$(BIN)/python -m bench.gateway $(ARGS)

bench-leaving: setup ## let a thousand clients leave a mesh of its own and see that nothing stays behind
	@$(BIN)/python -m bench.leaving $(ARGS)

bench-overload: setup ## ask ten times what a model can do and see whether refusals tell the truth
	@$(BIN)/python -m bench.overload $(ARGS)

eval-rerank: setup ## order real candidates with the reranker and judge the order
	@$(BIN)/python -m bench.rerank_quality $(ARGS)

bench-profile: setup ## show where the time of an engine step goes
	@$(BIN)/python -m bench.profile

perf-analyzer: setup ## run NVIDIA's perf_analyzer against every kind of model; ARGS="--help" explains
	@$(BIN)/python -m bench.perf_analyzer $(ARGS)

help: ## print this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):[^#]*## (.*)/\1\t\2/' | expand -t 19
