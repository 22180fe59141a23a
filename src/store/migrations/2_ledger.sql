-- Money is in 10^-6 of the currency. An entry moves an amount from its counter-account (issued:money, spent:money,
-- budgets:money, budgets:tokens) to its account, so that all entries of a unit sum to zero.

CREATE TABLE accounts (
    id TEXT PRIMARY KEY,                  -- user:<id>, or budget:<budget>/<first day of the period>
    kind TEXT NOT NULL,                   -- purse or budget
    unit TEXT NOT NULL,                   -- money or tokens
    balance BIGINT NOT NULL,              -- the sum of the account's entries; of a budget: what was used, below zero
    credit BIGINT NOT NULL,               -- how far below zero the balance may go: the limit of a budget
    held BIGINT NOT NULL,                 -- the sum of the account's open holds
    ends_at BIGINT,                       -- the end of a budget's period
    CHECK (held >= 0 AND balance <= 1000000000000000000 AND (kind = 'budget' OR balance >= held))
);

CREATE TABLE entries (
    transaction_id TEXT NOT NULL,         -- a request's id, or a top-up's
    account_id TEXT NOT NULL REFERENCES accounts (id),
    counter_account TEXT NOT NULL,        -- takes the same amount with the other sign
    amount BIGINT NOT NULL,
    author TEXT,                          -- who topped up
    description TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (transaction_id, account_id)
);
CREATE INDEX entries_of_account ON entries (account_id, created_at, transaction_id);
CREATE INDEX entries_by_time ON entries (created_at, transaction_id, account_id);

CREATE TABLE holds (
    request_id TEXT NOT NULL,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    amount BIGINT NOT NULL,
    owner TEXT NOT NULL,                  -- the process that holds
    PRIMARY KEY (request_id, account_id)
);
CREATE INDEX holds_of_owner ON holds (owner);

CREATE TABLE leases (
    owner TEXT PRIMARY KEY,
    expires_at BIGINT NOT NULL            -- by the database's clock; holds of an owner without a lease are void
);

CREATE TABLE budgets (
    id TEXT PRIMARY KEY,                  -- <subject>/<period>/<unit>
    subject TEXT NOT NULL,                -- user:<id>, key:<id> or department:<id>
    period TEXT NOT NULL,                 -- day, month or total
    unit TEXT NOT NULL,
    amount BIGINT NOT NULL,
    author TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE requests (
    id TEXT PRIMARY KEY,                  -- made by the server
    user_id TEXT NOT NULL,
    key_id TEXT,
    department_id TEXT,
    model TEXT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,        -- of the prompt
    completion_tokens BIGINT NOT NULL,
    cost BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    finished_at BIGINT NOT NULL,
    details TEXT NOT NULL                 -- JSON
);
CREATE INDEX requests_of_user ON requests (user_id, finished_at);
CREATE INDEX requests_by_time ON requests (finished_at);
