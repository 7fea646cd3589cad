package main

import "syscall"

// setDataLimit bounds what the process may write to, which is what the collector cannot keep small for it.
func setDataLimit(bytes uint64) {
	limit := syscall.Rlimit{Cur: bytes, Max: bytes}
	_ = syscall.Setrlimit(syscall.RLIMIT_DATA, &limit)
}
