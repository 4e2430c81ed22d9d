package kube

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record/util"
)

const (
	component    = "ballast-agent" // an event's source and reportingComponent
	tellEvery    = time.Minute     // between two writes of one event
	eventTTL     = time.Hour       // the API server's default --event-ttl
	flushFor     = time.Second     // for what is waiting when Run ends
	maxWaiting   = 256             // events that wait to be sent
	maxTries     = 4               // of one event, over 14 s
	maxNoteBytes = 1024            // the limit of a note in events.k8s.io/v1
)

// teller turns what is told into events: tell decides and never blocks, run sends.
type teller struct {
	events typedcorev1.EventsGetter
	node   string
	log    *zap.Logger
	queue  chan write

	mu    sync.Mutex          // guards told and named
	told  map[subject]*series // no entry idle for longer than eventTTL
	named int64               // the last name's time, Unix nanoseconds: no two have the same
}

// subject is what one event is about.
type subject struct {
	pod    Pod
	reason string
	kind   string // Normal or Warning
}

// series is the one event of a subject.
type series struct {
	name  string
	first time.Time
	count int32
	next  time.Time // not written again before
}

// write is one event as it shall be; update says that it should exist already.
type write struct {
	event  *corev1.Event
	update bool
}

func newTeller(events typedcorev1.EventsGetter, node string, log *zap.Logger) *teller {
	return &teller{events: events, node: node, log: log, queue: make(chan write, maxWaiting), told: map[subject]*series{}}
}

func (t *teller) tell(p Pod, reason, message string, warning bool) {
	about := subject{p, reason, corev1.EventTypeNormal}
	if warning {
		about.kind = corev1.EventTypeWarning
	}
	w, due := t.due(about, time.Now())
	if !due {
		return
	}
	w.event.Message = cut(message, maxNoteBytes)
	select {
	case t.queue <- w:
	default:
		t.log.Debug("event dropped: too many are waiting", zap.Stringer("pod", p), zap.String("reason", reason))
	}
}

// due counts a telling, and says whether to write it and as what.
func (t *teller) due(about subject, now time.Time) (write, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for a, s := range t.told {
		if now.Sub(s.next) > eventTTL {
			delete(t.told, a)
		}
	}
	s := t.told[about]
	if s == nil {
		t.named = max(t.named+1, now.UnixNano())
		s = &series{name: util.GenerateEventName(about.pod.Name, t.named), first: now}
		t.told[about] = s
	}
	s.count++
	if now.Before(s.next) {
		return write{}, false
	}
	update := !s.next.IsZero()
	s.next = now.Add(tellEvery)
	return write{&corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: about.pod.Namespace, Name: s.name},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1",
			Kind:       "Pod",
			Namespace:  about.pod.Namespace,
			Name:       about.pod.Name,
			UID:        types.UID(about.pod.UID),
		},
		Type:                about.kind,
		Reason:              about.reason,
		Count:               s.count,
		FirstTimestamp:      metav1.NewTime(s.first),
		LastTimestamp:       metav1.NewTime(now),
		Source:              corev1.EventSource{Component: component, Host: t.node},
		ReportingController: component,
		ReportingInstance:   t.node,
	}, update}, true
}

// run sends until ctx ends, and then what is waiting, within flushFor.
func (t *teller) run(ctx context.Context) {
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(flushFor, stop) })()
	for sending.Err() == nil {
		select {
		case w := <-t.queue:
			t.send(ctx, sending, w)
			continue
		default:
		}
		select {
		case w := <-t.queue:
			t.send(ctx, sending, w)
		case <-ctx.Done():
			return
		}
	}
}

// send writes w. What time can mend is tried again until ctx ends; a request in
// flight then has until sending does.
func (t *teller) send(ctx, sending context.Context, w write) {
	for try := 1; ; try++ {
		err := t.write(sending, w)
		if err == nil {
			return
		}
		if try == maxTries || refused(err) || !pause(ctx, time.Second<<try) {
			t.log.Warn("event not sent", zap.String("pod", w.event.Namespace+"/"+w.event.InvolvedObject.Name),
				zap.String("reason", w.event.Reason), zap.Int("tries", try), zap.Error(err))
			return
		}
	}
}

func (t *teller) write(ctx context.Context, w write) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	events := t.events.Events(w.event.Namespace)
	if w.update {
		patch, err := json.Marshal(map[string]any{
			"count":         w.event.Count,
			"lastTimestamp": w.event.LastTimestamp,
			"message":       w.event.Message,
		})
		if err != nil {
			return err
		}
		_, err = events.Patch(ctx, w.event.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	_, err := events.Create(ctx, w.event, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // an earlier try got through without saying so
	}
	return err
}

// refused says whether the API server has answered and will not change its mind.
func refused(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	code := status.Status().Code
	return code < 500 && code != 429
}

// pause waits, and says whether it was let to.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// cut shortens text to at most limit bytes, at a character's end.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit-len("…")], "") + "…"
}
