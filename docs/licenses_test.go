package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestLicensesAreListedAndPermissive: a new dependency with a license that asks
// for more than to be named must not come in unseen.
func TestLicensesAreListedAndPermissive(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}", ".")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64") // the same table on each machine
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	modules := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(modules)
	modules = slices.Compact(modules)
	if len(modules) < 15 {
		t.Fatalf("%d modules found: the search is broken", len(modules))
	}
	var b strings.Builder
	b.WriteString("| module | version | license |\n|---|---|---|\n")
	for _, module := range modules {
		fields := strings.Fields(module)
		if len(fields) != 3 {
			continue // a package of the standard library, or without a folder
		}
		license := licenseOf(t, fields[2])
		if license == "" {
			t.Errorf("%s: no license that is known to be permissive: look at it, and teach this test or take another module", fields[0])
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", fields[0], fields[1], license)
	}
	generated(t, "licenses.md", "licenses", b.String())
}

// licenseOf recognizes permissive licenses by what stands in each of their texts.
func licenseOf(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "LICEN[SC]E*"))
	if more, _ := filepath.Glob(filepath.Join(dir, "COPYING*")); err != nil || len(files)+len(more) == 0 {
		t.Errorf("%s: no file with a license", dir)
		return ""
	} else if len(files) == 0 {
		files = more
	}
	text := strings.Join(strings.Fields(read(t, files[0])), " ")
	has := func(s string) bool { return strings.Contains(text, s) }
	switch {
	case has("GENERAL PUBLIC LICENSE") || has("Mozilla Public License"):
		return ""
	case has("Apache License Version 2.0"):
		return "Apache-2.0"
	case has("Permission is hereby granted, free of charge, to any person obtaining a copy"):
		return "MIT"
	case has("Redistribution and use in source and binary forms") && has("endorse or promote products"):
		return "BSD-3-Clause"
	case has("Redistribution and use in source and binary forms"):
		return "BSD-2-Clause"
	case has("Permission to use, copy, modify, and/or distribute this software for any purpose"):
		return "ISC"
	}
	return ""
}
