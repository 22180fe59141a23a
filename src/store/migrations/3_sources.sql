-- Who vouches for a user.

ALTER TABLE users ADD COLUMN source TEXT NOT NULL DEFAULT 'local';  -- local, directory or issuer
ALTER TABLE users ADD COLUMN subject TEXT;                         -- the issuer's own identifier of the user
ALTER TABLE users ADD COLUMN vouched_at BIGINT NOT NULL DEFAULT 0; -- last time; 0: no longer
