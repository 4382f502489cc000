package store

var children = map[string]func(arg string) int{}
