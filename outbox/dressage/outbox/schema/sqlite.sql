CREATE TABLE dressage_outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    ordering_key TEXT NOT NULL,
    message TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sent', 'dead')),
    created_ms INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    due_ms INTEGER NOT NULL DEFAULT 0,
    settled_ms INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    code TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT ''
);

CREATE INDEX dressage_outbox_pending ON dressage_outbox (seq) WHERE state = 'pending';

CREATE INDEX dressage_outbox_ordered ON dressage_outbox (ordering_key, seq) WHERE state = 'pending';

CREATE INDEX dressage_outbox_settled ON dressage_outbox (settled_ms) WHERE state = 'sent';

CREATE INDEX dressage_outbox_dead ON dressage_outbox (seq) WHERE state = 'dead';

CREATE TABLE dressage_inbox (
    id TEXT PRIMARY KEY,
    token TEXT NOT NULL,
    result TEXT,
    taken_ms INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
);

CREATE INDEX dressage_inbox_taken ON dressage_inbox (taken_ms);
