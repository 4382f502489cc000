package collector

import "strings"

// MarkdownTable is THE table as Markdown, for the README and the reference: one
// table each for the fleet, its runners, and the exporter itself.
func MarkdownTable() string {
	var b strings.Builder
	for i, part := range []struct {
		group Group
		title string
	}{
		{GroupFleet, "The fleet. Every family has the label `shard` too where `--shard.count` is above 1."},
		{GroupRunner, "Each runner. The label `shard` likewise."},
		{GroupExporter, "The exporter about itself."},
	} {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(part.title + "\n\n| family | type | labels | stability | series per GitLab | meaning |\n|---|---|---|---|---|---|\n")
		for _, f := range Families() {
			if f.Group != part.group {
				continue
			}
			labels := ""
			if len(f.Labels) > 0 {
				labels = "`" + strings.Join(f.Labels, "`, `") + "`"
			}
			cells := []string{"`" + f.Name + "`", string(f.Type), labels, string(f.Stability), f.Series, f.Help}
			for i := range cells {
				cells[i] = strings.ReplaceAll(cells[i], "|", `\|`)
			}
			b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
		}
	}
	return b.String()
}
