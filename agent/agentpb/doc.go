// Package agentpb is the protocol between the agent and those who ask it for
// Views: agent.proto and what is generated from it (make generate), nothing else.
package agentpb
