//go:build !linux

package localpg

import (
	"io/fs"
	"syscall"
)

// apart starts a process in a group of its own, so that the terminal's Ctrl-C reaches us alone and the server stops after us.
func apart(who *account) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if who != nil {
		attr.Credential = &syscall.Credential{Uid: who.uid, Gid: who.gid}
	}
	return attr
}

func passCapability() []uintptr { return nil }

func ownedBy(who *account, info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Uid == who.uid
}
