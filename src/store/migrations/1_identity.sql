-- One text for SQLite and PostgreSQL. Moments are milliseconds since 1970; identifiers are text that the program makes;
-- flags are 0 or 1; lists are JSON arrays.

CREATE TABLE departments (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    limits TEXT NOT NULL,                 -- its own, a JSON object
    created_at BIGINT NOT NULL
);

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,            -- in lower case
    password_hash TEXT,                   -- a PHC string; none for those whom a directory vouches for
    role TEXT NOT NULL,
    department_id TEXT REFERENCES departments (id),
    disabled BIGINT NOT NULL,
    tokens_from BIGINT NOT NULL,          -- tokens issued before are void
    created_at BIGINT NOT NULL
);

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,            -- HMAC-SHA-256 of the key, hexadecimal
    hint TEXT NOT NULL,                   -- its end, to be told from others
    scopes TEXT NOT NULL,
    models TEXT NOT NULL,                 -- an empty list is every model
    limits TEXT NOT NULL,                 -- its own, a JSON object
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT
);
CREATE INDEX api_keys_of_user ON api_keys (user_id);

CREATE TABLE refresh_tokens (
    hash TEXT PRIMARY KEY,
    family TEXT NOT NULL,                 -- all that descend from one login
    user_id TEXT NOT NULL REFERENCES users (id),
    expires_at BIGINT NOT NULL,
    used_at BIGINT
);
CREATE INDEX refresh_tokens_of_family ON refresh_tokens (family);

CREATE TABLE revoked_tokens (
    jti TEXT PRIMARY KEY,
    expires_at BIGINT NOT NULL
);

CREATE TABLE secrets (
    purpose TEXT NOT NULL,
    generation BIGINT NOT NULL,
    material TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (purpose, generation)
);
