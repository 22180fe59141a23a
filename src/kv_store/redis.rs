//! The store in Redis. Every call has one deadline, goes through the breaker, and sends a number of its own before the
//! command: a reply that does not come behind that number is not ours.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{Cmd, FromRedisValue, Pipeline, ServerError, ToRedisArgs, Value};

use super::link::{Connected, Link};
use super::{KvError, RedisSettings};
use crate::resilience::Breaker;

/// Calls to one Redis. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    link: Arc<Link>,
    breaker: Arc<Breaker>,
    prefix: String,
    timeout: Duration,
    next_number: AtomicU64,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("prefix", &self.inner.prefix).finish_non_exhaustive()
    }
}

/// A Lua script, sent once and then called by its hash.
#[derive(Debug)]
pub struct Script {
    code: &'static str,
    hash: String,
}

impl Script {
    /// Of this text.
    pub fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }
}

static GET: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("get.lua")));
static SET: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("set.lua")));

/// Whether a call may be made twice.
#[derive(Clone, Copy, PartialEq)]
enum Repeat {
    Once,
    Idempotent,
}

impl Redis {
    /// Connects when it is first asked.
    ///
    /// # Errors
    /// When the address makes no sense.
    pub fn new(settings: &RedisSettings, breaker: Arc<Breaker>) -> Result<Self, KvError> {
        let inner = Inner {
            link: Link::new(settings.servers()?),
            breaker,
            prefix: settings.key_prefix()?,
            timeout: settings.timeout,
            next_number: AtomicU64::new(rand::random::<u32>().into()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<Arc<[u8]>>, KvError> {
        let value: Option<Vec<u8>> = self.call_script(Repeat::Idempotent, &GET, &[self.key("kv", key)], &[""]).await?;
        Ok(value.map(Into::into))
    }

    pub(super) async fn set(
        &self,
        key: &str,
        value: &[u8],
        time_to_live: Duration,
        tags: &[&str],
    ) -> Result<(), KvError> {
        let mut keys = vec![self.key("kv", key)];
        keys.extend(tags.iter().map(|tag| self.key("tag", tag)));
        let milliseconds = time_to_live.as_millis().max(1).to_string();
        let stamp = format!("{:032x}", rand::random::<u128>());
        let arguments = [value, milliseconds.as_bytes(), stamp.as_bytes()];
        self.call_script(Repeat::Idempotent, &SET, &keys, &arguments).await
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), KvError> {
        self.unlink(self.key("kv", key)).await
    }

    pub(super) async fn purge(&self, tag: &str) -> Result<(), KvError> {
        self.unlink(self.key("tag", tag)).await
    }

    async fn unlink(&self, key: String) -> Result<(), KvError> {
        let mut command = Cmd::new();
        command.arg("UNLINK").arg(key);
        self.call(Repeat::Idempotent, &command, None).await.map(drop)
    }

    /// The key under which `name` of this kind is kept; kinds hold no `:`.
    pub fn key(&self, kind: &str, name: &str) -> String {
        format!("{}{kind}:{name}", self.inner.prefix)
    }

    /// Runs a script in one round trip, at most once. After an error it may have run or not.
    ///
    /// # Errors
    /// Within the deadline, whatever happens; at once while the breaker is open.
    pub async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[impl ToRedisArgs + Sync],
    ) -> Result<T, KvError> {
        self.call_script(Repeat::Once, script, keys, arguments).await
    }

    async fn call_script<T: FromRedisValue>(
        &self,
        repeat: Repeat,
        script: &Script,
        keys: &[String],
        arguments: &[impl ToRedisArgs + Sync],
    ) -> Result<T, KvError> {
        let command = |name: &str, program: &str| {
            let mut command = Cmd::new();
            command.arg(name).arg(program).arg(keys.len()).arg(keys).arg(arguments);
            command
        };
        let whole = || command("EVAL", script.code);
        let reply = self.call(repeat, &command("EVALSHA", &script.hash), Some(&whole)).await?;
        redis::from_redis_value(reply).map_err(|_| KvError::Nonsense)
    }

    /// One command's reply. `in_full` makes the command for a server that does not know the script yet.
    async fn call(&self, repeat: Repeat, command: &Cmd, in_full: Option<&InFull<'_>>) -> Result<Value, KvError> {
        let Inner { link, breaker, timeout, .. } = &*self.inner;
        let permit = breaker.admit()?;
        let mut used = None;
        let answered = tokio::time::timeout(*timeout, self.exchange(repeat, command, in_full, &mut used)).await;
        let outcome = answered.unwrap_or(Err(KvError::Slow(*timeout)));
        match &outcome {
            // It works, but not with this command: a key may hold what others have put there.
            Ok(_) | Err(KvError::Command(_)) => permit.succeed(),
            Err(KvError::Refused(_)) => permit.fail(),
            Err(_) => {
                if let Some(used) = &used {
                    link.discard(used);
                }
                permit.fail();
            }
        }
        outcome
    }

    async fn exchange(
        &self,
        repeat: Repeat,
        command: &Cmd,
        in_full: Option<&InFull<'_>>,
        used: &mut Option<Connected>,
    ) -> Result<Value, KvError> {
        match self.once(command, in_full, used).await {
            // A connection that had broken unnoticed: the server may well be there again. Or nothing has been done yet,
            // and another server does it.
            Err(error @ (KvError::Connection(_) | KvError::Moved))
                if used.is_some() && (repeat == Repeat::Idempotent || matches!(error, KvError::Moved)) =>
            {
                if let Some(broken) = used.take() {
                    self.inner.link.discard(&broken);
                }
                self.once(command, in_full, used).await
            }
            outcome => outcome,
        }
    }

    async fn once(
        &self,
        command: &Cmd,
        in_full: Option<&InFull<'_>>,
        used: &mut Option<Connected>,
    ) -> Result<Value, KvError> {
        let connected = used.insert(self.inner.link.connection().await?);
        match (self.send(connected, command).await?, in_full) {
            (Value::ServerError(error), Some(in_full)) if error.code() == "NOSCRIPT" => {
                told(self.send(connected, &in_full()).await?)
            }
            (reply, _) => told(reply),
        }
    }

    async fn send(&self, connected: &mut Connected, command: &Cmd) -> Result<Value, KvError> {
        let number = self.inner.next_number.fetch_add(1, Ordering::Relaxed).to_string();
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("ECHO").arg(&number).add_command(command.clone());
        let replies = connected.connection.send_packed_commands(&pipeline, 0, 2).await;
        let replies = replies.map_err(|error| KvError::Connection(error.to_string()))?;
        match <[Value; 2]>::try_from(replies) {
            Ok([Value::BulkString(echo), reply]) if echo == number.as_bytes() => Ok(reply),
            Ok([Value::ServerError(error), _]) => Err(refused(&error)),
            _ => Err(KvError::Nonsense),
        }
    }
}

type InFull<'a> = dyn Fn() -> Cmd + Sync + 'a;

fn told(reply: Value) -> Result<Value, KvError> {
    match reply {
        Value::ServerError(error) => Err(refused(&error)),
        reply => Ok(reply),
    }
}

fn refused(error: &ServerError) -> KvError {
    match error.code() {
        "MOVED" => KvError::Moved,
        "ERR" | "WRONGTYPE" => KvError::Command(error.to_string()),
        _ => KvError::Refused(error.to_string()),
    }
}
