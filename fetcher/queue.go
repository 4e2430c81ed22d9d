package fetcher

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// task is a begun file: its Pieces not yet handed out, and those at work.
type task struct {
	order  int // files of a lower order go first
	ingest Ingest
	change chan struct{} // holds a token when whoever waits for the task has to look again

	// The queue's mutex guards these.
	turn    *turn   // by which pending Pieces come; nil: none yet, or it has failed
	pending []Piece // in order
	working int
}

// turn is one Source's turn at one file.
type turn struct {
	source     Source
	object     Object
	sequential bool
	others     []Source // that can be asked after it
	insist     bool     // it is asked whether it rests or not
	gave       atomic.Bool

	// The queue's mutex guards these.
	lane    *lane
	reading int
	kept    int64 // bytes of the Pieces that the sink keeps
	err     error // why no more Pieces come by this turn
}

// lane is one Source's share of the connections: narrower when the Source asks for less,
// wider again as Pieces come. The queue's mutex guards it.
type lane struct {
	width, reading int
	waiting        int // for a place, to ask again
	came           int // Pieces since width changed
	narrowed       time.Time
}

// narrowEvery: the answers that one moment's crowd got are one answer.
const narrowEvery = time.Second

// errStopped: a file is not whole because the Fetch has stopped; whoever stopped it has
// told why.
var errStopped = errors.New("stopped")

// queue hands the Pieces of all begun files to the workers, in order of file and
// then of Piece.
type queue struct {
	connections int

	mu      sync.Mutex // guards all below
	change  *sync.Cond
	tasks   []*task // those with a turn and pending Pieces, by order
	lanes   map[string]*lane
	stopped bool
}

func newTask(order int, in Ingest) *task {
	return &task{order: order, ingest: in, pending: in.Missing(), change: make(chan struct{}, 1)}
}

func newQueue(connections int) *queue {
	q := &queue{connections: connections, lanes: map[string]*lane{}}
	q.change = sync.NewCond(&q.mu)
	return q
}

// through has t's pending Pieces come by a turn, and waits: nil means that all are held. On
// the turn's own error other Pieces of t may still be at work, by this turn or an earlier
// one. Those that fail are pending again, and come by the turn that is t's by then.
func (q *queue) through(t *task, by *turn) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	name := by.source.Name()
	if q.lanes[name] == nil {
		q.lanes[name] = &lane{width: q.connections}
	}
	by.lane, t.turn = q.lanes[name], by
	q.offer(t)
	for by.err == nil && (len(t.pending) > 0 || t.working > 0) && !q.stopped {
		q.look(t)
	}
	if by.err != nil && !q.stopped {
		return by.err
	}
	return q.settle(t)
}

// settled waits until none of t's Pieces is at work: nil means that all are held, and
// errStopped that some are not.
func (q *queue) settled(t *task) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.settle(t)
}

// settle is settled with q.mu held.
func (q *queue) settle(t *task) error {
	for t.working > 0 {
		q.look(t)
	}
	if len(t.pending) > 0 {
		return errStopped
	}
	return nil
}

// look waits until t has changed. q.mu is held, but for the wait.
func (q *queue) look(t *task) {
	q.mu.Unlock()
	<-t.change
	q.mu.Lock()
}

// restock makes Pieces of t pending that were held; none is at work.
func (q *queue) restock(t *task, missing []Piece) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t.pending = missing
}

// offer puts t among the tasks that workers choose from, if there is what they could do.
// q.mu is held.
func (q *queue) offer(t *task) {
	if t.turn == nil || len(t.pending) == 0 {
		return
	}
	i, found := slices.BinarySearchFunc(q.tasks, t.order, func(t *task, order int) int { return t.order - order })
	if !found {
		q.tasks = slices.Insert(q.tasks, i, t)
	}
	q.change.Broadcast()
}

// withdraw is offer's contrary. q.mu is held.
func (q *queue) withdraw(t *task) {
	q.tasks = slices.DeleteFunc(q.tasks, func(other *task) bool { return other == t })
}

// next waits for a Piece to work on, and says by which turn it comes; ok is false when the
// queue has stopped.
func (q *queue) next() (t *task, by *turn, p Piece, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.stopped {
		i := slices.IndexFunc(q.tasks, func(t *task) bool { return t.turn.free() })
		if i < 0 {
			q.change.Wait()
			continue
		}
		t, by = q.tasks[i], q.tasks[i].turn
		p, t.pending = t.pending[0], t.pending[1:]
		t.working++
		by.reading++
		by.lane.reading++
		if len(t.pending) == 0 {
			q.withdraw(t)
		}
		return t, by, p, true
	}
	return nil, nil, Piece{}, false
}

// free reports whether one more Piece may come by the turn now.
func (by *turn) free() bool {
	return by.lane.reading+by.lane.waiting < by.lane.width && !(by.sequential && by.reading > 0)
}

// finish ends the work on a Piece. With an error it is pending again, and no more come by
// its turn.
func (q *queue) finish(t *task, by *turn, p Piece, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t.working--
	by.reading--
	by.lane.reading--
	if err == nil {
		by.kept += p.Size
		by.lane.widen(q.connections)
	} else {
		i, _ := slices.BinarySearchFunc(t.pending, p.Index, func(p Piece, index int) int { return p.Index - index })
		t.pending = slices.Insert(t.pending, i, p)
		if by.err == nil {
			by.err = err
		}
		if t.turn == by {
			t.turn = nil
			q.withdraw(t)
		}
		q.offer(t)
	}
	t.changed()
	q.change.Broadcast() // its turn and its lane have room
}

// changed has whoever waits for t look again. The queue's mutex is held.
func (t *task) changed() {
	select {
	case t.change <- struct{}{}:
	default:
	}
}

// leave lets others have the place of a reader that waits to ask again.
func (q *queue) leave(l *lane) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l.reading--
	q.change.Broadcast()
}

// enter waits for a place again, before any Piece not begun yet; ok is false when the queue
// has stopped.
func (q *queue) enter(l *lane) (ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for l.waiting++; l.reading >= l.width && !q.stopped; {
		q.change.Wait()
	}
	l.waiting--
	l.reading++
	return !q.stopped
}

// narrow has fewer read from a Source that asks for less.
func (q *queue) narrow(l *lane) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now := time.Now(); now.Sub(l.narrowed) >= narrowEvery {
		l.width, l.came, l.narrowed = max(1, min(l.width, l.reading)/2), 0, now
	}
}

// widen counts a Piece that came.
func (l *lane) widen(most int) {
	if l.came++; l.came >= l.width && l.width < most {
		l.width, l.came = l.width+1, 0
	}
}

// stop hands out nothing more. It is idempotent.
func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	for _, t := range q.tasks {
		t.changed()
	}
	q.tasks = nil
	q.change.Broadcast()
}
