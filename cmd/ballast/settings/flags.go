package settings

import (
	"fmt"
	"reflect"
	"time"

	"github.com/spf13/pflag"
)

// Register adds a flag for every option that has one, in the struct that of points to.
// What the fields hold is the default.
func Register(flags *pflag.FlagSet, of any) { register(flags, reflect.ValueOf(of).Elem()) }

func register(flags *pflag.FlagSet, of reflect.Value) {
	for _, f := range fieldsOf(of.Type()) {
		at := of.FieldByIndex(f.Index)
		if at.Kind() == reflect.Struct {
			register(flags, at)
		}
		if f.flag == "" {
			continue
		}
		switch to := at.Addr().Interface().(type) {
		case pflag.Value:
			flags.Var(to, f.flag, f.doc)
		case *string:
			flags.StringVar(to, f.flag, *to, f.doc)
		case *bool:
			flags.BoolVar(to, f.flag, *to, f.doc)
		case *int:
			flags.IntVar(to, f.flag, *to, f.doc)
		case *int64:
			flags.Int64Var(to, f.flag, *to, f.doc)
		case *float64:
			flags.Float64Var(to, f.flag, *to, f.doc)
		case *time.Duration:
			flags.DurationVar(to, f.flag, *to, f.doc)
		default:
			panic(fmt.Sprintf("settings: --%s has type %T", f.flag, to)) // our own mistake
		}
	}
}

// Override copies into the struct that into points to what flags were given, from the one
// that they were registered for, and of them p no longer says the line.
func (p *Places) Override(flags *pflag.FlagSet, given, into any) {
	p.override(flags, "", reflect.ValueOf(given).Elem(), reflect.ValueOf(into).Elem())
}

func (p *Places) override(flags *pflag.FlagSet, path string, given, into reflect.Value) {
	for _, f := range fieldsOf(given.Type()) {
		at, from := join(path, f.key), given.FieldByIndex(f.Index)
		switch {
		case f.flag != "" && flags.Changed(f.flag):
			into.FieldByIndex(f.Index).Set(from)
			p.flagged(at)
		case from.Kind() == reflect.Struct:
			p.override(flags, at, from, into.FieldByIndex(f.Index))
		}
	}
}
