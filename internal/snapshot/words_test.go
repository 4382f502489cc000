package snapshot

import "testing"

// TestEachFailureReasonHasItsClass: the reasons where the class is not plain, and of those
// of the newest releases (docs/gitlab-api.md 11 and 12).
func TestEachFailureReasonHasItsClass(t *testing.T) {
	for word, want := range map[string]FailureClass{
		"": OtherFailure, "no such reason": OtherFailure, "script_failure": Script, "job_execution_timeout": Script,
		"job_execution_server_timeout": Infrastructure, "no_updates_running": Infrastructure, "no_updates_canceling": Infrastructure,
		"server_timeout_running": Infrastructure, "server_timeout_canceling": Infrastructure,
		"runner_interrupted": Infrastructure, "runner_external_dependency_failure": Infrastructure, "job_router_failure": Infrastructure,
		"runner_configuration_error": OtherFailure, "id_token_burned_project_path": OtherFailure,
		"downstream_project_trigger_resolved_to_empty": OtherFailure, "stuck_pending_no_matching_runners": OtherFailure,
	} {
		r := ParseFailureReason(word)
		if r.Class() != want {
			t.Errorf("%q is %s, want %s", word, r.Class(), want)
		}
		if known := word != "" && word != "no such reason"; known != (r.String() == word) {
			t.Errorf("%q becomes %q", word, r)
		}
	}
	seen := map[string]bool{}
	for i := range NumFailureReasons() {
		name := FailureReason(i).String()
		if seen[name] {
			t.Errorf("%q stands twice", name)
		}
		seen[name] = true
	}
}
