"""Reads a GitLab with python-gitlab, a client whose authors do not know our
simulator, and prints what it saw as JSON. Arguments: URL, token."""

import json
import sys

import gitlab

# keep_base_url: the links name GitLab's configured host, not the one called.
gl = gitlab.Gitlab(sys.argv[1], private_token=sys.argv[2], keep_base_url=True)
gl.auth()
out = {"user": gl.user.username, "version": gl.version()[0], "runners": {}, "jobs": {}, "keyset": {}, "managers": {}}

everything = gl.runners_all.list(iterator=True, per_page=7)
out["total"] = everything.total
for row in everything:
    runner = gl.runners.get(row.id)
    assert runner.description == row.description, row
    assert runner.runner_type == row.runner_type and runner.status == row.status, row
    out["runners"][row.id] = {"type": row.runner_type, "paused": row.paused, "online": row.online, "tags": runner.tag_list}
    out["jobs"][row.id] = [(j.id, j.status, j.project["id"]) for j in runner.jobs.list(iterator=True, per_page=9)]
    out["keyset"][row.id] = [
        j.id for j in runner.jobs.list(iterator=True, per_page=9, pagination="keyset", order_by="id", sort="desc")
    ]
    running = runner.jobs.list(status="running", get_all=True)
    assert all(j.status == "running" for j in running), running
    out["managers"][row.id] = [m["system_id"] for m in gl.http_list("/runners/%d/managers" % row.id, get_all=True)]

out["owned"] = len(gl.runners.list(get_all=True, per_page=3))
out["paused"] = len(gl.runners_all.list(get_all=True, paused="true"))
out["tagged"] = [r.id for r in gl.runners_all.list(get_all=True, tag_list=["docker"])]
group = gl.groups.get(1, lazy=True)
out["group"] = [r.id for r in group.runners.list(iterator=True, per_page=4)]
project = gl.projects.get(1, lazy=True)
out["project"] = [r.id for r in project.runners.list(iterator=True, per_page=4)]
some = next(i for i, jobs in out["jobs"].items() if jobs)
job_id, _, project_id = out["jobs"][some][0]
job = gl.projects.get(project_id, lazy=True).jobs.get(job_id)
out["job_runner"] = [some, job.runner["id"]]

try:
    gl.runners.get(4711)
    out["missing"] = False
except gitlab.exceptions.GitlabGetError as e:
    out["missing"] = [e.response_code, e.error_message]
try:
    gl.runners_all.list(type="x")
except gitlab.exceptions.GitlabListError as e:
    out["refused"] = [e.response_code, e.error_message]
json.dump(out, sys.stdout)
