-- The questions that are asked most. Views are replaced whenever a file is opened for writing, so a new
-- release brings its own.

-- The last value of each variable. A run id can come back once its finished run has been forgotten, so values
-- belong to a start of the run, `run_seq`, and not to its id alone.
CREATE OR REPLACE VIEW variables AS
SELECT
    s.stream_seq AS run_seq,
    v.run_id,
    v.name,
    arg_max(v.value, v.stream_seq) AS value,
    arg_max(v.searchable, v.stream_seq) AS searchable,
    max(v.changed_at) AS changed_at,
    count(*) AS changes
FROM variable_changes v
ASOF JOIN run_starts s ON v.run_id = s.run_id AND v.stream_seq >= s.stream_seq
GROUP BY ALL;

-- How each run has ended, as it stands: one that was rescued since has not.
CREATE OR REPLACE VIEW last_ends AS
SELECT e.* FROM run_ends e ANTI JOIN run_rescues r ON r.run_key = e.run_key
UNION ALL
SELECT e.* FROM run_ends e
JOIN (SELECT run_key, max(stream_seq) AS stream_seq FROM run_rescues GROUP BY run_key) r USING (run_key)
WHERE e.stream_seq > r.stream_seq;

-- One row for each run. `search` is a JSON object of its searchable attributes: `search->>'status'`.
CREATE OR REPLACE VIEW runs AS
WITH lives AS (
    SELECT
        *,
        lead(stream_seq, 1, 18446744073709551615::UBIGINT)
            OVER (PARTITION BY run_id ORDER BY stream_seq) AS next_seq
    FROM run_starts
),
-- A run that was rescued ends a second time: its last end counts, if it has come.
ended AS (
    SELECT
        l.stream_seq AS run_seq, l.run_id, l.workflow, l.version, l.shard, l.started_at, l.actor,
        CASE WHEN e.stream_seq > greatest(l.stream_seq, coalesce(r.stream_seq, 0)) THEN e END AS e
    FROM lives l
    ASOF LEFT JOIN run_ends e ON l.run_id = e.run_id AND l.next_seq > e.stream_seq
    ASOF LEFT JOIN run_rescues r ON l.run_id = r.run_id AND l.next_seq > r.stream_seq
),
-- A run that has moved to another version is one of that.
moved AS (
    SELECT s.stream_seq AS run_seq, arg_max(m.version, m.stream_seq) AS version
    FROM run_moves m
    ASOF JOIN run_starts s ON m.run_id = s.run_id AND m.stream_seq >= s.stream_seq
    GROUP BY ALL
),
searched AS (
    SELECT
        run_seq,
        json_group_object(name, value) AS search
    FROM (
        SELECT s.stream_seq AS run_seq, v.name, arg_max(v.value, v.stream_seq) AS value
        FROM variable_changes v
        ASOF JOIN run_starts s ON v.run_id = s.run_id AND v.stream_seq >= s.stream_seq
        WHERE v.searchable
        GROUP BY ALL
    )
    GROUP BY run_seq
)
SELECT
    r.run_id,
    r.workflow,
    coalesce(m.version, r.version) AS version,
    coalesce(r.e.status, 'running') AS status,
    r.started_at,
    r.e.ended_at AS ended_at,
    r.e.duration_ms AS duration_ms,
    r.e.failure_name AS failure_name,
    r.e.failure_message AS failure_message,
    r.e.failure_kind AS failure_kind,
    r.e.output AS output,
    coalesce(s.search, '{}'::JSON) AS search,
    r.actor,
    r.shard,
    r.run_seq
FROM ended r
LEFT JOIN moved m ON m.run_seq = r.run_seq
LEFT JOIN searched s ON s.run_seq = r.run_seq;

