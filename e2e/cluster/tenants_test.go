package cluster

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// tenants is what rule 10 of the design gives to whom, of a commit that the pod names.
// The good token's namespace has fetched what is a hit, and fetches what is in flight;
// the other's has no Secret, or one of an account that may read what is public. A
// revoked token was good: it has a proof of a hit, and the flight is its own.
//
//	runs         at once, or when what its bytes wait for is over
//	refused      what a person must mend is told, and the pod never runs
//	waits,runs   it is told what it waits for, and runs once the Hub answers
//	waits,refused
const tenants = `
                          the Hub answers   is away         limits
public   hit     none     runs              runs            runs
public   hit     good     runs              runs            runs
public   hit     revoked  runs              runs            runs
public   hit     other    runs              runs            runs
public   miss    none     runs              waits,runs      waits,runs
public   miss    good     runs              waits,runs      waits,runs
public   miss    revoked  runs              waits,runs      waits,runs
public   miss    other    runs              waits,runs      waits,runs
public   flight  none     waits,runs        waits,runs      waits,runs
public   flight  good     waits,runs        waits,runs      waits,runs
public   flight  revoked  waits,runs        waits,runs      waits,runs
public   flight  other    waits,runs        waits,runs      waits,runs
gated    hit     none     refused           waits,refused   waits,refused
gated    hit     good     runs              runs            runs
gated    hit     revoked  runs              runs            runs
gated    hit     other    refused           waits,refused   waits,refused
gated    miss    none     refused           waits,refused   waits,refused
gated    miss    good     runs              waits,runs      waits,runs
gated    miss    revoked  refused           waits,refused   waits,refused
gated    miss    other    refused           waits,refused   waits,refused
gated    flight  none     refused           waits,refused   waits,refused
gated    flight  good     waits,runs        waits,runs      waits,runs
gated    flight  revoked  refused           waits,refused   waits,refused
gated    flight  other    refused           waits,refused   waits,refused
private  hit     none     refused           waits,refused   waits,refused
private  hit     good     runs              runs            runs
private  hit     revoked  runs              runs            runs
private  hit     other    refused           waits,refused   waits,refused
private  miss    none     refused           waits,refused   waits,refused
private  miss    good     runs              waits,runs      waits,runs
private  miss    revoked  refused           waits,refused   waits,refused
private  miss    other    refused           waits,refused   waits,refused
private  flight  none     refused           waits,refused   waits,refused
private  flight  good     waits,runs        waits,runs      waits,runs
private  flight  revoked  refused           waits,refused   waits,refused
private  flight  other    refused           waits,refused   waits,refused
`

// What the events say, of whom is refused by repository and token.
var refusals = map[string][]string{
	"gated none":      {"is gated", "accept the repository's conditions", "nodePublishSecretRef"},
	"gated other":     {"is gated", "as the account of the Secret's HF_TOKEN"},
	"gated revoked":   {"token is not valid", "put a valid token into the Secret"},
	"private none":    {"private or does not exist", "HF_TOKEN in nodePublishSecretRef"},
	"private other":   {"private or does not exist", "account of the Secret's HF_TOKEN may read it"},
	"private revoked": {"token is not valid", "put a valid token into the Secret"},
}

// cell is one of the matrix: what a pod of a token gets of a repository.
type cell struct {
	visible, state, token string
	waits, runs           bool // first; and in the end
	repo                  model
	pod                   *corev1.Pod
}

func (c cell) String() string { return c.visible + " " + c.state + " " + c.token }

// held says whether the repository's content is kept back until the wave's end.
func (c cell) held() bool {
	return c.state == "flight" || c.state == "miss" && c.token == "revoked"
}

// parseTenants reads a column of the matrix.
func parseTenants(t *testing.T, column int) (cells []*cell) {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(tenants), "\n")[1:] {
		f := strings.Fields(line)
		first, last, waits := strings.Cut(f[3+column], ",")
		if !waits {
			first, last = "", first
		}
		if first != "" && first != "waits" || last != "runs" && last != "refused" {
			t.Fatalf("what is %q", line)
		}
		cells = append(cells, &cell{visible: f[0], state: f[1], token: f[2], waits: waits, runs: last == "runs"})
	}
	if len(cells) != 3*3*4 {
		t.Fatalf("%d lines are read", len(cells))
	}
	return cells
}

// TestTenantsGetWhatTheyCouldFetchThemselves: on a real node, by what pods see and are
// told. Package agent's table of the same has what is asked of whom.
func TestTenantsGetWhatTheyCouldFetchThemselves(t *testing.T) {
	w := theWorld(t)
	for column, state := range []string{"answers", "away", "limited"} {
		t.Run(state, func(t *testing.T) { newWave(t, w, column, state).run() })
	}
}
