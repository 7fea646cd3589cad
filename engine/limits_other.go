//go:build !linux

package main

func setDataLimit(uint64) {}
