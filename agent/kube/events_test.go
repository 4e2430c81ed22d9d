package kube

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	ktesting "k8s.io/client-go/testing"
)

var aPod = Pod{"ns", "a", "uid-a"}

func TestLongProgressIsOneEventUpdatedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t).run(t)
		for second := range 181 {
			w.kube.Tell(aPod, "Fetching", fmt.Sprintf("after %d s", second), false)
			time.Sleep(time.Second) // the bubble's
		}
		events := w.events(t)
		if len(events) != 1 {
			t.Fatalf("%d events; want one", len(events))
		}
		if n := w.count("create", "events") + w.count("patch", "events"); n != 4 {
			t.Errorf("%d writes in 3 minutes; want 4", n)
		}
		e := events[0]
		if e.Message != "after 180 s" || e.Count != 181 || e.Type != corev1.EventTypeNormal || e.Reason != "Fetching" {
			t.Errorf("event %q, count %d, %s %s", e.Message, e.Count, e.Type, e.Reason)
		}
		if lasted := e.LastTimestamp.Sub(e.FirstTimestamp.Time); lasted != 3*time.Minute {
			t.Errorf("the event lasted %v; want 3m", lasted)
		}
		about := corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: "ns", Name: "a", UID: "uid-a"}
		if e.InvolvedObject != about {
			t.Errorf("the event is about %+v", e.InvolvedObject)
		}
		if e.Source != (corev1.EventSource{Component: "ballast-agent", Host: node}) || e.ReportingController != "ballast-agent" || e.ReportingInstance != node {
			t.Errorf("reported by %+v, %s, %s", e.Source, e.ReportingController, e.ReportingInstance)
		}
	})
}

func TestEachPodReasonAndTypeHasAnEventOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t).run(t)
		w.kube.Tell(aPod, "Fetching", "m", false)
		w.kube.Tell(aPod, "Fetching", "m", true)
		w.kube.Tell(aPod, "Fetched", "m", false)
		w.kube.Tell(Pod{"ns", "a", "uid-other"}, "Fetching", "m", false)
		w.kube.Tell(Pod{}, "Fetching", "nobody's", false)
		if n := len(w.events(t)); n != 4 {
			t.Errorf("%d events; want 4", n)
		}
		if n := w.count("create", "events"); n != 4 {
			t.Errorf("%d events were made; want 4, and none about no pod", n)
		}
	})
}

func TestAnEventThatHasExpiredIsMadeAgain(t *testing.T) {
	for name, silence := range map[string]time.Duration{"told all along": 2 * time.Minute, "told again after hours": 3 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t).run(t)
				w.kube.Tell(aPod, "Fetching", "old", false)
				first := w.events(t)[0].Name
				if err := w.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("events"), "ns", first); err != nil {
					t.Fatal(err)
				}
				time.Sleep(silence) // the bubble's
				w.kube.Tell(aPod, "Fetching", "new", false)
				if events := w.events(t); len(events) != 1 || events[0].Message != "new" {
					t.Errorf("events %+v; want one that says new", events)
				}
			})
		})
	}
}

func TestWhatIsNoLongerToldIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t).run(t)
		for i := range 20 {
			w.kube.Tell(Pod{"ns", "a", fmt.Sprintf("uid-%d", i)}, "Fetching", "m", false)
		}
		time.Sleep(tellEvery + eventTTL + time.Second) // the bubble's
		w.kube.Tell(aPod, "Fetching", "m", false)
		if n := len(w.kube.teller.told); n != 1 {
			t.Errorf("%d subjects are remembered; want the last alone", n)
		}
	})
}

func TestTellNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a Tell that blocks is a deadlock here
		w := newWorld(t)
		for i := range maxWaiting + 50 {
			w.kube.Tell(Pod{"ns", fmt.Sprintf("p-%d", i), fmt.Sprintf("uid-%d", i)}, "Fetching", "m", false)
		}
		w.run(t)
		if n := len(w.events(t)); n != maxWaiting {
			t.Errorf("%d events; want the first %d", n, maxWaiting)
		}
	})
}

func TestWhatWasToldIsSentWhenRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t).run(t)
		for i := range 20 {
			w.kube.Tell(aPod, fmt.Sprintf("Reason%d", i), "m", true)
		}
		w.stop()
		if n := len(w.events(t)); n != 20 {
			t.Errorf("%d events are there after Run; want 20", n)
		}
		w.kube.Tell(aPod, "Late", "m", false)
	})
}

func TestOnlyWhatTimeCanMendIsTriedAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		code  int
		tries int
		sent  bool
	}{
		"unavailable": {http.StatusServiceUnavailable, 3, true},
		"throttled":   {http.StatusTooManyRequests, 3, true},
		"forbidden":   {http.StatusForbidden, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				tries := 0
				w.PrependReactor("create", "events", func(ktesting.Action) (bool, runtime.Object, error) {
					tries++
					return tries < 3, nil, apierrors.NewGenericServerResponse(tc.code, "create", corev1.Resource("events"), "", "", 0, true)
				})
				w.run(t)
				w.kube.Tell(aPod, "Fetching", "m", false)
				time.Sleep(time.Minute) // the bubble's
				if got := len(w.events(t)) == 1; tries != tc.tries || got != tc.sent {
					t.Errorf("tried %d times, sent: %v; want %d, %v", tries, got, tc.tries, tc.sent)
				}
			})
		})
	}
}

func TestATryThatGotThroughButSaidItFailedIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		tries := 0
		w.PrependReactor("create", "events", func(a ktesting.Action) (bool, runtime.Object, error) {
			if tries++; tries > 1 {
				return false, nil, nil
			}
			if err := w.Tracker().Create(a.GetResource(), a.(ktesting.CreateAction).GetObject(), "ns"); err != nil {
				t.Error(err)
			}
			return true, nil, apierrors.NewTimeoutError("no answer in time", 0)
		})
		w.run(t)
		w.kube.Tell(aPod, "Fetching", "m", false)
		time.Sleep(time.Minute) // the bubble's
		if n := len(w.events(t)); n != 1 || tries != 2 {
			t.Errorf("%d events after %d tries; want 1 after 2", n, tries)
		}
		if said := w.logs.FilterMessage("event not sent").All(); len(said) != 0 {
			t.Errorf("logged %+v", said)
		}
	})
}

func TestLongMessagesAreCutAtACharactersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t).run(t)
		w.kube.Tell(aPod, "Refused", strings.Repeat("é", 2000), true)
		if m := w.events(t)[0].Message; len(m) > maxNoteBytes || len(m) < maxNoteBytes-4 || !utf8.ValidString(m) || !strings.HasSuffix(m, "é…") {
			t.Errorf("%d bytes, ending in %q", len(m), m[len(m)-8:])
		}
	})
}
