package graphql

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	gql "github.com/graphql-go/graphql"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
)

// page is one page of runners, or of what belongs to one.
type page[T any] struct {
	nodes     []T
	more      bool
	endCursor string
	count     int
}

// place in the schema: a group or project that the caller may see.
type namespace struct{ group, project string }

func (n namespace) fullPath() string { return n.group + n.project }

// of resolves a field from its parent.
func of[T any](f func(T) any) gql.FieldResolveFn {
	return func(p gql.ResolveParams) (any, error) {
		v, ok := p.Source.(T)
		if !ok {
			return nil, fmt.Errorf("unexpected parent %T", p.Source)
		}
		return f(v), nil
	}
}

func field[T any](t gql.Output, f func(T) any) *gql.Field {
	return &gql.Field{Type: t, Resolve: of(f)}
}

// enum turns REST's values into GraphQL's: upper case.
func enum(name string, rest ...string) *gql.Enum {
	values := gql.EnumValueConfigMap{}
	for _, w := range rest {
		values[strings.ToUpper(w)] = &gql.EnumValueConfig{Value: w}
	}
	return gql.NewEnum(gql.EnumConfig{Name: name, Values: values})
}

func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// moment writes a time as GraphQL does: whole seconds, unlike REST.
func moment(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.Format("2006-01-02T15:04:05Z07:00")
}

func connection[T any](name string, node gql.Output, info *gql.Object) *gql.Object {
	return gql.NewObject(gql.ObjectConfig{Name: name, Fields: gql.Fields{
		"nodes":    field(gql.NewList(node), func(p *page[T]) any { return p.nodes }),
		"count":    field(gql.NewNonNull(gql.Int), func(p *page[T]) any { return p.count }),
		"pageInfo": field(gql.NewNonNull(info), func(p *page[T]) any { return pageInfo{p.more, p.endCursor} }),
	}})
}

type pageInfo struct {
	more      bool
	endCursor string
}

