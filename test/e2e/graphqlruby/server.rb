# frozen_string_literal: true

# The runner part of GitLab's GraphQL schema, release by release, answered by
# graphql-ruby, which is the library that GitLab uses. It is there so that
# messages, error codes and paths come from the library and not from this
# project.
#
# One JSON object a line comes in: release, caller, runners, query, variables,
# operationName. The answer to it is one line of JSON. It ends with its input.

require "base64"
require "graphql"
require "json"
require "time"

NOT_AVAILABLE = "The resource that you are attempting to access does not exist or you don't have permission to perform this action"
JOB_COUNT_LIMIT = 1000
ONLY_PENDING = "compatibleRunnerId can only be used when the `statuses` argument is set to \"PENDING\""
PAGE = 100

# GitLab's complexity (lib: app/graphql/types/base_field.rb): 1 for a field; one
# with a resolver costs 1 more than its children, and a connection's cost grows
# with the rows asked for.
class Field < GraphQL::Schema::Field
  def initialize(*args, resolves: false, **kwargs, &block)
    @resolves = resolves
    super(*args, **kwargs, &block)
  end

  def calculate_complexity(query:, nodes:, child_complexity:)
    return child_complexity + 1 unless @resolves

    args = query.arguments_for(nodes.first, self)
    args = args.respond_to?(:keyword_arguments) ? args.keyword_arguments : {}
    score = child_complexity + 1
    score += 1 if args[:sort]
    score += 5 if args[:search]
    score += score * [args[:first], args[:last], PAGE].compact.min * 0.01 if connection?
    score.to_i
  end
end

class BaseObject < GraphQL::Schema::Object
  field_class Field
end

# A page of rows, newest first; its cursors are GitLab's keyset cursors.
class Page < GraphQL::Pagination::Connection
  def nodes
    @nodes ||= begin
      rows = items
      rows = rows.select { |r| (place(r) <=> after_place).negative? } if after
      @more = rows.size > first
      rows.first(first)
    end
  end

  def has_next_page
    nodes
    @more
  end

  def has_previous_page
    false
  end

  def cursor_for(row)
    key = {}
    key["created_at"] = created(row) if row["listed"]
    key["id"] = row["id"].to_s
    Base64.urlsafe_encode64(JSON.generate(key), padding: false)
  end

  private

  def created(row)
    Time.iso8601(row["created"]).utc.strftime("%Y-%m-%d %H:%M:%S.%N UTC")
  end

  # place is where a row stands in the order.
  def place(row)
    [row["listed"] ? created(row) : "", row["id"]]
  end

  def after_place
    key = JSON.parse(Base64.urlsafe_decode64(after))
    [key["created_at"].to_s, Integer(key["id"])]
  rescue ArgumentError, JSON::ParserError, TypeError
    raise GraphQL::ExecutionError, "Please provide a valid cursor"
  end
end

class Countable < GraphQL::Types::Relay::BaseConnection
  field_class Field
  field :count, Integer, null: false

  def count
    object.items.size
  end
end

# A connection that counts no further than a limit.
class LimitedCountable < Countable
  def count
    [object.items.size, JOB_COUNT_LIMIT + 1].min
  end
end

def enum(name, *words)
  Class.new(GraphQL::Schema::Enum) do
    graphql_name name
    words.each { |w| value w.upcase, value: w }
  end
end

def object(name, base = BaseObject, &block)
  Class.new(base) do
    graphql_name name
    connection_type_class Countable
    class_exec(&block)
  end
end

class TimeType < GraphQL::Schema::Scalar
  graphql_name "Time"

  def self.coerce_result(value, _context)
    Time.iso8601(value).utc.iso8601
  end
end

