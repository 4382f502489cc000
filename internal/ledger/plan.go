package ledger

// WalkWanted reports whether a runner is to be walked before reconcile_interval
// is over: a walk is under way, or its list grew by more than was met.
func (l *Ledger) WalkWanted(id int64) bool {
	r := l.runners[id]
	return r != nil && (r.walk.started != 0 || r.hinted)
}
