package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// report writes what the demo does: titles, a line for each check, and progress. On a
// terminal progress is one line that moves, elsewhere a plain line now and then.
type report struct {
	end      context.Context // once it has ended, nothing more fails
	terminal bool
	width    int // columns
	colour   bool

	mu     sync.Mutex // guards what follows
	out    io.Writer
	bar    bool // the cursor is on a line of progress
	steps  int
	checks int
	failed int
}

const (
	claimWidth = 34 // columns of what a check shows; its figure follows
	plainWidth = 110
	minWidth   = 72
	// maxLines is how many lines of figure fit beside a claim; more go below it.
	maxLines = 3
)

// newReport reports to out until ctx ends.
func newReport(ctx context.Context, out io.Writer) *report {
	r := &report{end: ctx, out: out, width: plainWidth}
	f, ok := out.(*os.File)
	if !ok {
		return r
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return r
	}
	r.terminal = true
	r.colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	if size.Col > 0 {
		r.width = max(minWidth, min(plainWidth, int(size.Col)-1))
	}
	return r
}

// title begins a part of the demo.
func (r *report) title(format string, args ...any) {
	r.line("\n" + r.paint("1", fmt.Sprintf(format, args...)))
}

// step is a title with the next number.
func (r *report) step(format string, args ...any) {
	r.steps++
	r.title("%d  %s", r.steps, fmt.Sprintf(format, args...))
}

// note tells something that is no check.
func (r *report) note(format string, args ...any) {
	r.line(r.wrap("    ", fmt.Sprintf(format, args...)))
}

// check prints one claim with its figure, or with err if it does not hold. It returns
// whether it holds.
func (r *report) check(claim string, err error, figure string, args ...any) bool {
	if err != nil && r.end.Err() != nil {
		return false // it was cut short
	}
	mark, text := r.paint("32", "✓"), fmt.Sprintf(figure, args...)
	if err != nil {
		mark, text = r.paint("31", "✗"), err.Error()
	}
	r.mu.Lock()
	r.checks++
	if err != nil {
		r.failed++
	}
	r.mu.Unlock()
	column := strings.Repeat(" ", 4+claimWidth+1)
	if lines := r.wrap(column, text); strings.Count(lines, "\n") < maxLines {
		r.line(fmt.Sprintf("  %s %-*s %s", mark, claimWidth, claim, strings.TrimLeft(lines, " ")))
	} else {
		r.line(fmt.Sprintf("  %s %s\n%s", mark, claim, r.wrap("      ", text)))
	}
	return err == nil
}

// skip says that a check is left out, and why.
func (r *report) skip(claim, why string) {
	r.line(fmt.Sprintf("  - %-*s left out: %s", claimWidth, claim, why))
}

// totals returns how many checks there were and how many did not hold.
func (r *report) totals() (checks, failed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.checks, r.failed
}

func (r *report) line(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
	fmt.Fprintln(r.out, text)
}

// clear removes the line of progress. mu is held.
func (r *report) clear() {
	if r.bar {
		fmt.Fprint(r.out, "\r\x1b[K")
		r.bar = false
	}
}

// paint sets text in an SGR style of ECMA-48 ("1" bold, "31" red, "32" green).
func (r *report) paint(style, text string) string {
	if !r.colour {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// wrap breaks text at spaces, with indent before each line.
func (r *report) wrap(indent, text string) string {
	var lines []string
	line := indent
	for _, word := range strings.Fields(text) {
		if line != indent && len([]rune(line))+1+len([]rune(word)) > r.width {
			lines, line = append(lines, line), indent
		}
		if line != indent {
			line += " "
		}
		line += word
	}
	return strings.Join(append(lines, line), "\n")
}

// progress shows how far something is, as poll says (bytes; total 0: not known yet),
// until stop is called.
func (r *report) progress(what string, poll func() (done, total int64)) (stop func()) {
	every := time.Second
	if r.terminal {
		every = 100 * time.Millisecond
	}
	quit, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(every)
		defer tick.Stop()
		begun, last := time.Now(), int64(0)
		first, _ := poll()
		for {
			select {
			case <-tick.C:
				done, total := poll()
				if r.terminal || done != last {
					r.showProgress(what, done, total, rateOf(done-first, time.Since(begun)))
				}
				last = done
			case <-quit:
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-gone
		r.mu.Lock()
		defer r.mu.Unlock()
		r.clear()
	}
}

func (r *report) showProgress(what string, done, total, rate int64) {
	const cells = 28
	text := "waiting for the Hub"
	if done > 0 {
		text = sizeText(done)
	}
	if total > 0 {
		done = min(done, total)
		full := int(cells * done / total)
		text = fmt.Sprintf("[%s%s] %3d%%  %s of %s", strings.Repeat("█", full), strings.Repeat("·", cells-full),
			100*done/total, sizeText(done), sizeText(total))
		if !r.terminal {
			text = fmt.Sprintf("%3d%%  %s of %s", 100*done/total, sizeText(done), sizeText(total))
		}
	}
	text = fmt.Sprintf("    %-9s %s", what, text)
	switch {
	case total > 0 && done == total:
		text += ", making it durable"
	case rate > 0:
		text += fmt.Sprintf("  %s/s", sizeText(rate))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
	if !r.terminal {
		fmt.Fprintln(r.out, text)
		return
	}
	if runes := []rune(text); len(runes) > r.width {
		text = string(runes[:r.width])
	}
	fmt.Fprint(r.out, text)
	r.bar = true
}

// rateOf returns bytes a second.
func rateOf(bytes int64, took time.Duration) int64 {
	return int64(float64(bytes) / max(took.Seconds(), 0.001))
}

// sizeText writes a number of bytes for people, in powers of ten: "314 MB".
func sizeText(n int64) string {
	value, unit := float64(n), ""
	for _, u := range []string{"k", "M", "G", "T"} {
		if value < 999.5 {
			break
		}
		value, unit = value/1000, u
	}
	if unit != "" && value < 9.95 {
		return fmt.Sprintf("%.1f %sB", value, unit)
	}
	return fmt.Sprintf("%.0f %sB", value, unit)
}

// timeText writes a duration for people: "2.41 s", "310 ms", "3.2 ms".
func timeText(d time.Duration) string {
	switch ms := float64(d) / float64(time.Millisecond); {
	case ms < 9.95:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 999.5:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

// countText writes a number of things: "1 file", "309 files".
func countText(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}
