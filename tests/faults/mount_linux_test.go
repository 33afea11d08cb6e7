package faults

import "syscall"

// mountSmall mounts a file system in memory of that size.
func mountSmall(at, size string) error {
	return syscall.Mount("none", at, "tmpfs", 0, "mode=755,size="+size)
}

func unmount(at string) error { return syscall.Unmount(at, 0) }
