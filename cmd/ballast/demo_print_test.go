package main

import (
	"testing"
	"time"
)

func TestReportWritesAmountsForPeople(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 9_960: "10 kB", 302_123_456: "302 MB", 999_600_000: "1.0 GB", 15e12: "15 TB"} {
		if got := sizeText(n); got != want {
			t.Errorf("sizeText(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{3200 * time.Microsecond: "3.2 ms", 310 * time.Millisecond: "310 ms", 2410 * time.Millisecond: "2.41 s"} {
		if got := timeText(d); got != want {
			t.Errorf("timeText(%s) = %q, want %q", d, got, want)
		}
	}
}
