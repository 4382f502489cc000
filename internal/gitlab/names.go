package gitlab

// The names that GitLab stores become labels of metrics as they are, but for the
// one thing that never may: somebody names a runner, or tags it, by its token.
// Only long secrets are masked here (Options.ScrubNames), since a password such
// as "docker" must not change a tag.

func (c *Client) nameRunner(r *Runner) { r.Description = c.names(r.Description) }

func (c *Client) nameDetails(d *RunnerDetails) {
	c.nameRunner(&d.Runner)
	for i, tag := range d.Tags {
		d.Tags[i] = c.names(tag)
	}
	for _, s := range []*string{&d.Version, &d.Platform, &d.Arch, &d.Owner} {
		*s = c.names(*s)
	}
}

func (c *Client) nameManagers(ms []Manager) {
	for i := range ms {
		for _, s := range []*string{&ms[i].Version, &ms[i].Platform, &ms[i].Arch} {
			*s = c.names(*s)
		}
	}
}
