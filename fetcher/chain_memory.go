package fetcher

import (
	"slices"
	"sync"
	"time"
)

const (
	// A Source whose bytes did not match a Digest is marked for that Digest.
	firstMark, longestMark = 10 * time.Second, 10 * time.Minute
	// A Source that cannot be reached, or stalls, rests.
	firstRest, longestRest = 2 * time.Second, 30 * time.Second
	// maxMarks bounds the marks kept. One that is not kept costs another mismatch.
	maxMarks = 4096
)

// memory is what an Engine remembers of Sources in trouble: it decides in which order they
// are asked, and which of them are not asked for now, others being able to help.
type memory struct {
	mu    sync.Mutex // guards all below
	marks map[mark]marked
	rests map[string]backoff // by the Source's name
}

type mark struct {
	source string
	digest Digest
}

// marked says how long a mark lasts, and for what bytes it was made.
type marked struct {
	backoff
	mismatch *MismatchError
}

type backoff struct {
	until  time.Time
	length time.Duration
	probed bool // over; somebody tries how it is now, until then
}

// more is the backoff after one more trouble. What comes while it lasts is the same trouble.
func (b backoff) more(now time.Time, first, longest time.Duration) backoff {
	if now.Before(b.until) && !b.probed {
		return b
	}
	length := min(max(first, 2*b.length), longest)
	return backoff{until: now.Add(length), length: length}
}

// mark notes that the bytes of these Sources, which only one of them need have spoilt, did
// not match d.
func (m *memory) mark(d Digest, mismatch *MismatchError, sources ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for _, s := range sources {
		key := mark{s, d}
		b, known := m.marks[key]
		if m.marks == nil || !known && len(m.marks) >= maxMarks {
			kept := make(map[mark]marked)
			for key, b := range m.marks {
				if b.until.After(now) {
					kept[key] = b
				}
			}
			m.marks = kept
		}
		if known || len(m.marks) < maxMarks {
			m.marks[key] = marked{b.more(now, firstMark, longestMark), mismatch}
		}
	}
}

// marked returns what s was marked for, as long as its mark for d lasts; or nil.
func (m *memory) marked(d Digest, s string) *MismatchError {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b := m.marks[mark{s, d}]; b.until.After(time.Now()) {
		return b.mismatch
	}
	return nil
}

// unmark forgets that s was marked for d: its bytes were right.
func (m *memory) unmark(d Digest, s string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.marks, mark{s, d})
}

// rest notes that s cannot be reached, or stalls.
func (m *memory) rest(s string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rests == nil {
		m.rests = make(map[string]backoff)
	}
	m.rests[s] = m.rests[s].more(time.Now(), firstRest, longestRest)
}

// wake forgets that s rested: it gives whole Pieces.
func (m *memory) wake(s string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.rests, s)
}

// admit reports whether s, which others can be asked for instead, may be asked. The first
// to come after a rest is a probe; the next may ask when it has shown that s gives whole Pieces.
func (m *memory) admit(s string) (probe, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	b, rested := m.rests[s]
	switch {
	case !rested:
		return false, true
	case now.Before(b.until):
		return false, false
	}
	b.until, b.probed = now.Add(longestRest), true
	m.rests[s] = b
	return true, true
}

// unsure ends a probe that showed neither: the next to come is one.
func (m *memory) unsure(s string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b := m.rests[s]; b.probed {
		m.rests[s] = backoff{until: time.Now(), length: b.length}
	}
}

// resting reports whether s rests.
func (m *memory) resting(s string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rests[s].until.After(time.Now())
}

// sort puts the Sources in the order to ask for d: those that rest behind the others, those
// marked for d last, and among either whose time ends first.
func (m *memory) sort(sources []Source, d Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	trouble := func(s Source) (rank int, until time.Time) {
		if until := m.marks[mark{s.Name(), d}].until; until.After(now) {
			return 2, until
		}
		if until := m.rests[s.Name()].until; until.After(now) {
			return 1, until
		}
		return 0, time.Time{}
	}
	slices.SortStableFunc(sources, func(a, b Source) int {
		rankA, untilA := trouble(a)
		rankB, untilB := trouble(b)
		if rankA != rankB {
			return rankA - rankB
		}
		return untilA.Compare(untilB)
	})
}
