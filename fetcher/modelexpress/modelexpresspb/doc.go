// Package modelexpresspb is Model Express's protocol, as far as it is used here:
// modelexpress.proto and what is generated from it (make generate), nothing else.
package modelexpresspb
