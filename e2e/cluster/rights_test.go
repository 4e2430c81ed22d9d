package cluster

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	authzv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// everyones is what the API server lets any account do, by its default roles.
var everyones = []string{
	"selfsubjectreviews.authentication.k8s.io [create]",
	"selfsubjectaccessreviews.authorization.k8s.io [create]",
	"selfsubjectrulesreviews.authorization.k8s.io [create]",
	"clustertrustbundles.certificates.k8s.io [get list watch]",
}

// TestAccountsMayDoNoMoreThanTheyNeed: whoever gives an account a right puts it here,
// with the reason.
func TestAccountsMayDoNoMoreThanTheyNeed(t *testing.T) {
	w := onNode(t) // another cluster may let every account do more
	for part, own := range map[string][]string{
		agent: {
			"pods [get list watch]", // waits end with their pods; who has a user namespace, and whose an address is
			"events [create patch]", // progress and trouble, on the pod
		},
		csi: nil, // it has no token either
	} {
		if got, want := w.rights(t, part), slices.Concat(own, everyones); !sameSet(got, want) {
			t.Errorf("the %s's account may\n%s\nwant\n%s", part, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// rights lists what a part's account may do with resources, as the API server says it.
// What is no resource is the same for everyone, and can only be read.
func (w *world) rights(t *testing.T, part string) (rights []string) {
	t.Helper()
	said, err := w.kubectlOutput(t.Context(), append([]string{"auth", "can-i", "--list", "--no-headers"}, asAccount(part)...)...)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(said) {
		resource, rest, _ := strings.Cut(line, "[")
		urls, rest, _ := strings.Cut(rest, "]")
		names, verbs, ok := strings.Cut(strings.TrimSpace(rest), "]")
		verbs = strings.TrimSpace(verbs)
		if resource = strings.TrimSpace(resource); !ok || (resource == "") == (urls == "") || names != "[" {
			t.Fatalf("what does this line say: %q", line)
		}
		switch {
		case resource != "":
			rights = append(rights, resource+" "+verbs)
		case verbs != "[get]":
			t.Errorf("the %s's account may %s %s", part, verbs, urls)
		}
	}
	return rights
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// TestOfAllThereIsTheAgentMayDoFiveThings asks about every verb for every resource that
// the API server has. What any account may do does not count.
func TestOfAllThereIsTheAgentMayDoFiveThings(t *testing.T) {
	w := theWorld(t)
	all, err := w.everything()
	if err != nil {
		t.Fatal(err)
	}
	asked := time.Now()
	var may []string
	for _, right := range w.allowed(t, "default", "default", w.allowed(t, "ballast", "ballast-agent", all).yes).no {
		may = append(may, strings.Trim(right.Verb+" "+right.Resource+"/"+right.Subresource, "/"))
	}
	slices.Sort(may)
	want := []string{"get pods", "list pods", "watch pods", "create events", "patch events"}
	if may = slices.Compact(may); !sameSet(may, want) {
		t.Errorf("of %d rights it has %q; want %q", len(all), may, want)
	}
	t.Logf("%d rights asked about in %s", len(all), round(time.Since(asked)))
}

// answers are rights that an account has, and that it has not.
type answers struct{ yes, no []authzv1.ResourceAttributes }

// allowed asks which of the rights an account has.
func (w *world) allowed(t *testing.T, namespace, account string, rights []authzv1.ResourceAttributes) (a answers) {
	t.Helper()
	var mu sync.Mutex // guards a
	var g errgroup.Group
	g.SetLimit(16)
	for _, right := range rights {
		g.Go(func() error {
			review, err := w.client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authzv1.SubjectAccessReview{Spec: authzv1.SubjectAccessReviewSpec{
				User:   "system:serviceaccount:" + namespace + ":" + account,
				Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"}, ResourceAttributes: &right,
			}}, metav1.CreateOptions{})
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if review.Status.Allowed {
				a.yes = append(a.yes, right)
			} else {
				a.no = append(a.no, right)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return a
}

// everything is each verb for each resource that the API server has.
func (w *world) everything() (all []authzv1.ResourceAttributes, err error) {
	_, lists, err := w.client.Discovery().ServerGroupsAndResources()
	if err != nil {
		return nil, err
	}
	for _, list := range lists {
		group, _ := schema.ParseGroupVersion(list.GroupVersion)
		for _, r := range list.APIResources {
			resource, subresource, _ := strings.Cut(r.Name, "/")
			for _, verb := range []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "impersonate", "bind", "escalate", "approve", "sign"} {
				one := authzv1.ResourceAttributes{Group: group.Group, Version: group.Version, Resource: resource, Subresource: subresource, Verb: verb}
				if !slices.Contains(all, one) {
					all = append(all, one)
				}
			}
		}
	}
	return all, nil
}
