package localpg

import (
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Numbers of Linux capabilities. The first only reads and enters; containers often have just the second, which root in them has too.
const (
	capDacOverride   = 1
	capDacReadSearch = 2
)

// apart starts a process in a group of its own, so that the terminal's Ctrl-C reaches us alone and the server stops after us.
func apart(who *account) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if who != nil {
		attr.Credential = &syscall.Credential{Uid: who.uid, Gid: who.gid}
		attr.AmbientCaps = who.caps
	}
	return attr
}

// passCapability returns the smallest capability we have that lets the server enter folders closed to it, or nil.
func passCapability() []uintptr {
	held := permittedCaps()
	for _, number := range []uintptr{capDacReadSearch, capDacOverride} {
		if held&(1<<number) != 0 {
			return []uintptr{number}
		}
	}
	return nil
}

func permittedCaps() uint64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if mask, ok := strings.CutPrefix(line, "CapPrm:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			if err != nil {
				return 0
			}
			return caps
		}
	}
	return 0
}

func ownedBy(who *account, info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Uid == who.uid
}
