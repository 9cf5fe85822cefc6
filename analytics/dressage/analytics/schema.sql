-- The tables of an analytics file. All of them only ever grow, except `positions`; all rows of a batch, and
-- the position that covers them, are written in one transaction.
--
-- `events` holds every output event as it is. The typed tables beside it hold what the views need, taken out
-- of the JSON once: that costs 3 us an event when it is written, and makes a question over a million events
-- four to five times faster than taking it out at each question.
--
-- `run_key` is a number made of the run id. Who goes through the rows of a million runs compares numbers, as texts
-- take several times as long.

CREATE TABLE IF NOT EXISTS events (
    stream_seq UBIGINT NOT NULL,     -- sequence in the EVENTS stream; each once, as the position goes with the rows
    shard      INTEGER NOT NULL,
    id         VARCHAR NOT NULL,     -- <run id>/<idx>
    run_id     VARCHAR NOT NULL,
    workflow   VARCHAR NOT NULL,
    version    BIGINT NOT NULL,
    idx        BIGINT NOT NULL,      -- the events of a run are numbered from 0 without a gap
    kind       VARCHAR NOT NULL,
    time       TIMESTAMPTZ NOT NULL, -- the broker's, UTC
    actor      VARCHAR NOT NULL,     -- empty when nobody was named
    command    VARCHAR NOT NULL,     -- stream sequence of the command that caused it
    data       JSON NOT NULL         -- character by character what the stream holds
);

CREATE TABLE IF NOT EXISTS run_starts (
    stream_seq UBIGINT NOT NULL,
    run_id     VARCHAR NOT NULL,
    workflow   VARCHAR NOT NULL,
    version    BIGINT NOT NULL,
    shard      INTEGER NOT NULL,
    started_at TIMESTAMPTZ NOT NULL,
    actor      VARCHAR NOT NULL,
    run_key    UBIGINT
);

CREATE TABLE IF NOT EXISTS run_moves (
    stream_seq UBIGINT NOT NULL,
    run_id     VARCHAR NOT NULL,
    version    BIGINT NOT NULL,      -- that the run goes on in
    moved_at   TIMESTAMPTZ NOT NULL,
    run_key    UBIGINT
);

-- Runs that had failed, and went on.
CREATE TABLE IF NOT EXISTS run_rescues (
    stream_seq UBIGINT NOT NULL,
    run_id     VARCHAR NOT NULL,
    node       BIGINT NOT NULL,
    skipped    BOOLEAN NOT NULL,
    reason     VARCHAR NOT NULL,
    actor      VARCHAR NOT NULL,
    rescued_at TIMESTAMPTZ NOT NULL,
    run_key    UBIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS run_ends (
    stream_seq      UBIGINT NOT NULL,
    run_id          VARCHAR NOT NULL,
    status          VARCHAR NOT NULL, -- completed, failed, cancelled, engine-fault
    ended_at        TIMESTAMPTZ NOT NULL,
    duration_ms     DOUBLE,
    failure_name    VARCHAR,
    failure_message VARCHAR,
    failure_kind    VARCHAR,
    output          JSON,
    run_key         UBIGINT
);

CREATE TABLE IF NOT EXISTS attempt_starts (
    stream_seq   UBIGINT NOT NULL,
    run_id       VARCHAR NOT NULL,
    workflow     VARCHAR NOT NULL,
    version      BIGINT NOT NULL,
    task         VARCHAR NOT NULL,
    task_id      VARCHAR NOT NULL,
    node         BIGINT NOT NULL,
    attempt      BIGINT NOT NULL,
    queue        VARCHAR NOT NULL,
    delay_s      DOUBLE NOT NULL,
    scheduled_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE IF NOT EXISTS attempt_ends (
    stream_seq      UBIGINT NOT NULL,
    run_id          VARCHAR NOT NULL,
    task_id         VARCHAR NOT NULL,
    attempt         BIGINT NOT NULL,
    worker          VARCHAR NOT NULL,
    ended_at        TIMESTAMPTZ NOT NULL,
    waited_ms       DOUBLE NOT NULL,
    duration_ms     DOUBLE NOT NULL,
    outcome         VARCHAR NOT NULL, -- completed, failed (the author's failure), errored (a technical one)
    failure_name    VARCHAR,
    failure_message VARCHAR,
    failure_kind    VARCHAR,
    retried         BOOLEAN NOT NULL,
    output          JSON
);

CREATE TABLE IF NOT EXISTS variable_changes (
    stream_seq UBIGINT NOT NULL,
    run_id     VARCHAR NOT NULL,
    name       VARCHAR NOT NULL,
    value      JSON NOT NULL,
    searchable BOOLEAN NOT NULL,
    changed_at TIMESTAMPTZ NOT NULL,
    run_key    UBIGINT
);

-- How far the file has come in each stream.
CREATE TABLE IF NOT EXISTS positions (
    stream         VARCHAR PRIMARY KEY,
    position       UBIGINT NOT NULL, -- everything up to this sequence is reflected here
    event_seq      UBIGINT NOT NULL, -- the last event read; reading goes on behind it
    stream_created VARCHAR NOT NULL, -- tells the stream from another one that later got its name
    format         INTEGER NOT NULL
);

-- Ranges that the stream dropped before they could be read.
CREATE TABLE IF NOT EXISTS gaps (
    stream    VARCHAR NOT NULL,
    first_seq UBIGINT NOT NULL,
    last_seq  UBIGINT NOT NULL,
    found_at  TIMESTAMPTZ NOT NULL
);

-- Messages on event subjects that are no output events.
CREATE TABLE IF NOT EXISTS rejects (
    stream_seq UBIGINT NOT NULL,
    subject    VARCHAR NOT NULL,
    reason     VARCHAR NOT NULL,
    payload    BLOB NOT NULL,        -- its first 64 KiB
    found_at   TIMESTAMPTZ NOT NULL
);

-- What happened to user tasks: given, assigned anew, commented, saved, reminded, overdue, completed, cancelled.
CREATE TABLE IF NOT EXISTS user_task_events (
    stream_seq   UBIGINT NOT NULL,
    run_id       VARCHAR NOT NULL,
    workflow     VARCHAR NOT NULL,
    version      BIGINT NOT NULL,
    user_task    VARCHAR NOT NULL,
    user_task_id VARCHAR NOT NULL,
    kind         VARCHAR NOT NULL,
    time         TIMESTAMPTZ NOT NULL,
    actor        VARCHAR NOT NULL,
    user_id      VARCHAR NOT NULL,     -- empty for nobody
    group_id     VARCHAR NOT NULL,
    how          VARCHAR,
    due_at       TIMESTAMPTZ,
    notes        VARCHAR,
    waited_ms    DOUBLE,
    text         VARCHAR,              -- of a comment, or why it was cancelled
    form         JSON                  -- the form as far as it is filled in
);

-- What happened to schedules: set, paused or resumed, fired, the end of a run, deleted.
CREATE TABLE IF NOT EXISTS schedule_events (
    stream_seq UBIGINT NOT NULL,
    schedule   VARCHAR NOT NULL,
    workflow   VARCHAR NOT NULL,
    kind       VARCHAR NOT NULL,
    time       TIMESTAMPTZ NOT NULL,
    actor      VARCHAR NOT NULL,
    moment     TIMESTAMPTZ,
    outcome    VARCHAR,
    run_id     VARCHAR,
    late_ms    DOUBLE,
    paused     BOOLEAN,
    next       TIMESTAMPTZ,
    by_hand    BOOLEAN NOT NULL
);
