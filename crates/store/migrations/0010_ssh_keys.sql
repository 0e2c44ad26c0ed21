-- `public_key` is the key as in an authorized_keys file, without its comment.
CREATE TABLE ssh_keys (
    team        TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    name        TEXT NOT NULL,
    public_key  TEXT NOT NULL,
    created_at  TEXT NOT NULL,
    PRIMARY KEY (team, fingerprint)
) STRICT;
CREATE INDEX ssh_keys_by_fingerprint ON ssh_keys (fingerprint);