// newSchema is GitLab's schema of the world's release (docs/gitlab-api.md 6.1). Releases
// without an exact number there take the nearest documented one.
func newSchema(w *gitlabsim.World) (gql.Schema, error) {
	optional := func(fields gql.Fields, major, minor int, name string, f *gql.Field) {
		if w.Since(major, minor) {
			fields[name] = f
		}
	}
	statusWords := []string{"online", "offline", "stale", "never_contacted"}
	if !w.Since(15, 0) {
		statusWords[3] = "not_connected"
	}
	if !w.Since(16, 0) {
		statusWords = append(statusWords, "active", "paused")
	}
	var (
		runnerType = enum("CiRunnerType", "instance_type", "group_type", "project_type")
		status     = enum("CiRunnerStatus", statusWords...)
		access     = enum("CiRunnerAccessLevel", "not_protected", "ref_protected")
		execution  = enum("CiRunnerJobExecutionStatus", executing(w, true), executing(w, false))
		sort       = enum("CiRunnerSort", "created_asc", "created_desc", "contacted_asc", "contacted_desc")
		membership = enum("CiRunnerMembershipFilter", "direct", "descendants")
	)
	if w.Since(15, 5) {
		membership = enum("CiRunnerMembershipFilter", "direct", "descendants", "all_available")
	}
	jobWords := []string{
		"created", "waiting_for_resource", "preparing", "pending", "running", "success", "failed", "canceled", "skipped", "manual", "scheduled",
	}
	if w.Since(17, 0) {
		jobWords = append(jobWords, "canceling", "waiting_for_callback")
	}
	jobStatus := enum("CiJobStatus", jobWords...)

	info := gql.NewObject(gql.ObjectConfig{Name: "PageInfo", Fields: gql.Fields{
		"hasNextPage": field(gql.NewNonNull(gql.Boolean), func(p pageInfo) any { return p.more }),
		"endCursor":   field(gql.String, func(p pageInfo) any { return text(p.endCursor) }),
	}})
	paging := gql.FieldConfigArgument{"first": {Type: gql.Int}, "after": {Type: gql.String}}

	manager := gql.NewObject(gql.ObjectConfig{Name: "CiRunnerManager", Fields: gql.Fields{
		"id":               field(gql.NewNonNull(gql.ID), func(m gitlabsim.ManagerView) any { return gid("RunnerManager", m.ID) }),
		"systemId":         field(gql.NewNonNull(gql.String), func(m gitlabsim.ManagerView) any { return m.SystemID }),
		"version":          field(gql.String, func(m gitlabsim.ManagerView) any { return text(m.Version) }),
		"revision":         field(gql.String, func(m gitlabsim.ManagerView) any { return text(m.Revision) }),
		"platformName":     field(gql.String, func(m gitlabsim.ManagerView) any { return text(m.Platform) }),
		"architectureName": field(gql.String, func(m gitlabsim.ManagerView) any { return text(m.Arch) }),
		"ipAddress":        field(gql.String, func(m gitlabsim.ManagerView) any { return text(m.IP) }),
		"status":           field(gql.NewNonNull(status), func(m gitlabsim.ManagerView) any { return m.Status }),
		"createdAt":        field(gql.String, func(m gitlabsim.ManagerView) any { return moment(m.Created) }),
		"contactedAt":      field(gql.String, func(m gitlabsim.ManagerView) any { return moment(m.Contacted) }),
	}})
	managers := connection[gitlabsim.ManagerView]("CiRunnerManagerConnection", manager, info)

	group := gql.NewObject(gql.ObjectConfig{Name: "Group", Fields: gql.Fields{
		"fullPath": field(gql.NewNonNull(gql.ID), func(n namespace) any { return n.fullPath() }),
	}})
	project := gql.NewObject(gql.ObjectConfig{Name: "Project", Fields: gql.Fields{
		"fullPath": field(gql.NewNonNull(gql.ID), func(n namespace) any { return n.fullPath() }),
	}})
	groups := connection[namespace]("GroupConnection", group, info)
	jobs := gql.NewObject(gql.ObjectConfig{Name: "CiJobConnection", Fields: gql.Fields{
		"count": field(gql.NewNonNull(gql.Int), func(n int) any { return n }),
	}})

	type view = gitlabsim.RunnerView
	fields := gql.Fields{
		"id":             field(gql.NewNonNull(gql.ID), func(v view) any { return gid("Runner", v.ID) }),
		"description":    field(gql.String, func(v view) any { return v.Description }),
		"runnerType":     field(gql.NewNonNull(runnerType), func(v view) any { return v.Type }),
		"status":         {Type: gql.NewNonNull(status), Resolve: resolveStatus},
		"active":         field(gql.NewNonNull(gql.Boolean), func(v view) any { return !v.Paused }),
		"accessLevel":    field(gql.NewNonNull(access), func(v view) any { return accessLevel(v.Protected) }),
		"contactedAt":    field(gql.String, func(v view) any { return moment(v.Contacted) }),
		"createdAt":      field(gql.String, func(v view) any { return moment(v.Created) }),
		"locked":         field(gql.Boolean, func(v view) any { return v.Locked }),
		"maximumTimeout": field(gql.Int, func(v view) any { return number(v.Timeout) }),
		"runUntagged":    field(gql.NewNonNull(gql.Boolean), func(v view) any { return v.RunUntagged }),
		"tagList":        field(gql.NewList(gql.NewNonNull(gql.String)), func(v view) any { return v.Tags }),
		"adminUrl": {Type: gql.String, Resolve: func(p gql.ResolveParams) (any, error) {
			v, _ := p.Source.(view)
			if r := requestOf(p.Context); r.caller.Admin {
				return r.world.URL() + "/admin/runners/" + strconv.FormatInt(v.ID, 10), nil
			}
			return nil, nil
		}},
		"jobs": {Type: jobs, Args: paging, Resolve: func(p gql.ResolveParams) (any, error) {
			v, _ := p.Source.(view)
			r := requestOf(p.Context)
			if r.jobsOnce {
				return nil, errors.New(`"jobs" field can be requested only for 1 CiRunner(s) at a time.`) //nolint:revive,staticcheck // GitLab's message
			}
			r.jobsOnce = true
			return r.world.JobCount(v.ID, nil, 1<<30), nil
		}},
		"groups": {Type: groups, Args: paging, Resolve: of(func(v view) any {
			if v.Group == "" {
				return nil
			}
			return &page[namespace]{nodes: []namespace{{group: v.Group}}, count: 1}
		})},
	}
	if !w.Since(16, 0) {
		fields["status"].Args = gql.FieldConfigArgument{"legacyMode": {Type: gql.String, DefaultValue: legacyMode}}
	}
	optional(fields, 14, 8, "paused", field(gql.NewNonNull(gql.Boolean), func(v view) any { return v.Paused }))
	optional(fields, 15, 7, "jobExecutionStatus", field(execution, func(v view) any { return executing(w, v.Active) }))
	optional(fields, 15, 1, "ownerProject", &gql.Field{Type: project, Resolve: of(func(v view) any {
		if v.Type != "project_type" {
			return nil
		}
		return namespace{project: v.OwnerProject}
	})})
	optional(fields, 16, 0, "managers", &gql.Field{
		Type:    managers,
		Args:    gql.FieldConfigArgument{"first": {Type: gql.Int}, "after": {Type: gql.String}, "systemId": {Type: gql.String}, "status": {Type: status}},
		Resolve: resolveManagers,
	})
	if w.Since(16, 3) {
		manager.AddFieldConfig("jobExecutionStatus", field(execution, func(m gitlabsim.ManagerView) any { return executing(w, m.Active) }))
	}
	jobCount := &gql.Field{Type: gql.Int, Resolve: resolveJobCount}
	if w.Since(16, 2) {
		jobCount.Args = gql.FieldConfigArgument{"statuses": {Type: gql.NewList(gql.NewNonNull(jobStatus))}}
	}
	fields["jobCount"] = jobCount
	if !w.Since(18, 0) {
		// Deprecated since machines are rows of their own: of the one that
		// contacted GitLab last.
		for name, f := range map[string]func(gitlabsim.ManagerView) string{
			"version":          func(m gitlabsim.ManagerView) string { return m.Version },
			"revision":         func(m gitlabsim.ManagerView) string { return m.Revision },
			"platformName":     func(m gitlabsim.ManagerView) string { return m.Platform },
			"architectureName": func(m gitlabsim.ManagerView) string { return m.Arch },
		} {
			fields[name] = field(gql.String, func(v view) any { return text(f(latest(v.Managers))) })
		}
	}
	runner := gql.NewObject(gql.ObjectConfig{Name: "CiRunner", Fields: fields})
	runners := connection[view]("CiRunnerConnection", runner, info)

	list := func(extra gql.FieldConfigArgument) *gql.Field {
		args := gql.FieldConfigArgument{
			"first": {Type: gql.Int}, "after": {Type: gql.String}, "type": {Type: runnerType}, "status": {Type: status}, "sort": {Type: sort},
			"active": {Type: gql.Boolean}, "paused": {Type: gql.Boolean},
		}
		maps.Copy(args, extra)
		return &gql.Field{Type: runners, Args: args, Resolve: resolveRunners}
	}
	group.AddFieldConfig("runners", list(gql.FieldConfigArgument{"membership": {Type: membership, DefaultValue: "descendants"}}))
	project.AddFieldConfig("runners", list(nil))

	complexity := gql.NewObject(gql.ObjectConfig{Name: "QueryComplexity", Fields: gql.Fields{
		"score": field(gql.Int, func(r *request) any { return r.score }),
		"limit": field(gql.Int, func(r *request) any { return r.limit }),
	}})
	metadata := gql.NewObject(gql.ObjectConfig{Name: "Metadata", Fields: gql.Fields{
		"version": field(gql.NewNonNull(gql.String), func(w *gitlabsim.World) any { return w.Version() }),
	}})
	user := gql.NewObject(gql.ObjectConfig{Name: "CurrentUser", Fields: gql.Fields{
		"id":       field(gql.NewNonNull(gql.ID), func(c gitlabsim.Caller) any { return "gid://gitlab/User/" + strconv.FormatInt(c.UserID, 10) }),
		"username": field(gql.NewNonNull(gql.String), func(c gitlabsim.Caller) any { return c.Username }),
	}})
	waiting := gql.NewObject(gql.ObjectConfig{Name: "CiJobInterface", Fields: gql.Fields{
		"id":       field(gql.ID, func(j gitlabsim.WaitingJob) any { return gid("Build", j.ID) }),
		"status":   field(jobStatus, func(gitlabsim.WaitingJob) any { return "pending" }),
		"tags":     field(gql.NewList(gql.NewNonNull(gql.String)), func(j gitlabsim.WaitingJob) any { return append([]string{}, j.Tags...) }),
		"queuedAt": field(gql.String, func(j gitlabsim.WaitingJob) any { return moment(j.Since) }),
	}})
	queue := connection[gitlabsim.WaitingJob]("CiJobInterfaceConnection", waiting, info)
	queueArgs := gql.FieldConfigArgument{
		"first": {Type: gql.Int}, "after": {Type: gql.String}, "statuses": {Type: gql.NewList(gql.NewNonNull(jobStatus))},
	}
	if w.Since(18, 1) {
		queueArgs["compatibleRunnerId"] = &gql.ArgumentConfig{Type: gql.ID}
	}
	permissions := gql.NewObject(gql.ObjectConfig{Name: "RunnerPermissions", Fields: gql.Fields{
		"updateRunner": field(gql.NewNonNull(gql.Boolean), func(may bool) any { return may }),
	}})
	runner.AddFieldConfig("userPermissions", &gql.Field{Type: gql.NewNonNull(permissions), Resolve: func(p gql.ResolveParams) (any, error) {
		v, _ := p.Source.(view)
		r := requestOf(p.Context)
		may, _ := r.world.MayUpdate(r.caller, v.ID)
		return may, nil
	}})
	fullPath := gql.FieldConfigArgument{"fullPath": {Type: gql.NewNonNull(gql.ID)}}
	return gql.NewSchema(gql.SchemaConfig{Query: gql.NewObject(gql.ObjectConfig{Name: "Query", Fields: gql.Fields{
		"runners": list(nil),
		"jobs":    {Type: queue, Args: queueArgs, Resolve: resolveJobs},
		"runner": {Type: runner, Args: gql.FieldConfigArgument{"id": {Type: gql.NewNonNull(gql.ID)}}, Resolve: func(p gql.ResolveParams) (any, error) {
			r := requestOf(p.Context)
			if v, ok := r.world.RunnerView(r.caller, runnerID(arg[string](p, "id"))); ok {
				return v, nil
			}
			return nil, nil
		}},
		"group": {Type: group, Args: fullPath, Resolve: func(p gql.ResolveParams) (any, error) {
			return visible(p, namespace{group: arg[string](p, "fullPath")})
		}},
		"project": {Type: project, Args: fullPath, Resolve: func(p gql.ResolveParams) (any, error) {
			return visible(p, namespace{project: arg[string](p, "fullPath")})
		}},
		"queryComplexity": {Type: complexity, Resolve: func(p gql.ResolveParams) (any, error) { return requestOf(p.Context), nil }},
		"metadata": {Type: metadata, Resolve: func(p gql.ResolveParams) (any, error) {
			if r := requestOf(p.Context); r.caller.Known {
				return r.world, nil
			}
			return nil, nil
		}},
		"currentUser": {Type: user, Resolve: func(p gql.ResolveParams) (any, error) {
			if r := requestOf(p.Context); r.caller.Known {
				return r.caller, nil
			}
			return nil, nil
		}},
	}})})
}

