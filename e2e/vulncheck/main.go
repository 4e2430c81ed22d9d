// Command vulncheck looks for known vulnerabilities in what this repository's modules
// and binaries call, with govulncheck.
//
//	vulncheck -govulncheck FILE [-db URL] [-binary FILE] MODULE...
//	vulncheck -renew CLONE -snapshot FILE
//
// It owns where govulncheck's facts come from: Go's public database or, where that
// cannot be reached, a snapshot of it that is part of this program. An answer from the
// snapshot is as old as the snapshot, and says so; what cannot be checked at all is an
// error, never a pass.
//
// With -renew it makes the snapshot anew from CLONE, a clone of
// github.com/golang/vulndb.
package main

import (
	"context"
	_ "embed"
	"flag"
	"log"
	"os"
	"os/signal"
)

// snapshot is all of Go's vulnerability database that govulncheck needs, for every
// module, so that one we come to depend on later is known too. The data is that of
// the Go vulnerability database (https://vuln.go.dev), under CC-BY 4.0, without its
// texts.
//
//go:embed vulndb.jsonl.gz
var snapshot []byte

func main() {
	log.SetFlags(0)
	log.SetPrefix("vulncheck: ")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	c := check{snapshot: snapshot, out: os.Stdout}
	flag.StringVar(&c.govulncheck, "govulncheck", "govulncheck", "the program to run")
	flag.StringVar(&c.db, "db", "https://vuln.go.dev", "vulnerability database, as govulncheck's -db")
	flag.StringVar(&c.binary, "binary", "", "also check this binary")
	clone := flag.String("renew", "", "make the snapshot anew from this clone of github.com/golang/vulndb")
	to := flag.String("snapshot", "vulndb.jsonl.gz", "with -renew: file to write")
	flag.Parse()
	c.modules = flag.Args()
	var err error
	if *clone != "" {
		err = renew(ctx, *clone, *to)
	} else {
		err = c.run(ctx)
	}
	if err != nil {
		log.Fatal(err)
	}
}