-- One row for each attempt. Its outcome is NULL while nothing has come back.
CREATE OR REPLACE VIEW task_attempts AS
SELECT
    s.run_id,
    s.workflow,
    s.version,
    s.task,
    s.task_id,
    s.node,
    s.attempt,
    s.queue,
    s.delay_s,
    e.worker,
    s.scheduled_at,
    e.ended_at,
    e.waited_ms,
    e.duration_ms,
    e.outcome,
    e.failure_name,
    e.failure_message,
    e.failure_kind,
    e.retried,
    e.output
FROM attempt_starts s
LEFT JOIN attempt_ends e USING (run_id, task_id, attempt);

-- How long a workflow takes, and how it ends.
CREATE OR REPLACE VIEW workflow_stats AS
SELECT
    workflow,
    count(*) AS runs,
    count(*) FILTER (status = 'running') AS running,
    count(*) FILTER (status = 'completed') AS completed,
    count(*) FILTER (status = 'failed') AS failed,
    count(*) FILTER (status = 'cancelled') AS cancelled,
    count(*) FILTER (status = 'engine-fault') AS faulted,
    avg(duration_ms) AS avg_ms,
    quantile_cont(duration_ms, 0.5) AS p50_ms,
    quantile_cont(duration_ms, 0.95) AS p95_ms,
    quantile_cont(duration_ms, 0.99) AS p99_ms,
    max(duration_ms) AS max_ms
FROM runs
GROUP BY workflow
ORDER BY workflow;

-- How long an attempt of each task takes, and which share of the attempts that ended did not complete.
CREATE OR REPLACE VIEW task_stats AS
SELECT
    workflow,
    task,
    count(*) AS attempts,
    count(*) FILTER (outcome IS NULL) AS open,
    count(*) FILTER (outcome = 'completed') AS completed,
    count(*) FILTER (outcome = 'failed') AS failed,
    count(*) FILTER (outcome = 'errored') AS errored,
    count(*) FILTER (retried) AS retried,
    count(*) FILTER (outcome <> 'completed') / nullif(count(outcome), 0) AS failed_share,
    avg(duration_ms) AS avg_ms,
    quantile_cont(duration_ms, 0.5) AS p50_ms,
    quantile_cont(duration_ms, 0.95) AS p95_ms,
    max(duration_ms) AS max_ms,
    avg(waited_ms) AS avg_waited_ms,
    quantile_cont(waited_ms, 0.95) AS p95_waited_ms
FROM task_attempts
GROUP BY workflow, task
ORDER BY workflow, task;

-- Which share of a workflow's runs came to which end: the engine's status, the failure if there was one, and
-- the searchable attribute `status` if the workflow has it.
CREATE OR REPLACE VIEW outcome_stats AS
SELECT workflow, outcome, status, failure_name, runs, runs / sum(runs) OVER (PARTITION BY workflow) AS share, avg_ms
FROM (
    SELECT
        workflow,
        search->>'status' AS outcome,
        status,
        failure_name,
        count(*) AS runs,
        avg(duration_ms) AS avg_ms
    FROM runs
    GROUP BY ALL
)
ORDER BY workflow, runs DESC, outcome, status, failure_name;

-- The same for every searchable attribute.
CREATE OR REPLACE VIEW attribute_stats AS
SELECT workflow, name, value, runs, runs / sum(runs) OVER (PARTITION BY workflow, name) AS share
FROM (
    SELECT r.workflow, v.name, v.value->>'$' AS value, count(*) AS runs
    FROM variables v
    JOIN run_starts r ON r.stream_seq = v.run_seq
    WHERE v.searchable
    GROUP BY ALL
)
ORDER BY workflow, name, runs DESC, value;

-- Where the events of a run do not follow one another. Empty unless events were lost, or stored twice. (Of a run that
-- was deleted only the last one is there.)
CREATE OR REPLACE VIEW index_breaks AS
SELECT run_id, stream_seq, idx, coalesce(previous + 1, 0) AS expected_idx
FROM (
    SELECT run_id, stream_seq, kind, idx, lag(idx) OVER (PARTITION BY run_id ORDER BY stream_seq) AS previous
    FROM events
)
WHERE idx <> 0 AND idx IS DISTINCT FROM previous + 1 AND kind <> 'run-deleted'
ORDER BY stream_seq;

