//go:build !linux

package pgtest

// fastFolder is the system's place for temporary folders.
func fastFolder() string { return "" }
