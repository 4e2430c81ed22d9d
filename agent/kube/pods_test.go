package kube

import (
	"errors"
	"net/http"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	ktesting "k8s.io/client-go/testing"
)

func TestDeletionIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pod("a", "uid-a", "1"), pod("b", "uid-b", "2")
		w := newWorld(t, a, b).run(t)
		w.wantDeleting(t)
		w.update(t, deleting(a, "3"))
		w.wantDeleting(t, "uid-a")
		w.update(t, deleting(a, "4"))
		w.remove(t, deleting(a, "4"))
		w.wantDeleting(t, "uid-a")
	})
}

func TestPodsAlreadyBeingDeletedAtStartAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, pod("a", "uid-a", "1"), deleting(pod("b", "uid-b", "2"), "3")).run(t)
		w.wantDeleting(t, "uid-b")
	})
}

func TestPodDeletedOutrightIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := pod("a", "uid-a", "1")
		w := newWorld(t, a).run(t)
		w.remove(t, a)
		w.wantDeleting(t, "uid-a")
	})
}

func TestDeletionsMissedWhileNotWatchingAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone, replaced := pod("gone", "uid-gone", "1"), pod("sts-0", "uid-old", "2")
		w := newWorld(t, gone, replaced, pod("stays", "uid-stays", "3"))
		broken := watch.NewFake() // sees nothing, and then its version is too old
		watches := 0
		w.PrependWatchReactor("pods", func(ktesting.Action) (bool, watch.Interface, error) {
			watches++
			return watches == 1, broken, nil
		})
		w.run(t)
		w.remove(t, gone)
		w.remove(t, replaced)
		w.add(t, pod("sts-0", "uid-new", "4"))
		w.wantDeleting(t)
		expired := apierrors.NewResourceExpired("too old").Status()
		broken.Error(&expired)
		synctest.Wait()
		time.Sleep(time.Minute) // the bubble's: past the informer's backoff
		w.wantDeleting(t, "uid-gone", "uid-old")
	})
}

func TestIsDeletingFromDeletionToTenMinutesAfterThePodIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pod("a", "uid-a", "1"), pod("b", "uid-b", "2")
		w := newWorld(t, a, b).run(t)
		if w.kube.IsDeleting("uid-a") {
			t.Error("a running pod counts as being deleted")
		}
		w.update(t, deleting(a, "3"))
		synctest.Wait()
		time.Sleep(time.Hour) // the bubble's: a long terminationGracePeriodSeconds
		if !w.kube.IsDeleting("uid-a") {
			t.Error("a pod with a deletionTimestamp does not count as being deleted")
		}
		w.remove(t, a)
		synctest.Wait()
		if !w.kube.IsDeleting("uid-a") {
			t.Error("a pod just gone does not count as being deleted")
		}
		time.Sleep(rememberGone + time.Second)
		w.remove(t, b)
		synctest.Wait()
		if w.kube.IsDeleting("uid-a") {
			t.Error("a pod long gone is still remembered")
		}
	})
}

// The fake's tracker applies no field selector, so what is asked for is checked.
func TestOnlyThisNodesPodsAreAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t).run(t)
		asked := 0
		for _, a := range w.Actions() {
			selector := ""
			switch a := a.(type) {
			case ktesting.ListAction:
				selector = a.GetListRestrictions().Fields.String()
			case ktesting.WatchAction:
				selector = a.GetWatchRestrictions().Fields.String()
			}
			if asked++; selector != "spec.nodeName="+node {
				t.Errorf("%s %s with field selector %q", a.GetVerb(), a.GetResource().Resource, selector)
			}
		}
		if asked < 2 {
			t.Errorf("%d requests; want a list and a watch", asked)
		}
	})
}

func TestPodsAreKeptTrimmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		no := false
		a := deleting(pod("a", "uid-a", "1"), "2")
		a.Spec.HostUsers = &no
		a.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}}
		a.Status.Message = "long"
		w := newWorld(t, a).run(t)
		want := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", UID: "uid-a", ResourceVersion: "2", DeletionTimestamp: a.DeletionTimestamp},
			Spec:       corev1.PodSpec{HostUsers: &no, NodeName: node},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: a.Status.PodIPs},
		}
		if kept := w.kube.pods.GetIndexer().List(); len(kept) != 1 || !reflect.DeepEqual(kept[0], want) {
			t.Errorf("kept %+v; want %+v", kept, want)
		}
	})
}

func TestUserNamespaceOfASeenPodNeedsNoRequest(t *testing.T) {
	yes, no := true, false
	for name, tc := range map[string]struct {
		hostUsers *bool
		want      bool
	}{"unset": {nil, false}, "true": {&yes, false}, "false": {&no, true}} {
		t.Run("hostUsers "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := pod("a", "uid-a", "1")
				a.Spec.HostUsers = tc.hostUsers
				w := newWorld(t, a).run(t)
				got, err := w.kube.UserNamespace(t.Context(), named(a))
				if err != nil || got != tc.want {
					t.Errorf("UserNamespace: %v, %v; want %v", got, err, tc.want)
				}
				if n := w.count("get", "pods"); n != 0 {
					t.Errorf("%d requests for a pod that has been seen", n)
				}
			})
		})
	}
}

func TestUserNamespaceFetchesAPodNotSeenYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		no := false
		a := pod("a", "uid-a", "1")
		a.Spec.HostUsers = &no
		w := newWorld(t, a) // not running: nothing is seen
		if got, err := w.kube.UserNamespace(t.Context(), named(a)); err != nil || !got {
			t.Errorf("UserNamespace: %v, %v; want true", got, err)
		}
	})
}

func TestUserNamespaceFetchesAPodWhosePredecessorIsStillCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := pod("sts-0", "uid-old", "1")
		w := newWorld(t, old)
		w.PrependWatchReactor("pods", func(ktesting.Action) (bool, watch.Interface, error) {
			return true, watch.NewFake(), nil // a watch that is late
		})
		w.run(t)
		w.remove(t, old)
		no := false
		successor := pod("sts-0", "uid-new", "2")
		successor.Spec.HostUsers = &no
		w.add(t, successor)
		if got, err := w.kube.UserNamespace(t.Context(), named(successor)); err != nil || !got {
			t.Errorf("UserNamespace: %v, %v; want true", got, err)
		}
	})
}

func TestUserNamespaceOfAPodThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, pod("sts-0", "uid-new", "1")).run(t)
		for what, p := range map[string]Pod{
			"whose name another one has": {"ns", "sts-0", "uid-old"},
			"that does not exist":        {"ns", "a", "uid-a"},
		} {
			if _, err := w.kube.UserNamespace(t.Context(), p); !errors.Is(err, ErrGone) {
				t.Errorf("a pod %s: %v; want ErrGone", what, err)
			}
		}
	})
}

func TestUserNamespaceIsNeverGuessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := pod("a", "uid-a", "1")
		w := newWorld(t, a)
		w.PrependReactor("get", "pods", func(ktesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewGenericServerResponse(http.StatusServiceUnavailable, "get", corev1.Resource("pods"), "a", "", 1, true)
		})
		if _, err := w.kube.UserNamespace(t.Context(), named(a)); err == nil || errors.Is(err, ErrGone) {
			t.Errorf("while the API server is away: %v; want an error other than ErrGone", err)
		}
		if _, err := w.kube.UserNamespace(t.Context(), Pod{"ns", "a", ""}); err == nil || errors.Is(err, ErrGone) {
			t.Errorf("without a uid: %v; want an error other than ErrGone", err)
		}
		if n := w.count("get", "pods"); n != 1 {
			t.Errorf("%d requests; want one, and none without a uid", n)
		}
	})
}
