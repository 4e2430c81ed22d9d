# Everything needs only Go (see go.mod for the version) and make, but for `test`,
# whose race detector needs a C compiler, `e2e-hub`, which needs python3-venv, and
# `e2e`, which says what it needs.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 1m
GO_FILES = $(shell git ls-files --cached --others --exclude-standard '*.go')

.PHONY: build demo test test-long fuzz e2e-hub e2e-modelexpress e2e e2e-node e2e-scenarios e2e-pod-image lint fmt-check vet staticcheck vulncheck vulndb verify image reproducible generate

build:
	go build -trimpath -buildvcs=false -ldflags "-X main.version=$(VERSION)" -o build/ballast ./cmd/ballast

# The main job from end to end on this machine: no cluster, no internet.
demo: build
	build/ballast demo

# Every test but e2e. Tests that mount re-execute themselves in namespaces.
test: need-cc
	go test -race ./...
	@$(MAKE) --no-print-directory fuzz FUZZTIME=3s

# What is too long for every edit.
test-long:
	go test -count=1 -timeout 20m -run 'Hostile|Fleet' ./agent -long

# Every fuzz target for FUZZTIME each. What makes one fail is left in its package's
# testdata/fuzz: commit it, and every "go test" tries it from then on. Before Go 1.27 the
# end of FUZZTIME itself may be told as a failure, which has no input (go.dev/issue/75804).
fuzz:
	@mkdir -p build
	@dirs=$$(grep -rl '^func Fuzz' --include='*_test.go' agent cmd csi fetcher | xargs -r -n1 dirname | sort -u); \
	test -n "$$dirs" || { echo "fuzz: there is no target" >&2; exit 1; }; \
	for dir in $$dirs; do \
		listed=$$(go test -list '^Fuzz' "./$$dir") || { echo "$$listed"; exit 1; }; \
		targets=$$(echo "$$listed" | grep '^Fuzz') || { echo "fuzz: ./$$dir has no target, though one of its files says so" >&2; exit 1; }; \
		for target in $$targets; do \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s "./$$dir" >build/fuzz.log 2>&1 || \
				{ grep -qx '    context deadline exceeded' build/fuzz.log && ! grep -q 'Failing input' build/fuzz.log; } || { cat build/fuzz.log; exit 1; }; \
			execs=$$(sed -n 's/.*\(execs\|coverage\): \([0-9]*\).*/\2/p' build/fuzz.log | tail -n 1); \
			test "$${execs:-0}" -gt 0 || { cat build/fuzz.log; echo "fuzz: ./$$dir $$target ran nothing" >&2; exit 1; }; \
			echo "fuzz $$dir $$target for $(FUZZTIME): $$execs execs"; \
		done; \
	done

# A Hub and clients that nobody here wrote; downloads pinned Python packages.
e2e-hub:
	cd e2e && go test -v -count=1 -timeout 15m . ./hub ./image ./oci ./pod/... ./vulncheck

# A Model Express server and its own client, from their registries. Building the server
# needs cargo and protoc and takes some seven minutes, once; MODEL_EXPRESS_TEST_OLD=1 has
# an older release built too. MODEL_EXPRESS_TEST_URL and MODEL_EXPRESS_TEST_DIR, its cache
# on this machine, name another server to try.
e2e-modelexpress:
	cd e2e && go test -v -count=1 -timeout 40m ./modelexpress

# What the scenarios' pods run, for a cluster of your own (KUBECONFIG).
e2e-pod-image:
	mkdir -p build/tools
	cd e2e && go build -buildvcs=false -o ../build/tools/image ./image
	build/tools/image -module . -out build -pod

# Ballast on a real Kubernetes node, as root. What it is made of is built once, by
# e2e-node, into the user's cache directory. Scenarios that disturb run one after
# another, then those that only wait run together. E2E='Refus|TenPods' runs those that
# match.
# The node is ours unless an image to run on another cluster is given.
e2e: $(if $(BALLAST_E2E_IMAGE),,e2e-node) e2e-scenarios

e2e-scenarios:
	cd e2e && go test -v -count=1 -timeout 30m -parallel 16 -run '$(E2E)' ./cluster

# That node by itself: it starts, and leaves nothing behind.
e2e-node:
	cd e2e && go test -v -count=1 -timeout 45m ./node

# build/ballast-image.tar, an OCI layout for linux/amd64 and linux/arm64, and
# build/ballast.cdx.json, what it is made of, which is attached to it.
image:
	mkdir -p build/tools
	cd e2e && go build -buildvcs=false -o ../build/tools/image ./image
	build/tools/image -module . -out build -version '$(VERSION)' $(if $(PUSH),-push '$(PUSH)')

# The image is the same bytes wherever it is built.
reproducible:
	VERSION='$(VERSION)' .ci/reproducible

lint: fmt-check vet staticcheck

fmt-check:
	@bad=$$(gofmt -l $(GO_FILES)); test -z "$$bad" || { echo "not formatted (gofmt -w):"; echo "$$bad"; exit 1; }

vet:
	go vet ./...
	cd e2e && go vet ./...

staticcheck:
	go build -buildvcs=false -o build/tools/ honnef.co/go/tools/cmd/staticcheck
	build/tools/staticcheck ./...
	cd e2e && ../build/tools/staticcheck ./...

.PHONY: need-cc
need-cc:
	@mkdir -p build
	@command -v "$$(go env CC)" >/dev/null || { echo "the race detector needs a C compiler: apt-get install gcc libc6-dev" >&2; exit 1; }

# Known vulnerabilities in what our code calls, by Go's database (GOVULNDB) or, where
# that cannot be reached, by the snapshot of it in e2e/vulncheck.
GOVULNDB ?= https://vuln.go.dev
vulncheck: build
	go build -buildvcs=false -o build/tools/ golang.org/x/vuln/cmd/govulncheck
	cd e2e && go build -buildvcs=false -o ../build/tools/vulncheck ./vulncheck
	build/tools/vulncheck -db '$(GOVULNDB)' -govulncheck build/tools/govulncheck -binary build/ballast . e2e

# That snapshot anew, from VULNDB, a clone of github.com/golang/vulndb.
vulndb:
	cd e2e/vulncheck && go run . -renew '$(abspath $(VULNDB))'

# Every module is what go.sum says, and go.mod says what is needed.
verify:
	@set -e; for dir in . e2e e2e/kubernetes; do (cd "$$dir" && echo "$$dir" && go mod verify && go mod tidy -diff); done

generate:
	cd agent/agentpb && go build -buildvcs=false -o ../../build/tools/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	for proto in agent/agentpb/agent.proto fetcher/modelexpress/modelexpresspb/modelexpress.proto; do \
		dir=$$(dirname $$proto); PATH="$(CURDIR)/build/tools:$$PATH" protoc -I $$dir --go_out=$$dir --go_opt=paths=source_relative \
			--go-grpc_out=$$dir --go-grpc_opt=paths=source_relative $$(basename $$proto) || exit; \
	done
