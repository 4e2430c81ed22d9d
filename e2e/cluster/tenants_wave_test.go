package cluster

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/ballast-csi/ballast/e2e/hub"
)

// wave is one column of the matrix: its pods ask at the same time.
type wave struct {
	*world
	t      *testing.T
	state  string // of the Hub, while the pods ask
	cells  []*cell
	tokens map[string]string // of this wave alone
	ns     map[string]string // by token
	help   []*corev1.Pod     // what makes a hit, or a flight, and runs in the end
}

func newWave(t *testing.T, w *world, column int, state string) *wave {
	tenant, stranger := w.namespace(t), w.namespace(t)
	v := &wave{world: w, t: t, state: state, cells: parseTenants(t, column),
		tokens: map[string]string{}, ns: map[string]string{"good": tenant, "revoked": tenant, "other": stranger, "none": stranger}}
	for _, account := range []string{"good", "revoked", "other"} {
		v.tokens[account] = w.token(account)
		w.secret(t, v.ns[account], account, "HF_TOKEN", v.tokens[account])
	}
	w.hub.Accounts(v.tokens["other"])
	return v
}

func (v *wave) run() {
	began := time.Now()
	v.publish()
	v.begin()
	v.hub.Revoke(v.tokens["revoked"])
	restore := v.disturb()
	for _, c := range v.cells {
		if c.pod == nil {
			v.ask(c)
		}
	}
	for _, waits := range []bool{true, false} { // a limit does not wait for us
		for _, c := range v.cells {
			if c.waits == waits {
				v.atFirst(c)
			}
		}
	}
	restore()
	for _, c := range v.cells {
		v.inTheEnd(c)
	}
	for _, p := range v.help {
		v.running(v.t, p, time.Minute)
	}
	v.neverMounted()
	v.privateIsAsIfMissing()
	v.t.Logf("%d pods in %s%s", len(v.cells)+len(v.help), round(time.Since(began)), v.table())
	v.leave()
}

// table is what the pods got, and were last told.
func (v *wave) table() string {
	var text strings.Builder
	for _, c := range v.cells {
		got, told := "ran", v.messages(v.t, c.pod)
		if !c.runs {
			got = "refused"
		}
		if c.waits {
			got = "waited, " + got
		}
		told = slices.DeleteFunc(told, func(m string) bool { return !strings.Contains(m, c.repo.repo) })
		fmt.Fprintf(&text, "\n%-24s %-16s %s", c, got, strings.Join(told[max(0, len(told)-1):], ""))
	}
	return text.String()
}

// publish makes the repositories. What is missing is each cell's own, since what one is
// given changes what the next finds.
func (v *wave) publish() {
	repos := map[string]model{}
	for _, c := range v.cells {
		name := fmt.Sprintf("org/tenants-%s-%s-%s", v.state, c.visible, c.state)
		if c.state == "miss" || c.state == "flight" && c.token == "revoked" {
			name += "-" + c.token
		}
		if _, ok := repos[name]; !ok {
			repos[name] = v.upload(v.t, model{repo: name, files: hub.SmallModel(seeds.Add(1)).Files()})
		}
		c.repo = repos[name]
		switch c.visible {
		case "private":
			v.hub.Private(name, v.tokens["good"], v.tokens["revoked"])
		case "gated":
			v.hub.Gated(name, v.tokens["good"], v.tokens["revoked"])
		}
		if c.held() {
			v.hub.Throttle(name, 1000)
		}
	}
}

// begin makes what is a hit one, and has what is in flight fetched.
func (v *wave) begin() {
	var flights []model
	for _, c := range v.cells {
		switch {
		case c.state == "hit" && (c.token == "good" || c.token == "revoked"):
			v.help = append(v.help, v.asks(c.repo, c.token, "warms-"+c.visible+"-"+c.token))
		case c.state == "flight" && c.token == "good":
			flights = append(flights, c.repo)
			v.help = append(v.help, v.asks(c.repo, "good", "begins-"+c.visible))
		case c.state == "flight" && c.token == "revoked", c.held() && v.state == "answers":
			flights = append(flights, c.repo)
			v.ask(c)
		}
	}
	for _, p := range v.help {
		if strings.HasPrefix(p.Name, "warms") {
			v.running(v.t, p, time.Minute)
		}
	}
	for _, m := range flights {
		v.sending(v.t, m)
	}
	// One waiter's token does not fail the others. Only where the Hub answers: after trouble
	// the other's token may be the next to be tried, and what that brings is had by the
	// proof of the one that was revoked.
	for _, c := range v.cells {
		if c.state == "flight" && c.token == "revoked" && v.state == "answers" {
			v.help = append(v.help, v.asks(c.repo, "good", "goes-on-"+c.visible))
		}
	}
}

// asks makes a pod with a token that names the repository's commit.
func (v *wave) asks(m model, token, name string) *corev1.Pod {
	volume := inline(m.repo, "revision", m.commit)
	if token != "none" {
		volume = with(token, volume)
	}
	return v.create(v.t, v.pod(v.ns[token], name, &volume))
}

func (v *wave) ask(c *cell) {
	c.pod = v.asks(c.repo, c.token, strings.ReplaceAll(c.String(), " ", "-"))
}

