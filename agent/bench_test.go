package agent_test

import (
	"fmt"
	"testing"
)

// BenchmarkAHitOfManyFiles pins a View of 100,000 files for one Volume after the other.
func BenchmarkAHitOfManyFiles(b *testing.B) {
	w := newWorld(b).start()
	w.hub.PageSize(100_000)
	files := map[string][]byte{}
	for i := range 100_000 {
		files[fmt.Sprintf("d%02d/%05d.txt", i%100, i)] = fmt.Appendf(nil, "%d", i%4)
	}
	w.hub.AddRepo("org/many", files)
	w.must(request("first", "org/many"))
	for i := 0; b.Loop(); i++ {
		w.must(request(fmt.Sprint(i), "org/many"))
	}
}
