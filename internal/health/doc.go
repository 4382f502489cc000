// Package health judges the runners of one GitLab by evidence: which are alive,
// overdue, down or unknown, why and since when; which are alive and yet ill
// (suspects); and which jobs their machines left behind. docs/health.md
// explains the rules to those who read the verdicts, and test/healthsim shows
// how often they are right.
//
// The package is pure: no clock, no network, no store. Evidence and times come
// in, verdicts and records go out. Every time given to it is by GitLab's clock:
// the local clock plus the median of GitLab's last offsets. A time after the
// reading that it came with is taken for that of the reading.
//
// # What the caller does
//
// Once, at the start: Load each record of the state, SetDense, and Describe
// each runner whose details are known from the last run.
//
// Then in each round, about once a minute:
//
//   - ListingFailed, or ListingDone and Listed for each row. A runner that left
//     the fleet: Remove.
//   - Describe where details were read and its traits may have changed.
//   - Read for each good reading of details and machines, with the time of the
//     reading; ReadFailed for each that failed. By GraphQL a listing is a
//     reading of all (SetDense(true)).
//   - Jobs for each reading of a runner's jobs: all that are executing (running
//     or canceling), and those that were found ended, each job once.
//   - Judge, in every round, after a failed listing too. It returns what changed
//     and the Picture to publish.
//   - Records, to be committed; Failed with those that were not.
//
// Where the API is REST, Due are the runners whose details should be read at
// once. They are paid from the budget: one that is left out is only found later.
//
// # Shards and replicas
//
// A shard gives only its own runners, so a group is judged by those of its
// members that the shard sees. Fewer members give fewer moments: deaths are
// found later, at worst at the limit, and a member alone in its shard has no
// peers. Nothing else changes. Replicas judge each by itself.
package health