func arg[T any](p gql.ResolveParams, name string) T {
	v, _ := p.Args[name].(T)
	return v
}

// visible gives null, and no error, for what the caller may not see.
func visible(p gql.ResolveParams, n namespace) (any, error) {
	r := requestOf(p.Context)
	_, _, _, err := r.world.Views(r.caller, gitlabsim.ViewQuery{Group: n.group, Project: n.project})
	if errors.Is(err, gitlabsim.ErrNotVisible) {
		return nil, nil
	}
	return n, nil
}

// size is how many rows a list gives: the number in the query, silently at most 100.
func size(p gql.ResolveParams) (int, error) {
	n, given := p.Args["first"].(int)
	switch {
	case !given:
		return maxPage, nil
	case n < 0:
		return 0, errors.New("`first` must be a positive number")
	}
	return min(n, maxPage), nil
}

// cursor is GitLab's: the last row's place in the order, in Base64.
type cursor struct {
	CreatedAt string `json:"created_at,omitempty"`
	ID        string `json:"id"`
}

func encode(c cursor) string {
	b, _ := json.Marshal(c) // two strings
	return base64.RawURLEncoding.EncodeToString(b)
}

func decode(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	var c cursor
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	id, err2 := strconv.ParseInt(c.ID, 10, 64)
	if err != nil || err2 != nil {
		return 0, errors.New("Please provide a valid cursor") //nolint:staticcheck // GitLab's message
	}
	return id, nil
}

