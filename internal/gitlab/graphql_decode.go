package gitlab

import (
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	errNoPath   = errors.New("the object has no full path")
	errNoAnswer = errors.New("neither data nor errors")
)

// globalID is GitLab's id of one model: gid://gitlab/Ci::Runner/7. 0: not one.
func globalID(gid, model string) int64 {
	text, ok := strings.CutPrefix(gid, "gid://gitlab/"+model+"/")
	if !ok {
		return 0
	}
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 0 {
		return 0
	}
	return id
}

type fleetRow struct {
	ID           string   `json:"id"`
	Description  string   `json:"description"`
	Type         string   `json:"runnerType"`
	Status       string   `json:"status"`
	Execution    string   `json:"jobExecutionStatus"`
	Paused       answer   `json:"paused"`
	Active       answer   `json:"active"`
	Executing    int      `json:"executing"`
	Tags         []string `json:"tagList"`
	RunUntagged  bool     `json:"runUntagged"`
	Access       string   `json:"accessLevel"`
	ContactedAt  stamp    `json:"contactedAt"`
	Version      string   `json:"version"`
	Platform     string   `json:"platformName"`
	Arch         string   `json:"architectureName"`
	OwnerProject struct {
		FullPath string `json:"fullPath"`
	} `json:"ownerProject"`
	Groups struct {
		Nodes [1]struct {
			FullPath string `json:"fullPath"`
		} `json:"nodes"`
	} `json:"groups"`
	Managers *struct {
		PageInfo struct {
			HasNextPage bool `json:"hasNextPage"`
		} `json:"pageInfo"`
		Nodes []struct {
			ID          string `json:"id"`
			SystemID    string `json:"systemId"`
			Version     string `json:"version"`
			Platform    string `json:"platformName"`
			Arch        string `json:"architectureName"`
			Status      string `json:"status"`
			ContactedAt stamp  `json:"contactedAt"`
		} `json:"nodes"`
	} `json:"managers"`
}

// runner is a row in REST's words, so that whoever reads it need not know
// where it came from.
func (r *fleetRow) runner() FleetRunner {
	out := FleetRunner{
		RunnerDetails: RunnerDetails{
			Runner: Runner{
				ID: globalID(r.ID, "Ci::Runner"), Description: r.Description, Type: strings.ToLower(r.Type),
				Status: strings.ToLower(r.Status), Execution: strings.ToLower(r.Execution), Active: r.Active.v, Paused: r.Paused.v,
			},
			RunUntagged: r.RunUntagged, Protected: r.Access == "REF_PROTECTED", ContactedAt: r.ContactedAt.Time,
			Version: r.Version, Platform: r.Platform, Arch: r.Arch,
		},
		Executing: r.Executing,
	}
	switch out.Status {
	case "online":
		out.Online = new(true)
	case "never_contacted", "not_connected": // null in REST
	default: // offline, stale, and words of the future: not known to be up
		out.Online = new(false)
	}
	for _, t := range r.Tags {
		if t != "" {
			out.Tags = append(out.Tags, t)
		}
	}
	switch out.Type {
	case "group_type":
		out.Owner = r.Groups.Nodes[0].FullPath
	case "project_type":
		out.Owner = r.OwnerProject.FullPath
	}
	r.managers(&out)
	return out
}

func (r *fleetRow) managers(out *FleetRunner) {
	switch {
	case r.Managers == nil || r.Managers.Nodes == nil:
		return
	case r.Managers.PageInfo.HasNextPage:
		out.ManagersCut = true
	}
	managers := make([]Manager, 0, len(r.Managers.Nodes))
	var last Manager
	for _, m := range r.Managers.Nodes {
		id := globalID(m.ID, "Ci::RunnerManager")
		if id == 0 {
			continue
		}
		manager := Manager{
			ID: id, SystemID: m.SystemID, Version: m.Version, Platform: m.Platform, Arch: m.Arch,
			Status: strings.ToLower(m.Status), ContactedAt: m.ContactedAt.Time,
		}
		// As REST does: of the machine that contacted GitLab last.
		if newer := manager.ContactedAt.Compare(last.ContactedAt); last.ID == 0 || newer > 0 || newer == 0 && id < last.ID {
			last = manager
		}
		managers = append(managers, manager)
	}
	if last.ID != 0 {
		out.Version, out.Platform, out.Arch = last.Version, last.Platform, last.Arch
	}
	if !out.ManagersCut {
		slices.SortFunc(managers, func(a, b Manager) int { return int(min(max(a.ID-b.ID, -1), 1)) })
		out.Managers = managers
	}
}

