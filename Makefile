.PHONY: generate
generate:
	cd agent/agentpb && go build -o ../../build/tools/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	PATH="$(CURDIR)/build/tools:$$PATH" protoc -I agent/agentpb --go_out=agent/agentpb --go_opt=paths=source_relative \
		--go-grpc_out=agent/agentpb --go-grpc_opt=paths=source_relative agent.proto