func resolveRunners(p gql.ResolveParams) (any, error) {
	r := requestOf(p.Context)
	n, err := size(p)
	if err != nil {
		return nil, err
	}
	after, err := decode(arg[string](p, "after"))
	if err != nil {
		return nil, err
	}
	q := gitlabsim.ViewQuery{
		Type: arg[string](p, "type"), Status: arg[string](p, "status"), After: after, First: n,
		Ascending: arg[string](p, "sort") == "created_asc",
	}
	if paused, ok := p.Args["paused"].(bool); ok {
		q.Paused = &paused
	} else if active, ok := p.Args["active"].(bool); ok {
		q.Paused = new(!active)
	}
	if in, ok := p.Source.(namespace); ok {
		q.Group, q.Project = in.group, in.project
		switch arg[string](p, "membership") {
		case "descendants":
			q.Membership = gitlabsim.Descendants
		case "all_available":
			q.Membership = gitlabsim.AllAvailable
		}
	}
	views, more, total, err := r.world.Views(r.caller, q)
	if err != nil {
		return nil, errors.New(notAvailable) //nolint:staticcheck // GitLab's message
	}
	out := &page[gitlabsim.RunnerView]{nodes: views, more: more, count: total}
	if len(views) > 0 {
		last := views[len(views)-1]
		out.endCursor = encode(cursor{last.Created.UTC().Format("2006-01-02 15:04:05.000000000 UTC"), strconv.FormatInt(last.ID, 10)})
	}
	return out, nil
}

