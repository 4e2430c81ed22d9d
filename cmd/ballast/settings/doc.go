// Package settings owns how one struct of options is told to a program: by a YAML file,
// by flags, and how it is printed with a comment for each.
//
// It must never know what an option means: names, defaults and what is allowed are the
// struct's owner's.
//
// A field's tags are all that is said of it, once:
//
//	Dir string `yaml:"dir" flag:"cache-dir" doc:"directory of the cache"`
//
// yaml is its key in the file, and needed; flag is there if it has a flag; doc says what it
// is, with unit and form. Fields are string, bool, int, int64, float64, time.Duration,
// []string, structs of such (a mapping), pointers to these (a mapping that may be absent)
// and slices of these (a list). A field with a flag may have a type of its own, whose
// pointer is a pflag.Value.
//
// Invariants:
//   - What a file says is taken whole or not at all: an unknown or repeated key, a value
//     of another type, one without a value, and a second document are errors with their
//     line, and all of them are told at once.
//   - No error repeats a value: somebody may have put a secret where none belongs.
//   - What Print writes, Read takes, and it means the same.
package settings