// fleetAnswer is a GraphQL answer, of which any part may be missing.
type fleetAnswer struct {
	page   GraphQLPage
	ran    bool // there is data, though it may be null: the query was understood
	data   bool // it is not null
	group  bool // data tells of a group, be it null
	list   bool // runners were told
	legacy bool // a status that hides whether a paused runner is up: to 15.11
	errors []graphqlError
}

// graphqlError is one element of errors.
type graphqlError struct {
	Message    string `json:"message"`
	Path       []any  `json:"path"`
	Extensions struct {
		Code string `json:"code"`
	} `json:"extensions"`
}

// maxGraphQLErrors bounds what is kept of them.
const maxGraphQLErrors = 64

// walkObject calls each for each member of an object, which must read its
// value. null is an object without members.
func walkObject(dec *json.Decoder, each func(key string) error) (null bool, err error) {
	first, err := dec.Token()
	switch {
	case err != nil:
		return false, err
	case first == nil:
		return true, nil
	case first != json.Delim('{'):
		return false, errNotObject
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return false, err
		}
		name, _ := key.(string)
		if err := each(name); err != nil {
			return false, err
		}
	}
	_, err = dec.Token()
	return false, err
}

// member decodes one value; of an unexpected type it stays empty.
func member[T any](dec *json.Decoder, v *T) error {
	if err := dec.Decode(v); err != nil && !isWrongType(err) {
		return err
	}
	return nil
}

func skipValue(dec *json.Decoder) error {
	var raw json.RawMessage
	return dec.Decode(&raw)
}

// decodeFleet streams an answer: a page of runners with a hundred machines each
// is megabytes, of which one row is held at a time.
func decodeFleet(dec *json.Decoder) (*fleetAnswer, error) {
	a := &fleetAnswer{}
	null, err := walkObject(dec, func(key string) error {
		switch key {
		case "data":
			null, err := walkObject(dec, func(key string) error { return a.member(dec, key) })
			a.ran, a.data = true, err == nil && !null
			return err
		case "errors":
			_, err := decodeRows(dec, graphqlError{}, func(e *graphqlError) {
				if len(a.errors) < maxGraphQLErrors {
					a.errors = append(a.errors, *e)
				}
			})
			return err
		}
		return skipValue(dec)
	})
	switch {
	case err != nil:
		return nil, err
	case null || !a.data && len(a.errors) == 0:
		return nil, errNoAnswer
	}
	if err := end(dec); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *fleetAnswer) member(dec *json.Decoder, key string) error {
	switch key {
	case "queryComplexity":
		var c struct{ Score, Limit int }
		err := member(dec, &c)
		a.page.Complexity, a.page.Limit = c.Score, c.Limit
		return err
	case "group":
		a.group = true
		_, err := walkObject(dec, func(key string) error { return a.member(dec, key) })
		return err
	case "runners":
		null, err := walkObject(dec, func(key string) error {
			switch key {
			case "pageInfo":
				return a.pageInfo(dec)
			case "nodes":
				_, err := decodeRows(dec, fleetRow{Executing: -1}, a.row)
				return err
			}
			return skipValue(dec)
		})
		a.list = err == nil && !null
		return err
	}
	return skipValue(dec)
}

func (a *fleetAnswer) pageInfo(dec *json.Decoder) error {
	var info struct {
		HasNextPage bool   `json:"hasNextPage"`
		EndCursor   string `json:"endCursor"`
	}
	if err := member(dec, &info); err != nil {
		return err
	}
	if info.HasNextPage {
		if info.EndCursor == "" {
			return errNoCursor
		}
		a.page.Next = info.EndCursor
	}
	return nil
}

var errNoCursor = errors.New("more pages are announced without a cursor")

