-- What was asked for: one row for each build of a template, from the request on. A finished one has a row in `builds` too.
CREATE TABLE build_jobs (
    id          TEXT PRIMARY KEY NOT NULL,
    template    TEXT NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    status      TEXT NOT NULL CHECK (status IN ('waiting', 'building', 'ready', 'error')),
    -- The tags that point at the build when it is ready, as JSON.
    tags        TEXT NOT NULL,
    vcpus       INTEGER NOT NULL,
    memory_mib  INTEGER NOT NULL,
    disk_mib    INTEGER NOT NULL,
    pids        INTEGER NOT NULL,
    start_cmd   TEXT,
    ready_cmd   TEXT,
    reason      TEXT,
    step        TEXT,
    created_at  TEXT NOT NULL,
    updated_at  TEXT NOT NULL,
    finished_at TEXT
) STRICT;
CREATE INDEX build_jobs_by_template ON build_jobs (template, created_at);
CREATE INDEX build_jobs_by_status ON build_jobs (status);

ALTER TABLE tags ADD COLUMN created_at TEXT NOT NULL DEFAULT '1970-01-01T00:00:00.000000000Z';
