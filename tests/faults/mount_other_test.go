//go:build !linux

package faults

import "errors"

func mountSmall(_, _ string) error { return errors.New("only on Linux") }

func unmount(string) error { return nil }
