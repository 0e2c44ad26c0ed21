-- Times are RFC 3339 with nine decimals in UTC, so that text order is time order. Durations are whole nanoseconds.
-- What is only ever read back as a whole (maps, network settings, event details) is JSON.

CREATE TABLE sandboxes (
    id             TEXT PRIMARY KEY NOT NULL,
    team           TEXT NOT NULL,
    template       TEXT NOT NULL,
    alias          TEXT,
    build          TEXT NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('running', 'paused')),
    instance       TEXT,
    snapshot       TEXT,
    created_at     TEXT NOT NULL,
    started_at     TEXT NOT NULL,
    end_at         TEXT NOT NULL,
    timeout_ns     INTEGER,
    max_run_ns     INTEGER NOT NULL,
    on_timeout     TEXT NOT NULL,
    auto_resume    INTEGER NOT NULL,
    access_token   TEXT,
    traffic_token  TEXT,
    allow_internet INTEGER,
    network        TEXT,
    metadata       TEXT NOT NULL,
    env            TEXT NOT NULL,
    vcpus          INTEGER NOT NULL,
    memory_mib     INTEGER NOT NULL,
    disk_mib       INTEGER NOT NULL,
    pids           INTEGER NOT NULL
) STRICT;

CREATE TABLE keys (
    hash       TEXT PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    team       TEXT NOT NULL,
    max_run_ns INTEGER NOT NULL,
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE templates (
    id         TEXT PRIMARY KEY NOT NULL,
    team       TEXT NOT NULL,
    public     INTEGER NOT NULL,
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE aliases (
    team     TEXT NOT NULL,
    alias    TEXT NOT NULL,
    template TEXT NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    PRIMARY KEY (team, alias)
) STRICT;
CREATE INDEX aliases_by_template ON aliases (template, position);
CREATE INDEX aliases_by_name ON aliases (alias);

CREATE TABLE builds (
    id              TEXT PRIMARY KEY NOT NULL,
    template        TEXT NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    engine          TEXT NOT NULL,
    root            TEXT NOT NULL,
    snapshot        TEXT NOT NULL,
    vcpus           INTEGER NOT NULL,
    memory_mib      INTEGER NOT NULL,
    disk_mib        INTEGER NOT NULL,
    pids            INTEGER NOT NULL,
    env             TEXT NOT NULL,
    default_user    TEXT NOT NULL,
    default_workdir TEXT,
    created_at      TEXT NOT NULL
) STRICT;
CREATE INDEX builds_by_template ON builds (template, created_at);

CREATE TABLE tags (
    template TEXT NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    tag      TEXT NOT NULL,
    build    TEXT NOT NULL REFERENCES builds (id) ON DELETE CASCADE,
    PRIMARY KEY (template, tag)
) STRICT;

-- `seq` is the order of commits: two events of one transaction may carry the same time.
CREATE TABLE events (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    id       TEXT NOT NULL UNIQUE,
    kind     TEXT NOT NULL,
    at       TEXT NOT NULL,
    sandbox  TEXT NOT NULL,
    team     TEXT NOT NULL,
    template TEXT NOT NULL,
    build    TEXT NOT NULL,
    data     TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_team ON events (team, seq);
CREATE INDEX events_by_sandbox ON events (team, sandbox, seq);
CREATE INDEX events_by_time ON events (at);

-- `daemon` names the process that took the request; an entry without an answer whose daemon is gone has an unknown outcome.
CREATE TABLE idempotency (
    team       TEXT NOT NULL,
    key        TEXT NOT NULL,
    request    BLOB NOT NULL,
    daemon     TEXT NOT NULL,
    status     INTEGER,
    body       BLOB,
    started_at TEXT NOT NULL,
    PRIMARY KEY (team, key)
) STRICT;
CREATE INDEX idempotency_by_time ON idempotency (started_at);