-- One row for each user task. One of a run that a fault of the engine has ended is nobody's any more, too.
CREATE OR REPLACE VIEW user_tasks AS
WITH people AS (
    SELECT
        run_id, user_task_id,
        arg_max(user_id, stream_seq) AS user_id,
        arg_max(group_id, stream_seq) AS group_id,
        count(*) - 1 AS epoch
    FROM user_task_events
    WHERE kind IN ('user-task-opened', 'user-task-assigned')
    GROUP BY ALL
),
closed AS (
    SELECT * FROM user_task_events WHERE kind IN ('user-task-completed', 'user-task-cancelled')
),
counted AS (
    SELECT
        run_id, user_task_id,
        bool_or(kind = 'user-task-overdue') AS overdue,
        count(*) FILTER (kind = 'user-task-reminded') AS reminders,
        count(*) FILTER (kind = 'user-task-commented' AND how = 'added') AS comments,
        arg_max(form, stream_seq) FILTER (kind IN ('user-task-saved', 'user-task-completed')) AS form,
        max(time) AS changed_at
    FROM user_task_events
    GROUP BY ALL
),
faulted AS (
    SELECT run_id, max(stream_seq) AS stream_seq FROM run_ends WHERE status = 'engine-fault' GROUP BY run_id
)
SELECT
    o.run_id,
    o.user_task_id,
    o.user_task,
    o.workflow,
    o.version,
    CASE
        WHEN c.kind = 'user-task-completed' THEN 'done'
        WHEN c.kind IS NOT NULL THEN c.how
        WHEN f.stream_seq > o.stream_seq THEN 'withdrawn'
        WHEN p.user_id = '' THEN 'unassigned'
        ELSE 'assigned'
    END AS state,
    coalesce(nullif(CASE WHEN c.kind = 'user-task-completed' THEN c.user_id END, ''), p.user_id) AS user_id,
    p.group_id,
    o.notes,
    o.time AS opened_at,
    o.due_at,
    n.overdue,
    c.time AS closed_at,
    c.waited_ms,
    n.form,
    p.epoch,
    n.reminders,
    n.comments,
    n.changed_at,
    c.text AS reason
FROM user_task_events o
JOIN people p USING (run_id, user_task_id)
JOIN counted n USING (run_id, user_task_id)
LEFT JOIN closed c USING (run_id, user_task_id)
LEFT JOIN faulted f ON f.run_id = o.run_id
WHERE o.kind = 'user-task-opened';

-- One row for each thing that a run does or waits for: a call of a task with all its attempts, a user task, a child run,
-- an external event that it took. `step_seq` is the stream sequence with which it began, or was taken.
CREATE OR REPLACE VIEW steps AS
WITH attempts AS (
    SELECT
        *,
        count(*) FILTER (attempt = 1) OVER (
            PARTITION BY run_id, regexp_extract(task_id, '^[0-9]+-[0-9]+') ORDER BY stream_seq
        ) AS call
    FROM attempt_starts
),
children AS (
    SELECT
        run_id, workflow, version, kind, time, stream_seq, data->>'workflow' AS child, data->>'wait_id' AS wait_id
    FROM events WHERE kind IN ('child-started', 'child-begun', 'child-completed', 'child-failed', 'child-rescued')
),
-- One that was rescued goes on, and ends once more.
child_ends AS (
    FROM children WHERE kind <> 'child-started'
    QUALIFY row_number() OVER (PARTITION BY run_id, wait_id ORDER BY stream_seq DESC) = 1
)
SELECT
    s.run_id, s.workflow, s.version, 'task' AS kind, s.task AS step,
    min(s.scheduled_at) AS began_at,
    CASE WHEN count(*) = count(e.ended_at) THEN max(e.ended_at) END AS ended_at,
    arg_max(coalesce(e.outcome, ''), s.stream_seq) AS outcome,
    arg_max(coalesce(e.worker, ''), s.stream_seq) AS who,
    count(*) AS attempts,
    min(s.stream_seq) AS step_seq
