// Package e2e owns the tests that need what nobody here wrote: a Hub of other
// hands (github.com/matrixhub-ai/hfd), the real huggingface_hub clients, and, in
// image, the container image that users run; vulncheck checks what both are made of.
// It is a module of its own, so that what the tests need never becomes part of the
// product.
//
// Versions are pinned: Go modules in go.mod, Python clients in clients.go.
package e2e
