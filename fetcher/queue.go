package fetcher

import (
	"slices"
	"sync"
)

// task is a begun file: its Pieces not yet handed out, and those at work.
type task struct {
	order  int // files of a lower order go first
	ingest Ingest
	done   chan struct{} // closed when no Piece is pending or at work

	opening chan struct{} // holds a token while object is opened: a lock that a context ends
	object  Object        // nil until a Piece needs it

	// The queue's mutex guards these until done is closed.
	pending    []Piece
	working    int
	incomplete bool
}

func newTask(order int, in Ingest) *task {
	return &task{order: order, ingest: in, pending: in.Missing(), done: make(chan struct{}), opening: make(chan struct{}, 1)}
}

// queue hands the Pieces of all begun files to the workers, in order of file and
// then of Piece.
type queue struct {
	mu      sync.Mutex // guards all below
	change  *sync.Cond
	tasks   []*task // those with pending Pieces, by order
	stopped bool
}

func newQueue() *queue {
	q := &queue{}
	q.change = sync.NewCond(&q.mu)
	return q
}

// add queues t's Pieces; on a stopped queue t is incomplete at once.
func (q *queue) add(t *task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		t.abandon()
	}
	if len(t.pending) == 0 {
		close(t.done)
		return
	}
	i, _ := slices.BinarySearchFunc(q.tasks, t.order, func(t *task, order int) int { return t.order - order })
	q.tasks = slices.Insert(q.tasks, i, t)
	q.change.Broadcast()
}

// next waits for a Piece to work on; ok is false when the queue has stopped.
func (q *queue) next() (t *task, p Piece, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.tasks) == 0 && !q.stopped {
		q.change.Wait() // stop wakes it
	}
	if q.stopped {
		return nil, Piece{}, false
	}
	t = q.tasks[0]
	p, t.pending = t.pending[0], t.pending[1:]
	t.working++
	if len(t.pending) == 0 {
		q.tasks = q.tasks[1:]
	}
	return t, p, true
}

// finish ends the work on one of t's Pieces.
func (q *queue) finish(t *task, held bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t.working--
	t.incomplete = t.incomplete || !held
	if t.working == 0 && len(t.pending) == 0 {
		close(t.done)
	}
}

// stop hands out nothing more: what is pending is abandoned. It is idempotent.
func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	for _, t := range q.tasks {
		t.abandon()
		if t.working == 0 {
			close(t.done)
		}
	}
	q.tasks = nil
	q.change.Broadcast()
}

// abandon gives up t's pending Pieces.
func (t *task) abandon() {
	t.incomplete = t.incomplete || len(t.pending) > 0
	t.pending = nil
}
