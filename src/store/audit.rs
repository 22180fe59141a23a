//! The rows of the audit log and the one row that holds its end. Functions that take a [`Connection`] are parts of a
//! transaction. Must not know what a row means or how it is sealed.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Connection, Moment, Result, Store};

/// A row, as it is stored; what is absent is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the audit log's own event says what they are")]
pub struct AuditRow {
    /// From 1, without holes.
    pub seq: i64,
    pub moment: Moment,
    pub kind: String,
    pub actor_id: String,
    pub actor: String,
    pub credential: String,
    pub key_id: String,
    pub address: String,
    pub request_id: String,
    pub action: String,
    pub object: String,
    pub model: String,
    pub outcome: String,
    /// A JSON object.
    pub details: String,
    /// Name of the key of the hash.
    pub sealed_by: String,
    /// Of the hash before and of this row.
    pub hash: String,
}

/// Where the log ends, and where it begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditHead {
    /// The last row; 0 where there was none.
    pub seq: i64,
    /// Its hash.
    pub hash: String,
    /// The last row that was removed; 0 where none was.
    pub pruned_seq: i64,
    /// Its hash.
    pub pruned_hash: String,
    /// Name of the key of the seal.
    pub sealed_by: String,
    /// Of the rest.
    pub seal: String,
}

/// Which rows one wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFilter {
    /// From this moment on.
    pub from: Moment,
    /// Before this moment.
    pub to: Moment,
    /// Of this actor only, by id.
    pub actor_id: Option<String>,
    /// After this row.
    pub after: i64,
}

impl Default for AuditFilter {
    fn default() -> Self {
        Self { from: 0, to: Moment::MAX, actor_id: None, after: 0 }
    }
}

const COLUMNS: &str = "seq, moment, kind, actor_id, actor, credential, key_id, address, request_id, action, object, model, \
                       outcome, details, sealed_by, hash";
/// How many there are.
const WIDTH: usize = 16;
const HEAD: &str = "seq, hash, pruned_seq, pruned_hash, sealed_by, seal";
/// Rows of one statement.
const ROWS: usize = 64;

/// The head, which nobody else may change before this transaction ends.
pub async fn lock_head(connection: &mut Connection) -> Result<AuditHead> {
    // Both databases lock a row that is written, and PostgreSQL then returns what it has become.
    let statement = sqlx::AssertSqlSafe(format!("UPDATE audit_head SET id = 1 WHERE id = 1 RETURNING {HEAD}"));
    read_head(&sqlx::query(statement).fetch_one(connection).await?)
}

/// The head.
pub async fn head(connection: &mut Connection) -> Result<AuditHead> {
    let statement = sqlx::AssertSqlSafe(format!("SELECT {HEAD} FROM audit_head WHERE id = 1"));
    read_head(&sqlx::query(statement).fetch_one(connection).await?)
}

/// Changes the head.
pub async fn set_head(connection: &mut Connection, head: &AuditHead) -> Result<()> {
    let statement = "UPDATE audit_head SET seq = $1, hash = $2, pruned_seq = $3, pruned_hash = $4, sealed_by = $5, \
                     seal = $6 WHERE id = 1";
    let update = sqlx::query(statement).bind(head.seq).bind(&head.hash).bind(head.pruned_seq).bind(&head.pruned_hash);
    update.bind(&head.sealed_by).bind(&head.seal).execute(connection).await?;
    Ok(())
}

/// Adds rows.
pub async fn insert(connection: &mut Connection, rows: &[AuditRow]) -> Result<()> {
    for rows in rows.chunks(ROWS) {
        let places = |row: usize| {
            let places: Vec<String> = (1..=WIDTH).map(|column| format!("${}", row * WIDTH + column)).collect();
            format!("({})", places.join(", "))
        };
        let places: Vec<String> = (0..rows.len()).map(places).collect();
        let statement = format!("INSERT INTO audit ({COLUMNS}) VALUES {}", places.join(", "));
        // As many statements as there are numbers of rows are not worth keeping.
        let mut insert = sqlx::query(sqlx::AssertSqlSafe(statement)).persistent(rows.len() == 1);
        for row in rows {
            insert = insert.bind(row.seq).bind(row.moment);
            for text in row.texts() {
                insert = insert.bind(text);
            }
            insert = insert.bind(&row.sealed_by).bind(&row.hash);
        }
        insert.execute(&mut *connection).await?;
    }
    Ok(())
}

