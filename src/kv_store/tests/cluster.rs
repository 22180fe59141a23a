//! A real cluster of three servers: whichever is asked first, the calls go to the one that has our slot, also after it has
//! moved.

use std::process::Command;

use super::*;
use crate::kv_store::Script;

struct Cluster {
    servers: Vec<RedisServer>,
}

impl Cluster {
    async fn start() -> Self {
        let mut servers = Vec::new();
        for _ in 0..3 {
            let arguments = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"];
            servers.push(RedisServer::start_with(|_| arguments.map(str::to_owned).to_vec()).await);
        }
        let cluster = Self { servers };
        let mut create = Command::new("timeout");
        create.args(["30", "redis-cli", "--cluster", "create", "--cluster-yes", "--cluster-replicas", "0"]);
        create.args(cluster.servers.iter().map(|server| server.address().to_string()));
        let made = tokio::task::spawn_blocking(move || create.output().unwrap()).await.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        for server in 0..3 {
            let end = Instant::now() + Duration::from_secs(20);
            while !cluster.tell::<String>(server, "CLUSTER INFO").await.contains("cluster_state:ok") {
                assert!(Instant::now() < end, "the cluster does not come up");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        cluster
    }

    /// What a server answers to a command.
    async fn ask<T: ::redis::FromRedisValue>(&self, server: usize, command: &str) -> ::redis::RedisResult<T> {
        let client = ::redis::Client::open(self.servers[server].url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut words = command.split(' ');
        let mut command = ::redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>());
        command.query_async(&mut connection).await
    }

    async fn tell<T: ::redis::FromRedisValue>(&self, server: usize, command: &str) -> T {
        self.ask(server, command).await.unwrap()
    }

    /// The slot of our keys, and who has it.
    async fn slot(&self) -> (u16, usize) {
        for server in 0..3 {
            if self.ask::<u8>(server, "EXISTS {steppe}:").await.is_ok() {
                return (self.tell(server, "CLUSTER KEYSLOT {steppe}:").await, server);
            }
        }
        panic!("nobody has the slot");
    }

    /// Moves a slot with its keys from one server to another.
    async fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let (source, target): (String, String) =
            (self.tell(from, "CLUSTER MYID").await, self.tell(to, "CLUSTER MYID").await);
        let _: String = self.tell(to, &format!("CLUSTER SETSLOT {slot} IMPORTING {source}")).await;
        let _: String = self.tell(from, &format!("CLUSTER SETSLOT {slot} MIGRATING {target}")).await;
        let keys: Vec<String> = self.tell(from, &format!("CLUSTER GETKEYSINSLOT {slot} 1000")).await;
        let port = self.servers[to].address().port();
        for key in keys {
            let _: String = self.tell(from, &format!("MIGRATE 127.0.0.1 {port} {key} 0 5000")).await;
        }
        for server in [to, from] {
            let _: String = self.tell(server, &format!("CLUSTER SETSLOT {slot} NODE {target}")).await;
        }
    }
}

fn settings(url: String) -> RedisSettings {
    RedisSettings { cluster: true, timeout: MINUTE, ..RedisSettings::new(url) }
}

#[tokio::test]
async fn a_cluster_is_one_store_whichever_server_is_asked() {
    let cluster = Cluster::start().await;
    let (slot, owner) = cluster.slot().await;

    for server in &cluster.servers {
        holds(&KvStore::redis(&settings(server.url()), breaker(true)).unwrap()).await;
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let urls = format!("redis://{nobody}, {}", cluster.servers[(owner + 1) % 3].url());
    let redis = Redis::new(&settings(urls), breaker(true)).unwrap();
    let store = KvStore::Redis(redis.clone());
    store.set("word", b"before", MINUTE, &["all"]).await.unwrap();

    // Two keys in one script lie in one slot.
    let script = Script::new("return {redis.call('INCR', KEYS[1]), redis.call('INCR', KEYS[2])}");
    let keys = [redis.key("rate", "ann"), redis.key("rate", "all of them")];
    let counted: (u32, u32) = redis.script(&script, &keys, &[""]).await.unwrap();
    assert_eq!(counted, (1, 1));

    let keys: Vec<String> = cluster.tell(owner, &format!("CLUSTER GETKEYSINSLOT {slot} 1000")).await;
    assert!(keys.iter().all(|key| key.starts_with("{steppe}:")) && keys.len() >= 4, "{keys:?}");
}

#[tokio::test]
async fn calls_follow_a_slot_that_moves() {
    let cluster = Cluster::start().await;
    let (slot, owner) = cluster.slot().await;
    let breaker = breaker(true);
    let redis = Redis::new(&settings(cluster.servers[owner].url()), breaker.clone()).unwrap();
    let store = KvStore::Redis(redis.clone());
    store.set("word", b"before", MINUTE, &["all"]).await.unwrap();

    cluster.move_slot(slot, owner, (owner + 1) % 3).await;
    let script = Script::new("return redis.call('INCR', KEYS[1])");
    let counted: u32 = redis.script(&script, &[redis.key("rate", "ann")], &[""]).await.unwrap();
    assert_eq!(counted, 1, "what may be called once only is called once, at the right server");
    assert_eq!(store.text("word").await.as_deref(), Some("before"), "its keys have moved with it");
    store.purge("all").await.unwrap();
    assert_eq!(store.text("word").await, None);
    assert_eq!(breaker.report().state, BreakerState::Closed);
    assert_eq!(breaker.report().failures, 0, "nothing has failed");
}

#[tokio::test]
async fn a_cluster_without_the_server_of_our_slot_fails_within_the_deadline() {
    let mut cluster = Cluster::start().await;
    let (_, owner) = cluster.slot().await;
    let settings = RedisSettings { cluster: true, ..RedisSettings::new(cluster.servers[(owner + 1) % 3].url()) };
    let store = KvStore::redis(&settings, breaker(false)).unwrap();
    eventually(async || store.set("word", b"1", MINUTE, &[]).await).await;
    drop(cluster.servers.remove(owner));
    for _ in 0..5 {
        let started = Instant::now();
        assert!(store.get("word").await.is_err());
        assert!(started.elapsed() < 10 * DEADLINE, "{:?}", started.elapsed());
    }
}
