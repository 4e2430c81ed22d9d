package hub

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// setHeaders sets what the Hub sends with every answer: the quota is that of an
// anonymous caller, and never used up.
func setHeaders(h http.Header, request int64, t target) {
	bucket, quota := t.bucket()
	h.Set("X-Request-Id", fmt.Sprintf("Root=1-%08x", request))
	h.Set("RateLimit", fmt.Sprintf(`"%s";r=%d;t=300`, bucket, quota))
	h.Set("RateLimit-Policy", fmt.Sprintf(`"fixed window";"%s";q=%d;w=300`, bucket, quota))
}

// bucket is what a request is counted in, and how many fit a window of five minutes.
func (t target) bucket() (name string, quota int) {
	if t.verb == "resolve" {
		return "resolvers", 3000
	}
	return "api", 500
}

// tooMany answers 429 as a mirror passes one of its upstream's on, which is about one
// repository: it says when to come back, and nothing is used up.
func tooMany(w http.ResponseWriter, wait time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	fail(w, http.StatusTooManyRequests, "", "We had to rate limit you.")
}

// fail answers with an error in the Hub's form.
func fail(w http.ResponseWriter, status int, code, message string) {
	if code != "" {
		w.Header().Set("X-Error-Code", code)
	}
	w.Header().Set("X-Error-Message", message)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": message}) // the caller is gone, then
}

func unauthorized(w http.ResponseWriter, message string) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="Authentication required", charset="UTF-8"`)
	fail(w, http.StatusUnauthorized, "", message)
}

func noPage(w http.ResponseWriter) {
	fail(w, http.StatusNotFound, "", "Sorry, we can't find the page you are looking for.")
}

// noRepository answers for one that is missing, or private: who brings no token is not
// told which.
func noRepository(w http.ResponseWriter, token string) {
	if token == "" {
		unauthorized(w, "Invalid username or password.")
		return
	}
	fail(w, http.StatusNotFound, "RepoNotFound", "Repository not found")
}