FROM attempts s LEFT JOIN attempt_ends e USING (run_id, task_id, attempt)
GROUP BY s.run_id, s.workflow, s.version, s.task, regexp_extract(s.task_id, '^[0-9]+-[0-9]+'), s.call
UNION ALL
SELECT
    u.run_id, u.workflow, u.version, 'user-task', u.user_task, u.opened_at, u.closed_at,
    CASE WHEN u.closed_at IS NULL THEN '' ELSE u.state END, u.user_id, 1, o.stream_seq
FROM user_tasks u
JOIN user_task_events o USING (run_id, user_task_id)
WHERE o.kind = 'user-task-opened'
UNION ALL
SELECT
    b.run_id, b.workflow, b.version, 'child', b.child, b.time, e.time,
    coalesce(e.kind[length('child-') + 1:], ''), '', 1, b.stream_seq
FROM children b
LEFT JOIN child_ends e ON e.run_id = b.run_id AND e.wait_id = b.wait_id AND e.kind <> 'child-rescued'
WHERE b.kind = 'child-started'
UNION ALL
SELECT
    r.run_id, r.workflow, r.version, 'event', r.data->>'event',
    r.time - to_microseconds(CAST(coalesce(CAST(r.data->>'waited_ms' AS DOUBLE), 0) * 1000 AS BIGINT)), r.time,
    'received', coalesce(p.actor, ''), 1, r.stream_seq
FROM events r
LEFT JOIN events p
    ON p.kind = 'event-posted' AND p.run_id = r.run_id AND p.data->>'event_id' = r.data->>'event_id'
WHERE r.kind = 'event-received';

-- One row for each run, or run thread of one, that is stopped, and for each of those who want that.
CREATE OR REPLACE VIEW stopped_runs AS
WITH told AS (
    SELECT
        run_id, workflow, kind, time, actor, coalesce(CAST(data ->> 'thread' AS BIGINT), 0) AS thread,
        data ->> 'by' AS stopped_by, coalesce(data ->> 'reason', '') AS reason, stream_seq
    FROM events WHERE kind IN ('run-stopped', 'run-resumed')
    QUALIFY row_number() OVER (PARTITION BY run_id, thread, stopped_by ORDER BY stream_seq DESC) = 1
)
SELECT t.run_id, t.workflow, t.thread, t.stopped_by, t.actor, t.reason, t.time AS stopped_at
FROM told t
JOIN runs r ON r.run_id = t.run_id AND t.stream_seq >= r.run_seq
WHERE t.kind = 'run-stopped' AND r.status = 'running'
    AND NOT EXISTS (FROM run_rescues s WHERE s.run_id = t.run_id AND s.stream_seq > t.stream_seq);

-- One row for each task whose last attempt has failed, and which waits for somebody who retries it, or lets it fail.
CREATE OR REPLACE VIEW dead_tasks AS
WITH told AS (
    SELECT
        run_id, workflow, kind, time, stream_seq, data ->> 'task' AS task, data ->> 'task_id' AS task_id,
        CAST(data ->> 'attempt' AS BIGINT) AS attempt, data -> 'failure' AS failure
    FROM events WHERE kind IN ('task-dead', 'task-settled', 'task-completed', 'task-failed')
    QUALIFY row_number() OVER (PARTITION BY run_id, task_id ORDER BY stream_seq DESC) = 1
)
SELECT
    t.run_id, t.workflow, t.task, t.task_id, t.attempt, t.time AS dead_at, t.failure ->> 'name' AS failure_name,
    t.failure ->> 'message' AS failure_message
FROM told t
JOIN runs r ON r.run_id = t.run_id AND t.stream_seq >= r.run_seq
WHERE t.kind = 'task-dead' AND r.status = 'running'
    AND NOT EXISTS (FROM run_rescues s WHERE s.run_id = t.run_id AND s.stream_seq > t.stream_seq);

