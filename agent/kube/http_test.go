package kube

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// apiServer speaks the few REST calls that are needed, over real HTTP: a watch that
// begins with what is there, a GET, and events' POST and PATCH.
type apiServer struct {
	t       *testing.T
	changes chan metav1.WatchEvent
	events  chan *corev1.Event // as they were posted
	patches chan string        // bodies
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if agent := r.UserAgent(); agent != "ballast-agent/v0" {
		s.t.Errorf("User-Agent %q", agent)
	}
	if accept := r.Header.Get("Accept"); !strings.HasPrefix(accept, "application/vnd.kubernetes.protobuf,") {
		s.t.Errorf("%s %s: Accept %q", r.Method, r.URL.Path, accept)
	}
	w.Header().Set("Content-Type", "application/json") // a client takes what it is given
	body, _ := io.ReadAll(r.Body)
	switch what := r.Method + " " + r.URL.Path; {
	case what == "GET /api/v1/pods" && r.URL.Query().Get("watch") != "":
		if q := r.URL.Query(); q.Get("fieldSelector") != "spec.nodeName="+node || q.Get("sendInitialEvents") != "true" {
			s.t.Errorf("watch with %v", q)
		}
		s.watch(w, r)
	case what == "GET /api/v1/namespaces/ns/pods/unseen":
		no := false
		p := pod("unseen", "uid-unseen", "9")
		p.Spec.HostUsers = &no
		p.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
		_ = json.NewEncoder(w).Encode(p)
	case what == "POST /api/v1/namespaces/ns/events":
		obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
		event, ok := obj.(*corev1.Event)
		if err != nil || !ok {
			s.t.Errorf("%s: %T, %v", what, obj, err)
			return
		}
		s.events <- event
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"apiVersion":"v1","kind":"Event"}`)
	case strings.HasPrefix(what, "PATCH /api/v1/namespaces/ns/events/a."):
		if kind := r.Header.Get("Content-Type"); kind != "application/merge-patch+json" {
			s.t.Errorf("%s: Content-Type %q", what, kind)
		}
		s.patches <- string(body)
		_, _ = io.WriteString(w, `{"apiVersion":"v1","kind":"Event"}`)
	default:
		s.t.Errorf("unexpected request: %s %s", what, r.URL.RawQuery)
		http.NotFound(w, r)
	}
}

// watch sends the changes until the client goes.
func (s *apiServer) watch(w http.ResponseWriter, r *http.Request) {
	for {
		_ = http.NewResponseController(w).Flush()
		select {
		case c := <-s.changes:
			_ = json.NewEncoder(w).Encode(c)
		case <-r.Context().Done():
			return
		}
	}
}

func change(t *testing.T, kind string, p *corev1.Pod) metav1.WatchEvent {
	t.Helper()
	p.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	e := metav1.WatchEvent{Type: kind}
	e.Object.Raw = raw
	return e
}

// startOverHTTP runs a Kube against handler; stop ends Run and waits for it.
func startOverHTTP(t *testing.T, handler http.Handler, deleting func(string)) (k *Kube, stop func()) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	client, err := newClient(&rest.Config{Host: server.URL}, "v0")
	if err != nil {
		t.Fatal(err)
	}
	k, err = New(Config{Client: client, Node: node, Log: zaptest.NewLogger(t), Deleting: deleting})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	return k, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func TestOverHTTP(t *testing.T) {
	s := &apiServer{t, make(chan metav1.WatchEvent), make(chan *corev1.Event, 1), make(chan string, 1)}
	told := make(chan string, 10)
	k, stop := startOverHTTP(t, s, func(uid string) { told <- uid })

	s.changes <- change(t, "ADDED", pod("a", "uid-a", "1"))
	s.changes <- change(t, "ADDED", deleting(pod("b", "uid-b", "2"), "3"))
	last := pod("", "", "3")
	last.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	s.changes <- change(t, "BOOKMARK", last)
	if uid := <-told; uid != "uid-b" {
		t.Errorf("at start %s was told", uid)
	}
	s.changes <- change(t, "MODIFIED", deleting(pod("a", "uid-a", "1"), "4"))
	if uid := <-told; uid != "uid-a" {
		t.Errorf("after the change %s was told", uid)
	}
	if got, err := k.UserNamespace(t.Context(), Pod{"ns", "unseen", "uid-unseen"}); err != nil || !got {
		t.Errorf("UserNamespace: %v, %v; want true", got, err)
	}

	k.Tell(Pod{"ns", "a", "uid-a"}, "Fetching", "42%", false)
	if e := <-s.events; e.Message != "42%" || e.InvolvedObject.UID != "uid-a" || !strings.HasPrefix(e.Name, "a.") {
		t.Errorf("posted %+v", e)
	}
	about := subject{Pod{"ns", "a", "uid-a"}, "Fetching", corev1.EventTypeNormal}
	w, due := k.teller.due(about, time.Now().Add(time.Hour))
	if !due {
		t.Fatal("an update is not due after an hour")
	}
	w.event.Message = "43%"
	k.teller.queue <- w
	if body := <-s.patches; !strings.Contains(body, `"message":"43%"`) || !strings.Contains(body, `"count":2`) {
		t.Errorf("patched with %s", body)
	}
	stop()
	close(told)
	for uid := range told {
		t.Errorf("%s was told again", uid)
	}
}

func TestRunEndsSoonThoughTheAPIServerHangs(t *testing.T) {
	posted := make(chan struct{}, 1)
	k, stop := startOverHTTP(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not notice that the client goes
		if r.Method == http.MethodPost {
			posted <- struct{}{}
		}
		<-r.Context().Done()
	}), func(string) {})
	k.Tell(aPod, "Fetching", "m", false)
	k.Tell(aPod, "Fetched", "m", false)
	<-posted
	began := time.Now()
	stop()
	if took := time.Since(began); took < flushFor || took > flushFor+4*time.Second {
		t.Errorf("Run took %v to end; want %v, which is what a request in flight is given", took, flushFor)
	}
}

func TestOutsideAClusterThereIsNoClient(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := InCluster("v0"); err == nil || !strings.Contains(err.Error(), "in-cluster") {
		t.Errorf("InCluster: %v; want an error that says what is missing", err)
	}
}

func TestNewRefusesAnIncompleteConfig(t *testing.T) {
	whole := Config{Client: fake.NewClientset(), Node: node, Log: zap.NewNop(), Deleting: func(string) {}}
	if _, err := New(whole); err != nil {
		t.Fatal(err)
	}
	for missing, leave := range map[string]func(*Config){
		"Client":   func(c *Config) { c.Client = nil },
		"Node":     func(c *Config) { c.Node = "" },
		"Log":      func(c *Config) { c.Log = nil },
		"Deleting": func(c *Config) { c.Deleting = nil },
	} {
		cfg := whole
		leave(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("New without %s succeeded", missing)
		}
	}
}