# schema builds what one release knows.
def schema(major, minor)
  since = ->(a, b) { ([major, minor] <=> [a, b]) >= 0 }
  nullable = proc { |text| text.nil? || text == "" ? nil : text }

  types = enum("CiRunnerType", "instance_type", "group_type", "project_type")
  words = %w[online offline stale never_contacted]
  words = %w[active paused] + words unless since[16, 0]
  status = enum("CiRunnerStatus", *words)
  access = enum("CiRunnerAccessLevel", "not_protected", "ref_protected")
  busy = since[17, 2] ? "active" : "running"
  execution = enum("CiRunnerJobExecutionStatus", "idle", busy)
  sort = enum("CiRunnerSort", "contacted_asc", "contacted_desc", "created_asc", "created_desc")
  members = %w[direct descendants]
  members << "all_available" if since[15, 5]
  membership = enum("CiRunnerMembershipFilter", *members)
  states = %w[created waiting_for_resource preparing pending running success failed canceled skipped manual scheduled]
  states += %w[canceling waiting_for_callback] if since[17, 0]
  job_status = enum("CiJobStatus", *states)

  manager = object("CiRunnerManager") do
    field :id, GraphQL::Types::ID, null: false
    field :system_id, String, null: false
    field :version, String, null: true
    field :revision, String, null: true
    field :platform_name, String, null: true
    field :architecture_name, String, null: true
    field :ip_address, String, null: true
    field :status, status, null: false
    field :created_at, TimeType, null: true
    field :contacted_at, TimeType, null: true
    field :job_execution_status, execution, null: true if since[16, 3]

    define_method(:id) { "gid://gitlab/Ci::RunnerManager/#{object["id"]}" }
    define_method(:system_id) { object["systemId"] }
    define_method(:version) { nullable[object["version"]] }
    define_method(:revision) { nullable[object["revision"]] }
    define_method(:platform_name) { nullable[object["platform"]] }
    define_method(:architecture_name) { nullable[object["architecture"]] }
    define_method(:ip_address) { nullable[object["ip"]] }
    define_method(:created_at) { object["created"] }
    define_method(:contacted_at) { object["contacted"] }
    define_method(:job_execution_status) { object["active"] ? busy : "idle" }
  end

  project = object("Project") do
    field :full_path, GraphQL::Types::ID, null: false
    define_method(:full_path) { object }
  end
  group = object("Group") do
    field :full_path, GraphQL::Types::ID, null: false
    define_method(:full_path) { object["path"] }
  end

  permissions = object("RunnerPermissions") do
    field :update_runner, GraphQL::Types::Boolean, null: false
    define_method(:update_runner) { object }
  end

  job = object("CiJobInterface") do
    connection_type_class LimitedCountable
    field :id, GraphQL::Types::ID, null: true
    field :status, job_status, null: true
    field :tags, [String], null: true
    field :queued_at, TimeType, null: true

    define_method(:id) { "gid://gitlab/Ci::Build/#{object["id"]}" }
    define_method(:status) { "pending" }
    define_method(:queued_at) { object["since"] }
  end

  runner = object("CiRunner") do
    field :user_permissions, permissions, null: false
    define_method(:user_permissions) { object["may"] }
    field :id, GraphQL::Types::ID, null: false
    field :description, String, null: true
    field :runner_type, types, null: false
    if since[16, 0]
      field :status, status, null: false
    else
      field :status, status, null: false do
        argument :legacy_mode, String, required: false, default_value: "14.5"
      end
    end
    field :active, GraphQL::Types::Boolean, null: false
    field :paused, GraphQL::Types::Boolean, null: false
    field :access_level, access, null: false
    field :contacted_at, TimeType, null: true
    field :created_at, TimeType, null: true
    field :locked, GraphQL::Types::Boolean, null: true
    field :maximum_timeout, Integer, null: true
    field :run_untagged, GraphQL::Types::Boolean, null: false
    field :tag_list, [String], null: true
    field :groups, group.connection_type, null: true, resolves: true
    field :owner_project, project, null: true, resolves: true if since[15, 1]
    field :job_execution_status, execution, null: true if since[15, 7]
    if since[16, 2]
      field :job_count, Integer, null: true, resolves: true do
        argument :statuses, [job_status], required: false
      end
    else
      field :job_count, Integer, null: true, resolves: true
    end
    if since[16, 0]
      field :managers, manager.connection_type, null: true, resolves: true do
        argument :system_id, String, required: false
        argument :status, status, required: false
      end
    end
    unless since[18, 0]
      field :version, String, null: true
      field :revision, String, null: true
      field :platform_name, String, null: true
      field :architecture_name, String, null: true
    end

    define_method(:latest) do
      object["managers"].reduce({}) { |last, m| last.empty? || (m["contacted"] || "") > (last["contacted"] || "") ? m : last }
    end

    define_method(:id) { "gid://gitlab/Ci::Runner/#{object["id"]}" }
    define_method(:runner_type) { object["type"] }
    define_method(:status) do |legacy_mode: nil|
      reached = %w[online offline].include?(object["status"])
      legacy_mode == "14.5" && object["paused"] && reached ? "paused" : object["status"]
    end
    define_method(:active) { !object["paused"] }
    define_method(:access_level) { object["protected"] ? "ref_protected" : "not_protected" }
    define_method(:contacted_at) { object["contacted"] }
    define_method(:created_at) { object["created"] }
    define_method(:maximum_timeout) { object["timeout"] }
    define_method(:run_untagged) { object["runUntagged"] }
    define_method(:tag_list) { object["tags"] }
    define_method(:groups) { object["group"] && Page.new([{ "id" => 0, "path" => object["group"] }]) }
    define_method(:owner_project) { object["project"] }
    define_method(:job_execution_status) { object["active"] ? busy : "idle" }
    define_method(:job_count) do |statuses: nil|
      jobs = object["jobs"]
      [(statuses || jobs.keys).sum { |s| jobs.fetch(s, 0) }, JOB_COUNT_LIMIT + 1].min
    end
    define_method(:managers) do |system_id: nil, status: nil|
      rows = object["managers"].sort_by { |m| -m["id"] }
      rows = rows.select { |m| m["systemId"] == system_id } if system_id
      rows = rows.select { |m| m["status"] == status } if status
      Page.new(rows)
    end
    define_method(:version) { nullable[latest["version"]] }
    define_method(:revision) { nullable[latest["revision"]] }
    define_method(:platform_name) { nullable[latest["platform"]] }
    define_method(:architecture_name) { nullable[latest["architecture"]] }
  end

  list = lambda do |owner, of_group|
    owner.class_exec do
      field :runners, runner.connection_type, null: true, resolves: true do
        argument :type, types, required: false
        argument :status, status, required: false
        argument :paused, GraphQL::Types::Boolean, required: false
        argument :active, GraphQL::Types::Boolean, required: false
        argument :sort, sort, required: false
        argument :membership, membership, required: false, default_value: "descendants" if of_group
      end

      define_method(:runners) do |type: nil, status: nil, paused: nil, active: nil, sort: nil, membership: nil|
        seen = of_group ? context[:groups].include?(object["path"]) : context[:admin]
        raise GraphQL::ExecutionError, NOT_AVAILABLE unless seen

        rows = context[:runners].sort_by { |r| [Time.iso8601(r["created"]), r["id"]] }.reverse
        rows = rows.select { |r| of?(object["path"], r, membership) } if of_group
        rows = rows.select { |r| r["type"] == type } if type
        rows = rows.select { |r| r["status"] == status } if status
        rows = rows.select { |r| r["paused"] == paused } unless paused.nil?
        rows = rows.select { |r| r["paused"] != active } unless active.nil?
        Page.new(rows.map { |r| r.merge("listed" => true) })
      end
    end
  end
  list.call(group, true)

  score = object("QueryComplexity") do
    field :score, Integer, null: true
    field :limit, Integer, null: true
    define_method(:score) do
      GraphQL::Analysis::AST.analyze_query(context.query, [GraphQL::Analysis::AST::QueryComplexity]).first
    end
    define_method(:limit) { context.query.max_complexity }
  end

  root = object("Query") do
    field :query_complexity, score, null: true
    field :group, group, null: true, resolves: true do
      argument :full_path, GraphQL::Types::ID, required: true
    end
    field :runner, runner, null: true, resolves: true do
      argument :id, GraphQL::Types::ID, required: true
    end
    field :jobs, job.connection_type, null: true, resolves: true do
      argument :statuses, [job_status], required: false
      argument :compatible_runner_id, GraphQL::Types::ID, required: false if since[18, 1]
    end
    define_method(:runner) do |id:|
      context[:runners].find { |r| r["seen"] && "gid://gitlab/Ci::Runner/#{r["id"]}" == id }
    end
    define_method(:jobs) do |statuses: nil, compatible_runner_id: nil|
      raise GraphQL::ExecutionError, ONLY_PENDING if compatible_runner_id && statuses != %w[pending]

      # A list of other statuses is not simulated; an empty one stands for it.
      ids = compatible_runner_id ? context[:queue].fetch(compatible_runner_id, []) : context[:queue].fetch("", [])
      ids = [] unless statuses == %w[pending]
      Page.new(ids.map { |i| context[:waiting].fetch(i.to_s) })
    end
    define_method(:query_complexity) { true }
    define_method(:group) { |full_path:| context[:paths].include?(full_path) ? { "path" => full_path } : nil }
  end
  list.call(root, false)

  Class.new(GraphQL::Schema) do
    query root
    default_max_page_size PAGE
    validate_max_errors 5
    max_depth 20
  end
end

# of? tells whether a group shows a runner.
def of?(group, runner, membership)
  below = ->(path) { path.start_with?("#{group}/") }
  case runner["type"]
  when "instance_type" then membership == "all_available"
  when "group_type"
    own = runner["group"]
    own == group || (membership != "direct" && below[own]) || (membership == "all_available" && group.start_with?("#{own}/"))
  else membership != "direct" && below[runner["project"]]
  end
end

schemas = Hash.new { |known, release| known[release] = schema(*release.split(".").first(2).map(&:to_i)) }

$stdout.sync = true
$stdin.each_line do |line|
  asked = JSON.parse(line)
  caller = asked["caller"]
  result = schemas[asked["release"]].execute(
    asked["query"],
    variables: asked["variables"] || {},
    operation_name: asked["operationName"],
    context: { waiting: asked["waiting"], queue: asked["queue"], admin: caller["admin"], groups: caller["groups"], paths: asked["paths"], runners: asked["runners"] },
    max_complexity: asked["limit"] || (caller["admin"] ? 300 : 250)
  )
  puts JSON.generate(result.to_h)
end