/// The next rows after one of this number, in their order.
pub async fn after(connection: &mut Connection, seq: i64, limit: i64) -> Result<Vec<AuditRow>> {
    let statement = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2"));
    sqlx::query(statement).bind(seq).bind(limit).fetch_all(connection).await?.iter().map(read_row).collect()
}

/// The hash of a row.
pub async fn hash_of(connection: &mut Connection, seq: i64) -> Result<Option<String>> {
    let row = sqlx::query("SELECT hash FROM audit WHERE seq = $1").bind(seq).fetch_optional(connection).await?;
    row.map(|row| Ok(row.try_get("hash")?)).transpose()
}

/// The last of at most `limit` leading rows that are all older than `moment`.
pub async fn last_before(connection: &mut Connection, moment: Moment, limit: i64) -> Result<Option<i64>> {
    let statement = "SELECT MAX(seq) AS last FROM (SELECT seq FROM audit WHERE seq < \
                     COALESCE((SELECT MIN(seq) FROM audit WHERE moment >= $1), 9223372036854775807) \
                     ORDER BY seq LIMIT $2) AS old";
    let row = sqlx::query(statement).bind(moment).bind(limit).fetch_one(connection).await?;
    Ok(row.try_get("last")?)
}

/// Removes the rows up to this one.
pub async fn remove_through(connection: &mut Connection, seq: i64) -> Result<()> {
    sqlx::query("DELETE FROM audit WHERE seq <= $1").bind(seq).execute(connection).await?;
    Ok(())
}

impl Store {
    /// Rows in their order, so many at most.
    pub async fn audit_rows(&self, filter: &AuditFilter, limit: i64) -> Result<Vec<AuditRow>> {
        let statement = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM audit WHERE seq > $1 AND moment >= $2 AND moment < $3 AND (actor_id = $4 OR $5 = 1) \
             ORDER BY seq LIMIT $6"
        ));
        let query = sqlx::query(statement).bind(filter.after).bind(filter.from).bind(filter.to);
        let query = query.bind(filter.actor_id.clone().unwrap_or_default()).bind(i64::from(filter.actor_id.is_none()));
        query.bind(limit).fetch_all(&self.pool).await?.iter().map(read_row).collect()
    }
}

impl AuditRow {
    /// All texts that a hash covers, in the order of the columns.
    pub fn texts(&self) -> [&str; 12] {
        [
            &self.kind,
            &self.actor_id,
            &self.actor,
            &self.credential,
            &self.key_id,
            &self.address,
            &self.request_id,
            &self.action,
            &self.object,
            &self.model,
            &self.outcome,
            &self.details,
        ]
    }
}

fn read_head(row: &AnyRow) -> Result<AuditHead> {
    Ok(AuditHead {
        seq: row.try_get("seq")?,
        hash: row.try_get("hash")?,
        pruned_seq: row.try_get("pruned_seq")?,
        pruned_hash: row.try_get("pruned_hash")?,
        sealed_by: row.try_get("sealed_by")?,
        seal: row.try_get("seal")?,
    })
}

fn read_row(row: &AnyRow) -> Result<AuditRow> {
    Ok(AuditRow {
        seq: row.try_get("seq")?,
        moment: row.try_get("moment")?,
        kind: row.try_get("kind")?,
        actor_id: row.try_get("actor_id")?,
        actor: row.try_get("actor")?,
        credential: row.try_get("credential")?,
        key_id: row.try_get("key_id")?,
        address: row.try_get("address")?,
        request_id: row.try_get("request_id")?,
        action: row.try_get("action")?,
        object: row.try_get("object")?,
        model: row.try_get("model")?,
        outcome: row.try_get("outcome")?,
        details: row.try_get("details")?,
        sealed_by: row.try_get("sealed_by")?,
        hash: row.try_get("hash")?,
    })
}
