package gitlabsim

// Quiesce ends the creation of pipelines: once the jobs that exist have ended,
// a test can compare to the last one.
func (w *World) Quiesce() { w.setQuiet(true) }

// Resume lets pipelines be created again.
func (w *World) Resume() { w.setQuiet(false) }

func (w *World) setQuiet(quiet bool) {
	w.lock()
	defer w.mu.Unlock()
	w.quiet = quiet
}
