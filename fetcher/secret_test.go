package fetcher_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/ballast-csi/ballast/fetcher"
)

func TestSecretNeverPrints(t *testing.T) {
	const token = "hf_sekrit"
	s := fetcher.NewSecret(token)
	holder := struct {
		Token   fetcher.Secret
		Pointer *fetcher.Secret
		List    []fetcher.Secret
		Map     map[string]fetcher.Secret
		hidden  fetcher.Secret
	}{s, &s, []fetcher.Secret{s}, map[string]fetcher.Secret{"k": s}, s}
	shown := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%T"} {
		shown[verb] = fmt.Sprintf(verb, s) + fmt.Sprintf(verb, &s)
		if verb != "%T" && shown[verb] != "[redacted][redacted]" {
			t.Errorf("%s gives %s", verb, shown[verb])
		}
		shown[verb+" of a struct"] = fmt.Sprintf(verb, holder)
	}
	shown["Print"] = fmt.Sprint(s, &s, []any{s})
	shown["error"] = fmt.Errorf("with %v", s).Error()
	text, err := json.Marshal(holder)
	shown["JSON"] = string(text)
	if err != nil || !strings.Contains(string(text), "[redacted]") {
		t.Errorf("JSON: %s, %v", text, err)
	}
	for name, encoder := range map[string]zapcore.Encoder{
		"zap JSON":    zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()),
		"zap console": zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()),
	} {
		var out bytes.Buffer
		log := zap.New(zapcore.NewCore(encoder, zapcore.AddSync(&out), zap.DebugLevel))
		log.Info("m", zap.Any("any", s), zap.Stringer("stringer", s), zap.Reflect("reflect", s), zap.Any("struct", holder), zap.Any("pointer", &s), zap.Any("list", []fetcher.Secret{s}))
		log.Sugar().Infow("m", "sugar", s, "struct", holder)
		log.Sugar().Infof("%v %+v", s, holder)
		shown[name] = out.String()
	}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "s", s, "h", holder)
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "s", s, "h", holder)
	shown["slog"] = out.String()
	for how, what := range shown {
		if strings.Contains(what, token) || strings.Contains(strings.ToLower(what), fmt.Sprintf("%x", token)) {
			t.Errorf("%s shows the token: %s", how, what)
		}
	}
	if s.Reveal() != token || s.IsZero() || !(fetcher.Secret{}).IsZero() {
		t.Error("the secret has lost its value")
	}
}

func TestOnlyWhatAHeaderCanHoldIsAToken(t *testing.T) {
	const most = 8 << 10
	for text, want := range map[string]string{
		"": "", " \n": "", "hf_a": "hf_a", " hf_a\r\n": "hf_a", "!~": "!~", strings.Repeat("a", most): strings.Repeat("a", most),
	} {
		if s, err := fetcher.ParseSecret(text); err != nil || s.Reveal() != want {
			t.Errorf("%.20q: %q, %v", text, s.Reveal(), err)
		}
	}
	for _, text := range []string{"hf_se krit", "hf_sekrit\nx", "hf_\x00sekrit", "hf_\x7fsekrit", "hf_sekrit\u00e9", "hf_sekrit\xff", "Bearer hf_sekrit", "sekrit" + strings.Repeat("a", most)} {
		s, err := fetcher.ParseSecret(text)
		if err == nil || !s.IsZero() {
			t.Errorf("%.20q is taken for %q", text, s.Reveal())
		} else if strings.Contains(err.Error(), "sekrit") {
			t.Errorf("%.20q: the error shows it: %v", text, err)
		}
	}
}

func TestTransientAndDeniedAreTold(t *testing.T) {
	cause := errors.New("x")
	for _, c := range []struct {
		err                            error
		transient, unreachable, denied bool
	}{
		{nil, false, false, false},
		{cause, false, false, false},
		{&fetcher.UnreachableError{Err: cause}, true, true, false},
		{fmt.Errorf("w: %w", &fetcher.UnreachableError{Err: cause}), true, true, false},
		{fmt.Errorf("w: %w", &fetcher.RateLimitedError{RetryAfter: time.Second, Err: cause}), true, false, false},
		{fmt.Errorf("w: %w", fetcher.ErrGated), false, false, true},
		{fmt.Errorf("w: %w", fetcher.ErrNotFound), false, false, true},
		{fmt.Errorf("w: %w", fetcher.ErrBadToken), false, false, true},
		{fmt.Errorf("w: %w", fetcher.ErrForbidden), false, false, true},
		{fmt.Errorf("w: %w", fetcher.ErrRevisionNotFound), false, false, false},
		{fmt.Errorf("w: %w", fetcher.ErrMalformed), false, false, false},
		{&fetcher.MismatchError{Err: fetcher.ErrCollision}, false, false, false},
	} {
		if fetcher.Transient(c.err) != c.transient || fetcher.Unreachable(c.err) != c.unreachable || fetcher.Denied(c.err) != c.denied {
			t.Errorf("%v: transient %v, unreachable %v, denied %v", c.err, fetcher.Transient(c.err), fetcher.Unreachable(c.err), fetcher.Denied(c.err))
		}
	}
}