-- One row for each fire of a schedule, as it was last told of: what was queued is started later, or skipped.
CREATE OR REPLACE VIEW schedule_fires AS
SELECT
    f.schedule, f.workflow, f.moment, f.time AS fired_at, coalesce(e.outcome, f.outcome) AS outcome,
    nullif(f.run_id, '') AS run_id, f.late_ms, e.time AS ended_at, f.by_hand
FROM (
    SELECT * FROM schedule_events WHERE kind = 'schedule-fired'
    QUALIFY row_number() OVER (
        PARTITION BY schedule, moment, by_hand ORDER BY (run_id <> '') DESC, stream_seq DESC
    ) = 1
) f
ASOF LEFT JOIN (
    SELECT * FROM schedule_events WHERE kind = 'schedule-run-ended'
) e ON f.schedule = e.schedule AND f.run_id = e.run_id AND f.stream_seq <= e.stream_seq;

-- One row for each schedule that there is.
CREATE OR REPLACE VIEW schedules AS
WITH lives AS (
    SELECT schedule, max(stream_seq) FILTER (kind = 'schedule-deleted') AS deleted
    FROM schedule_events GROUP BY schedule
)
SELECT
    e.schedule,
    arg_max(e.workflow, e.stream_seq) AS workflow,
    nullif(
        arg_max(coalesce(e.next, '-infinity'::TIMESTAMPTZ), e.stream_seq)
            FILTER (e.kind <> 'schedule-run-ended'),
        '-infinity'::TIMESTAMPTZ
    ) AS next,
    coalesce(arg_max(e.paused, e.stream_seq) FILTER (e.kind = 'schedule-paused'), false) AS paused,
    count(*) FILTER (e.outcome = 'started') AS fired,
    count(*) FILTER (e.kind = 'schedule-fired' AND e.outcome = 'skipped') AS skipped,
    count(*) FILTER (e.outcome = 'missed') AS missed,
    count(*) FILTER (e.kind = 'schedule-run-ended' AND e.outcome = 'completed') AS completed,
    count(*) FILTER (e.kind = 'schedule-run-ended' AND e.outcome IN ('failed', 'engine-fault')) AS failed,
    count(*) FILTER (e.kind = 'schedule-run-ended' AND e.outcome = 'cancelled') AS cancelled,
    count(*) FILTER (e.kind = 'schedule-run-ended' AND e.outcome = 'refused') AS refused,
    max(e.time) FILTER (e.kind IN ('schedule-set', 'schedule-paused')) AS changed_at
FROM schedule_events e
JOIN lives l ON l.schedule = e.schedule
WHERE e.stream_seq > coalesce(l.deleted, 0)
GROUP BY e.schedule;

-- One row for each run thread: 0 is the run itself, the others are its branches, and the handlers of its interrupts. One
-- that its run has not waited for has ended with that, and as that.
CREATE OR REPLACE VIEW threads AS
WITH ends AS (
    SELECT
        run_id, CAST(data->>'thread' AS BIGINT) AS thread, time,
        CASE
            WHEN coalesce(CAST(data->>'cancelled' AS BOOLEAN), false) THEN 'cancelled'
            WHEN (data->'failure') IS NOT NULL THEN 'failed'
            ELSE 'completed'
        END AS status,
        data->'failure'->>'name' AS failure_name, data->'failure'->>'message' AS failure_message
    FROM events WHERE kind = 'branch-ended'
    QUALIFY row_number() OVER (PARTITION BY run_id, thread ORDER BY stream_seq DESC) = 1
)
SELECT
    run_id, workflow, version, 0 AS thread, NULL::BIGINT AS parent, NULL::BIGINT AS node, NULL::BIGINT AS branch,
    started_at, ended_at, status, failure_name, failure_message
