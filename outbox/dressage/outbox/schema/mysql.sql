CREATE TABLE dressage_outbox (
    seq bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
    id varchar(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL UNIQUE,
    ordering_key varchar(512) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    message mediumtext CHARACTER SET utf8mb4 NOT NULL,
    state varchar(8) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'pending',
    created_ms bigint NOT NULL DEFAULT (CAST(UNIX_TIMESTAMP(CURRENT_TIMESTAMP(3)) * 1000 AS signed)),
    due_ms bigint NOT NULL DEFAULT 0,
    settled_ms bigint NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    code varchar(64) CHARACTER SET utf8mb4 NOT NULL DEFAULT '',
    reason text CHARACTER SET utf8mb4 NOT NULL DEFAULT (''),
    INDEX dressage_outbox_pending (state, seq),
    INDEX dressage_outbox_ordered (ordering_key, state, seq),
    INDEX dressage_outbox_settled (state, settled_ms)
) ENGINE = InnoDB;

CREATE TABLE dressage_inbox (
    id varchar(400) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
    token varchar(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    result mediumtext CHARACTER SET utf8mb4,
    taken_ms bigint NOT NULL DEFAULT (CAST(UNIX_TIMESTAMP(CURRENT_TIMESTAMP(3)) * 1000 AS signed)),
    INDEX dressage_inbox_taken (taken_ms)
) ENGINE = InnoDB;
