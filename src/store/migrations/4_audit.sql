-- The audit log. Absent texts are empty, so that a row's hash covers plain texts and numbers only.

CREATE TABLE audit (
    seq BIGINT PRIMARY KEY,               -- from 1, without holes
    moment BIGINT NOT NULL,
    kind TEXT NOT NULL,
    actor_id TEXT NOT NULL,
    actor TEXT NOT NULL,
    credential TEXT NOT NULL,
    key_id TEXT NOT NULL,
    address TEXT NOT NULL,
    request_id TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    model TEXT NOT NULL,
    outcome TEXT NOT NULL,
    details TEXT NOT NULL,                -- a JSON object
    sealed_by TEXT NOT NULL,              -- name of the key of the hash
    hash TEXT NOT NULL                    -- HMAC-SHA-256 of the hash before and of this row, hexadecimal
);
CREATE INDEX audit_at ON audit (moment);
CREATE INDEX audit_of_actor ON audit (actor_id, seq);

-- One row: the end of the chain, and where it begins now that older rows are removed. Appending locks it.
CREATE TABLE audit_head (
    id BIGINT PRIMARY KEY,
    seq BIGINT NOT NULL,
    hash TEXT NOT NULL,
    pruned_seq BIGINT NOT NULL,
    pruned_hash TEXT NOT NULL,
    sealed_by TEXT NOT NULL,
    seal TEXT NOT NULL                    -- HMAC-SHA-256 of the rest, hexadecimal
);
INSERT INTO audit_head (id, seq, hash, pruned_seq, pruned_hash, sealed_by, seal) VALUES (1, 0, '', 0, '', '', '');
