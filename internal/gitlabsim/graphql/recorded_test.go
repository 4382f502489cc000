package graphql_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"gitlab-runner-fleet-exporter/internal/gitlabsim/graphql"
	"gitlab-runner-fleet-exporter/internal/gitlabsim/graphql/recording"
)

// TestAnswersEqualGraphQLRubys: of the same fleet the simulator answers what graphql-ruby
// answers: messages, codes, places, paths, data and cursors, in full.
func TestAnswersEqualGraphQLRubys(t *testing.T) {
	for _, release := range recording.Releases {
		t.Run(release, func(t *testing.T) {
			exchanges, err := recording.Load(release)
			if err != nil || len(exchanges) < 8 {
				t.Fatalf("%d exchanges, %v", len(exchanges), err)
			}
			w := recording.World(release)
			s, err := graphql.Mount(w)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range exchanges {
				s.SetLimit(x.Limit)
				body, err := json.Marshal(map[string]any{"query": x.Query, "variables": x.Variables})
				if err != nil {
					t.Fatal(err)
				}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://gitlab.test/api/graphql", bytes.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("PRIVATE-TOKEN", x.Token)
				req.Header.Set("Content-Type", "application/json")
				resp, err := w.RoundTripper().RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil {
					t.Fatal(err)
				}
				var a, b any
				if err := json.Unmarshal(got, &a); err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(x.Answer, &b); err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(a, b) {
					a, _ := json.MarshalIndent(a, "", " ") // as the keys are sorted
					b, _ := json.MarshalIndent(b, "", " ")
					t.Errorf("%s %s\n%s", x.Query, x.Variables, difference(string(a), string(b)))
				}
			}
		})
	}
}

// difference is the first line that differs, and the lines around it.
func difference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			from := max(0, i-4)
			return "got\n" + strings.Join(a[from:i+1], "\n") + "\ngraphql-ruby:\n" + strings.Join(b[from:i+1], "\n")
		}
	}
	return "got\n" + got + "\ngraphql-ruby:\n" + want
}