func (a *fleetAnswer) row(row *fleetRow) {
	r := row.runner()
	switch {
	case r.ID == 0:
		a.page.Skipped++
		return
	case r.Status == "active" || r.Status == "paused":
		a.legacy = true
	}
	a.page.Runners = append(a.page.Runners, r)
}

// refusal is an answer in HTTP 200 that is not what was asked for.
type refusal struct {
	reason  Reason
	message string // GitLab's; not yet cleaned
	field   string // of the document, that is not known
	lacks   FieldSet
	score   int // complexity, where that is what is wrong
	limit   int
	slow    bool

	noMachines bool // managers is not known
}

// Error says nothing that came from the answer: see Error.Message.
func (*refusal) Error() string { return "an error inside HTTP 200" }

// Unwrap makes the query's own errors a *FieldError.
func (r *refusal) Unwrap() error {
	if r.reason == ReasonBadRequest && r.score == 0 {
		return &FieldError{Field: r.field}
	}
	return nil
}

// The words of graphql-ruby and GitLab.
var (
	tooComplex   = regexp.MustCompile(`complexity of (\d+), which exceeds max complexity of (\d+)`)
	notPermitted = regexp.MustCompile(`(?i)resource that you are attempting to access does not exist|don't have permission|not authorized|insufficient[ _]scope`)
	timedOut     = regexp.MustCompile(`(?i)\btimeout\b|timed out`)
)

// refusal finds out what GitLab objects to; nil: the page is whole.
func (a *fleetAnswer) refusal(document string) *refusal {
	if len(a.errors) == 0 {
		switch {
		case a.legacy:
			return &refusal{reason: ReasonBadRequest, lacks: fieldStatus, field: "status", message: "this release's status does not say whether a paused runner is up"}
		case a.list:
			return nil
		case a.group:
			return &refusal{reason: ReasonNotFound, message: "no such group, or none that this token may see"}
		}
		return &refusal{reason: ReasonForbidden, message: "GitLab tells no runners"}
	}
	no := &refusal{reason: ReasonBadRequest, message: graphqlTexts(a.errors)}
	if a.ran {
		no.reason = ReasonServerError
	}
	var fatal, denied bool
	for _, e := range a.errors {
		if m := tooComplex.FindStringSubmatch(e.Message); m != nil {
			no.score, _ = strconv.Atoi(m[1])
			no.limit, _ = strconv.Atoi(m[2])
			return no
		}
		if lacks, name, known := validation(e); known {
			no.lacks |= lacks
			no.noMachines = no.noMachines || name == "managers"
			if lacks == 0 {
				fatal = true
				if strings.Contains(document, name) { // else it is not about our query
					no.field = name
				}
			}
			continue
		}
		switch {
		case timedOut.MatchString(e.Message):
			no.slow, no.reason = true, ReasonTimeout
		case notPermitted.MatchString(e.Message) && lastOf(e.Path) == 0:
			denied = true
		case a.ran:
			no.lacks |= lastOf(e.Path) // one field of a runner failed: the others may not
			fatal = fatal || lastOf(e.Path) == 0
		default:
			fatal = true
		}
	}
	switch {
	case no.slow:
		no.lacks = 0
	case denied:
		no.reason, no.lacks = ReasonForbidden, 0
	case fatal:
		no.lacks = 0
	}
	return no
}

// graphqlTexts are the messages as one line: the first three say enough.
func graphqlTexts(errs []graphqlError) string {
	var texts []string
	for _, e := range errs {
		if e.Message != "" && !slices.Contains(texts, e.Message) {
			texts = append(texts, e.Message)
		}
	}
	if len(texts) > 3 {
		texts = append(texts[:3], "and "+strconv.Itoa(len(texts)-3)+" more")
	}
	return strings.Join(texts, "; ")
}

// graphqlMessages are those of an error body, such as that of a bad token.
func graphqlMessages(v any) string {
	list, ok := v.([]any)
	if !ok {
		return flatten(v, 0)
	}
	var errs []graphqlError
	for _, e := range list {
		if m, ok := e.(map[string]any); ok {
			errs = append(errs, graphqlError{Message: flatten(m["message"], 0)})
		}
	}
	if text := graphqlTexts(errs); text != "" {
		return text
	}
	return flatten(v, 0)
}