FROM runs
UNION ALL
SELECT
    b.run_id, r.workflow, r.version, CAST(b.data->>'thread' AS BIGINT), coalesce(CAST(b.data->>'parent' AS BIGINT), 0),
    CAST(b.data->>'node' AS BIGINT), CAST(b.data->>'branch' AS BIGINT),
    b.time, coalesce(e.time, r.ended_at), coalesce(e.status, r.status), e.failure_name, e.failure_message
FROM events b
JOIN runs r USING (run_id)
LEFT JOIN ends e ON e.run_id = b.run_id AND e.thread = CAST(b.data->>'thread' AS BIGINT)
WHERE b.kind = 'branch-started' AND b.stream_seq > r.run_seq;

-- One row for each place of a workflow that a run has come by, however often.
CREATE OR REPLACE VIEW nodes AS
SELECT
    run_id, workflow, version, CAST(data->>'node' AS BIGINT) AS node,
    regexp_extract(
        arg_min(kind, stream_seq), '^(task|permit|user-task|child|sleep|condition|event|branch|interrupt|failure)'
    ) AS kind,
    arg_min(
        coalesce(data->>'task', data->>'user_task', data->>'event', data->>'workflow', data->>'condition', ''),
        stream_seq
    ) AS name,
    count(*) AS events,
    min(time) AS first_at,
    max(time) AS last_at
FROM events
WHERE (data->>'node') IS NOT NULL AND NOT starts_with(kind, 'run-')
GROUP BY ALL;

-- One row for each external event that came to a run.
CREATE OR REPLACE VIEW external_events AS
WITH what AS (
    SELECT
        run_id, data->>'event_id' AS event_id, kind, time, CAST(data->>'node' AS BIGINT) AS node,
        CAST(data->>'waited_ms' AS DOUBLE) AS waited_ms, data->>'reason' AS reason
    FROM events WHERE kind IN ('event-received', 'event-expired', 'event-returned', 'event-refused')
    QUALIFY row_number() OVER (PARTITION BY run_id, data->>'event_id' ORDER BY stream_seq DESC) = 1
)
SELECT
    p.run_id, p.workflow, p.version, p.data->>'event' AS event, p.data->>'event_id' AS event_id,
    coalesce(p.data->>'key', '') AS key, p.actor, p.time AS posted_at,
    coalesce(w.kind[length('event-') + 1:], 'kept') AS state, w.node, w.time AS settled_at, w.waited_ms, w.reason,
    p.data->'payload' AS payload
FROM events p
LEFT JOIN what w ON w.run_id = p.run_id AND w.event_id = p.data->>'event_id'
WHERE p.kind = 'event-posted';

-- One row for each child run that a run has asked for, by whose id it is found in the other views.
CREATE OR REPLACE VIEW child_runs AS
WITH told AS (
    SELECT run_id AS parent, kind, time, stream_seq, data->>'wait_id' AS wait_id, data->'failure' AS failure
    FROM events WHERE kind IN ('child-begun', 'child-completed', 'child-failed', 'child-rescued')
    QUALIFY row_number() OVER (PARTITION BY run_id, data->>'wait_id' ORDER BY stream_seq DESC) = 1
)
SELECT
    s.data->>'run_id' AS run_id, s.data->>'workflow' AS workflow, CAST(s.data->>'version' AS BIGINT) AS version,
    s.run_id AS parent, s.workflow AS parent_workflow, CAST(s.data->>'node' AS BIGINT) AS node, s.time AS asked_at,
    CASE t.kind
        WHEN 'child-begun' THEN 'detached' WHEN 'child-completed' THEN 'completed' WHEN 'child-failed' THEN 'failed'
        ELSE 'waited-for'
    END AS told,
    CASE WHEN t.kind <> 'child-rescued' THEN t.time END AS told_at,
    t.failure->>'name' AS failure_name
FROM events s
LEFT JOIN told t ON t.parent = s.run_id AND t.wait_id = s.data->>'wait_id'
WHERE s.kind = 'child-started';