// disturb brings the Hub into the wave's state, for the wave's repositories. restore
// returns when it answers again, and has cut what was being sent.
func (v *wave) disturb() (restore func()) {
	const limit = 45 * time.Second
	over := time.Now().Add(limit)
	var backs []func()
	for _, m := range v.repos() {
		switch v.state {
		case "away":
			backs = append(backs, v.hub.Away(m.repo))
		case "limited":
			v.hub.RateLimit(m.repo, limit)
		}
	}
	return func() {
		if v.state == "limited" {
			if left := time.Until(over); left < 0 {
				v.t.Errorf("the limit was over %s before all had been looked at", -left)
			}
			time.Sleep(time.Until(over))
		}
		for _, m := range v.repos() {
			v.hub.Cut(m.repo, 0, 8) // a revoked token is noticed with the next request
			v.hub.Throttle(m.repo, 0)
		}
		for _, back := range backs {
			back()
		}
	}
}

// repos are the wave's, each once.
func (v *wave) repos() (all []model) {
	for _, c := range v.cells {
		if !slices.ContainsFunc(all, func(m model) bool { return m.repo == c.repo.repo }) {
			all = append(all, c.repo)
		}
	}
	return all
}

// atFirst checks what a pod gets while the Hub is in the wave's state.
func (v *wave) atFirst(c *cell) {
	switch {
	case c.waits:
		v.eventOf(v.t, c.pod, 20*time.Second, v.waiting(c)...)
		v.nothingFor(v.t, c.pod)
		v.toldNoMoreThan(c)
	case c.held(): // what comes of it is seen in the end
	default:
		v.inTheEnd(c)
	}
}

// waiting are words of what a pod is told that waits.
func (v *wave) waiting(c *cell) []string {
	switch {
	case c.state == "flight" && (c.visible == "public" || c.token == "good" || c.token == "revoked"): // it waits for bytes
		return []string{c.repo.repo, "% of"}
	case v.state == "limited":
		return []string{"BallastWaiting", "rate limited", c.repo.repo}
	}
	return []string{"BallastWaiting", c.repo.repo}
}

// toldNoMoreThan checks that a pod which was not let through has heard nothing of what
// the repository holds: no share, no size, and no file unless the Hub lists them to all.
func (v *wave) toldNoMoreThan(c *cell) {
	if c.visible == "public" || c.token == "good" || c.token == "revoked" && c.state != "miss" {
		return
	}
	secrets := []string{"% of", " kB"}
	if c.visible == "private" {
		secrets = append(secrets, ".safetensors", ".json")
	}
	for _, said := range v.messages(v.t, c.pod) {
		if slices.ContainsFunc(secrets, func(secret string) bool { return strings.Contains(said, secret) }) {
			v.t.Errorf("%s: was told %q", c, said)
		}
	}
}

// What differs between two refusals that are otherwise the same.
var incidental = regexp.MustCompile(`org/(tenants|lent)-[a-z-]+|@?[0-9a-f]{40}|@[0-9a-f]{7}\b|\(request [^)]*\)|, [0-9]+ times`)

// privateIsAsIfMissing checks that who may not read a private repository cannot tell from
// any message whether this node has it, or fetches it, for somebody else.
func (v *wave) privateIsAsIfMissing() {
	for _, token := range []string{"none", "other"} {
		told := map[string][]string{}
		for _, c := range v.cells {
			if c.visible != "private" || c.token != token {
				continue
			}
			for _, said := range v.messages(v.t, c.pod) {
				if strings.Contains(said, "FailedMount") || strings.Contains(said, "Ballast") && v.state != "limited" { // a limit's rest is another each time
					told[c.state] = append(told[c.state], incidental.ReplaceAllString(said, "*"))
				}
			}
			slices.Sort(told[c.state])
			told[c.state] = slices.Compact(told[c.state])
		}
		for _, state := range []string{"hit", "flight"} {
			if !slices.Equal(told[state], told["miss"]) {
				v.t.Errorf("private %s %s was told\n%s\nand of one that nobody fetched\n%s", state, token, strings.Join(told[state], "\n"), strings.Join(told["miss"], "\n"))
			}
		}
	}
}

// inTheEnd checks what a pod gets once nothing is in its way.
func (v *wave) inTheEnd(c *cell) {
	if c.runs {
		v.running(v.t, c.pod, time.Minute)
		v.check(v.t, c.pod, modelDir, c.repo, "")
		return
	}
	v.eventOf(v.t, c.pod, time.Minute, append([]string{c.repo.repo}, refusals[c.visible+" "+c.token]...)...)
	v.nothingFor(v.t, c.pod)
}

// neverMounted checks, by the driver's own word, that what did not run had no mount at
// any time.
func (v *wave) neverMounted() {
	for _, c := range v.cells {
		for line := range strings.Lines(v.saidBy(v.t, csi, c.pod)) {
			if name := fmt.Sprintf(`"pod":"%s/%s"`, c.pod.Namespace, c.pod.Name); !c.runs && strings.Contains(line, `"msg":"mounted"`) && strings.Contains(line, name) {
				v.t.Errorf("%s: %s", c, line)
			}
		}
	}
}

// leave removes all pods, of which nothing stays.
func (v *wave) leave() {
	var pods []*corev1.Pod
	for _, c := range v.cells {
		pods = append(pods, c.pod)
	}
	pods = append(pods, v.help...)
	v.removeAll(v.t, pods, time.Minute)
	for _, p := range pods {
		v.noTraces(v.t, p, 10*time.Second)
	}
}
