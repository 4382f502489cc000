package gitlabsim

// Quiesce ends the creation of pipelines: once the jobs that exist have ended,
// a test can compare to the last one.
func (w *World) Quiesce() {
	w.lock()
	defer w.mu.Unlock()
	w.quiet = true
}