// legacyMode is the argument's default up to 15.11: it hides whether a paused
// runner is up. A query that needs to know sends null.
const legacyMode = "14.5"

func resolveStatus(p gql.ResolveParams) (any, error) {
	v, _ := p.Source.(gitlabsim.RunnerView)
	if arg[string](p, "legacyMode") == legacyMode && v.Paused && (v.Status == "online" || v.Status == "offline") {
		return "paused", nil
	}
	return v.Status, nil
}

func resolveManagers(p gql.ResolveParams) (any, error) {
	v, _ := p.Source.(gitlabsim.RunnerView)
	n, err := size(p)
	if err != nil {
		return nil, err
	}
	after, err := decode(arg[string](p, "after"))
	if err != nil {
		return nil, err
	}
	out := &page[gitlabsim.ManagerView]{}
	for _, m := range slices.Backward(v.Managers) { // newest first
		if s := arg[string](p, "status"); s != "" && m.Status != s {
			continue
		}
		if s := arg[string](p, "systemId"); s != "" && m.SystemID != s {
			continue
		}
		out.count++
		if after != 0 && m.ID >= after {
			continue
		}
		if len(out.nodes) == n {
			out.more = true
			continue
		}
		out.nodes = append(out.nodes, m)
		out.endCursor = encode(cursor{ID: strconv.FormatInt(m.ID, 10)})
	}
	return out, nil
}

func resolveJobCount(p gql.ResolveParams) (any, error) {
	v, _ := p.Source.(gitlabsim.RunnerView)
	var words []string
	for _, s := range arg[[]any](p, "statuses") {
		if word, ok := s.(string); ok {
			words = append(words, word)
		}
	}
	return requestOf(p.Context).world.JobCount(v.ID, words, jobCountLimit+1), nil
}

// onlyPending is GitLab's own text (AllJobsResolver).
const onlyPending = `compatibleRunnerId can only be used when the ` + "`statuses`" + ` argument is set to "PENDING"`

// resolveJobs answers the list of jobs, of which only pending ones are simulated.
func resolveJobs(p gql.ResolveParams) (any, error) {
	r := requestOf(p.Context)
	statuses := arg[[]any](p, "statuses")
	pending := len(statuses) == 1 && statuses[0] == "pending"
	gid, compatible := p.Args["compatibleRunnerId"].(string)
	if compatible && !pending {
		return nil, errors.New(onlyPending)
	}
	n, err := size(p)
	if err != nil {
		return nil, err
	}
	after, err := decode(arg[string](p, "after"))
	if err != nil {
		return nil, err
	}
	out := &page[gitlabsim.WaitingJob]{}
	if !pending || !compatible && !r.caller.Admin {
		return out, nil
	}
	got := r.world.Waiting(r.caller, runnerID(gid), after, n)
	out.nodes, out.count, out.more = got.Jobs, got.Count, got.More
	if len(got.Jobs) > 0 {
		out.endCursor = encode(cursor{ID: strconv.FormatInt(got.Jobs[len(got.Jobs)-1].ID, 10)})
	}
	return out, nil
}

func runnerID(gid string) int64 {
	id, _ := strconv.ParseInt(strings.TrimPrefix(gid, "gid://gitlab/Ci::Runner/"), 10, 64)
	return id
}

func latest(ms []gitlabsim.ManagerView) (last gitlabsim.ManagerView) {
	for i, m := range ms {
		if i == 0 || m.Contacted.After(last.Contacted) {
			last = m
		}
	}
	return last
}

func gid(model string, id int64) string {
	return "gid://gitlab/Ci::" + model + "/" + strconv.FormatInt(id, 10)
}

func accessLevel(protected bool) string {
	if protected {
		return "ref_protected"
	}
	return "not_protected"
}

// executing is a value of CiRunnerJobExecutionStatus, of which one was renamed.
func executing(w *gitlabsim.World, active bool) string {
	switch {
	case !active:
		return "idle"
	case w.Since(17, 2):
		return "active"
	}
	return "running"
}

func number(n int64) any {
	if n == 0 {
		return nil
	}
	return n
}
