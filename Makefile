# The commands of everyday work. `make help` lists them.

.DEFAULT_GOAL := help
.PHONY: help build test race lint fuzz corpus soak golden generate proto fixtures bench clients ci

LINT := go tool -modfile=tools/lint/go.mod

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build the binary, bin/tandem
	CGO_ENABLED=0 go build -o bin/tandem ./cmd/tandem

test: ## run all tests
	go test ./...

race: ## run the tests of the concurrent packages under the race detector
	.ci/run race

lint: ## format, vet, and run golangci-lint and the house's own tests
	.ci/run format tidy vet lint
	go test ./internal/lint

fuzz: ## run each fuzz target for some seconds
	.ci/run fuzz

CORPUS ?= 10

corpus: ## make the fuzz targets' kept inputs, testdata/fuzz, anew: CORPUS (10) seconds each
	scripts/corpus $(CORPUS)

SOAK ?= 5m

soak: ## connect, kill and reconnect m2n's peers for SOAK (5m), 100,000 times at least
	go test -count=1 -timeout 60m -v -run '^TestSoak$$' ./m2n -soak.for=$(SOAK)

golden: ## check the golden bits with GOAMD64=v3 and as linux/arm64
	.ci/run golden

generate: ## make the generated files, and sections of docs, again
	go generate ./...

proto: ## make the code of the cluster's protocol again, after a change in proto/
	GOBIN=$(CURDIR)/bin/proto go install github.com/bufbuild/buf/cmd/buf@v1.66.0
	GOBIN=$(CURDIR)/bin/proto go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	GOBIN=$(CURDIR)/bin/proto go install connectrpc.com/connect/cmd/protoc-gen-connect-go@v1.21.1
	cd proto && export PATH="$(CURDIR)/bin/proto:$$PATH" && buf lint && buf generate

fixtures: ## make the models and numbers in testdata again (needs Python with torch and transformers)
	python3 scripts/fixtures/make.py testdata/models
	python3 scripts/fixtures/rope.py layer/testdata/rope.json

bench: ## run the Go benchmarks six times and print their statistics
	@mkdir -p bin
	go test -run '^$$' -bench . -count 6 ./... | tee bin/bench.txt
	$(LINT) benchstat bin/bench.txt

clients: ## try clients that others wrote, from PyPI and Debian, and print docs/clients.md's table
	scripts/clients/run

ci: ## all that a change must hold; see .ci/run
	.ci/run
