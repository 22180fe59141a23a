//! The same suite on SQLite and, where `TEST_POSTGRES_URL` names a server that may be written to, on PostgreSQL.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt as _;

use sqlx::Connection as _;

use super::*;

/// A fresh database on each kind of server there is.
pub(crate) async fn stores() -> Vec<(Store, Option<tempfile::TempDir>)> {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Store::sqlite(&folder.path().join("a b%?#.db")).await.unwrap();
    let mut stores = vec![(sqlite, Some(folder))];
    if let Some(url) = fresh_postgres().await {
        stores.push((Store::postgres(&url).await.unwrap(), None));
    }
    stores
}

/// The URL of a fresh database, where there is a PostgreSQL.
pub(crate) async fn fresh_postgres() -> Option<String> {
    let url = std::env::var("TEST_POSTGRES_URL").ok()?;
    let name = format!("steppe_test_{:x}", rand::random::<u64>());
    sqlx::any::install_default_drivers();
    let mut admin = Connection::connect(&url).await.unwrap();
    admin.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
    Some(format!("{}/{name}", url.rsplit_once('/').unwrap().0))
}

impl Store {
    /// Runs a statement, behind everybody's back.
    pub(crate) async fn execute(&self, statement: &'static str) {
        self.pool.execute(statement).await.unwrap();
    }
}

fn ann<'a>() -> NewUser<'a> {
    NewUser { name: "Ann", password_hash: Some("hash"), role: Role::User, department_id: None }
}

#[tokio::test]
async fn users_are_found_by_id_and_by_name_in_any_case() {
    for (store, _folder) in stores().await {
        let department = store.add_department("Бухгалтерия").await.unwrap();
        let new = NewUser { name: "Мария", department_id: Some(&department.id), role: Role::Admin, ..ann() };
        let maria = store.add_user(new).await.unwrap();
        assert_eq!(store.user_named("МАРИЯ").await.unwrap(), Some(maria.clone()));
        assert_eq!(store.user(&maria.id).await.unwrap(), Some(maria.clone()));
        assert!(matches!(store.add_user(new).await, Err(StoreError::Exists(name)) if name == "мария"));
        assert_eq!(store.user_named("nobody").await.unwrap(), None);
        store.add_user(ann()).await.unwrap();
        let names: Vec<String> = store.users().await.unwrap().into_iter().map(|user| user.name).collect();
        assert_eq!(names, ["ann", "мария"]);
        assert_eq!(store.departments().await.unwrap(), [department]);
    }
}

#[tokio::test]
async fn sources_vouch_for_their_own_users_and_for_no_others() {
    for (store, _folder) in stores().await {
        let department = store.add_department("Sales").await.unwrap();
        let bob = Vouched {
            name: "Bob",
            source: Source::Directory,
            subject: None,
            role: None,
            moves: false,
            department_id: None,
        };
        let first = store.vouch(bob).await.unwrap().unwrap();
        assert_eq!((first.name.as_str(), first.role, first.source), ("bob", Role::User, Source::Directory));
        assert!(first.password_hash.is_none() && first.vouched_at > 0 && !first.is_out());
        let moved = Vouched { role: Some(Role::Admin), moves: true, department_id: Some(&department.id), ..bob };
        let second = store.vouch(moved).await.unwrap().unwrap();
        assert_eq!(
            (&second.id, second.role, second.department_id.as_ref()),
            (&first.id, Role::Admin, Some(&department.id))
        );
        let kept = store.vouch(bob).await.unwrap().unwrap();
        assert_eq!((kept.role, kept.department_id.as_ref()), (Role::Admin, Some(&department.id)));
        let cleared = store.vouch(Vouched { moves: true, ..bob }).await.unwrap().unwrap();
        assert_eq!(cleared.department_id, None);

        let issued = Vouched { source: Source::Issuer, subject: Some("1"), ..bob };
        assert_eq!(store.vouch(issued).await.unwrap(), None, "the directory's");
        let eve = Vouched { name: "eve", ..issued };
        assert_eq!(store.vouch(eve).await.unwrap().unwrap().subject.as_deref(), Some("1"));
        assert_eq!(store.vouch(Vouched { subject: Some("2"), ..eve }).await.unwrap(), None, "another eve");
        let ann = store.add_user(ann()).await.unwrap();
        assert_eq!(store.vouch(Vouched { name: "ann", ..bob }).await.unwrap(), None, "a local user's");
        store.disown(&ann.id).await.unwrap();
        assert_eq!(store.user(&ann.id).await.unwrap(), Some(ann), "nobody else's to disown");

        let token = RefreshToken { hash: "b", family: "b", user_id: &first.id, expires_at: now() + 60_000 };
        store.add_refresh_token(token).await.unwrap();
        store.disown(&first.id).await.unwrap();
        let out = store.user(&first.id).await.unwrap().unwrap();
        assert!(out.is_out() && !out.disabled && out.tokens_from > 0);
        assert_eq!(store.user_of_refresh_token("b").await.unwrap(), None);
        assert!(!store.vouch(bob).await.unwrap().unwrap().is_out());
        store.set_password(&first.id, "hash").await.unwrap();
        assert_eq!(store.user(&first.id).await.unwrap().unwrap().source, Source::Local);
        assert_eq!(store.vouch(bob).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_new_password_and_a_ban_void_tokens() {
    for (store, _folder) in stores().await {
        let user = store.add_user(ann()).await.unwrap();
        let token = |hash| RefreshToken { hash, family: hash, user_id: &user.id, expires_at: now() + 60_000 };
        store.add_refresh_token(token("r1")).await.unwrap();
        assert_eq!(store.user_of_refresh_token("r1").await.unwrap().as_ref(), Some(&user.id));
        store.set_password(&user.id, "other").await.unwrap();
        assert_eq!(store.user_of_refresh_token("r1").await.unwrap(), None);
        let changed = store.user(&user.id).await.unwrap().unwrap();
        assert_eq!(changed.password_hash.as_deref(), Some("other"));
        assert!(changed.tokens_from >= user.created_at);
        store.add_refresh_token(token("r2")).await.unwrap();
        store.set_disabled(&user.id, true).await.unwrap();
        assert_eq!(store.user_of_refresh_token("r2").await.unwrap(), None);
        assert!(store.user(&user.id).await.unwrap().unwrap().disabled);
        assert!(matches!(store.set_disabled("nobody", true).await, Err(StoreError::NotFound(_))));
    }
}

#[tokio::test]
async fn keys_belong_to_their_user() {
    for (store, _folder) in stores().await {
        let (owner, other) =
            (store.add_user(ann()).await.unwrap(), store.add_user(NewUser { name: "bob", ..ann() }).await.unwrap());
        let scopes = ["chat".to_owned(), "act_as".to_owned()];
        let new = NewApiKey {
            user_id: &owner.id,
            name: "laptop",
            hash: "h",
            hint: "wxyz",
            scopes: &scopes,
            models: &[],
            limits: "{}",
            expires_at: Some(now() + 60_000),
        };
        let key = store.add_api_key(new).await.unwrap();
        assert_eq!(store.api_key_hashed("h").await.unwrap(), Some(key.clone()));
        assert!(store.add_api_key(new).await.is_err(), "a hash is unique");
        assert!(key.is_good(now()) && !key.is_good(now() + 60_001));
        assert!(matches!(store.revoke_api_key(&other.id, &key.id).await, Err(StoreError::NotFound(_))));
        store.revoke_api_key(&owner.id, &key.id).await.unwrap();
        let revoked = store.api_keys_of(&owner.id).await.unwrap().remove(0);
        store.revoke_api_key(&owner.id, &key.id).await.unwrap();
        assert_eq!(
            store.api_keys_of(&owner.id).await.unwrap(),
            std::slice::from_ref(&revoked),
            "the first moment stays"
        );
        assert!(!revoked.is_good(now()));
    }
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_a_second_use_ends_the_family() {
    for (store, _folder) in stores().await {
        let user = store.add_user(ann()).await.unwrap();
        let later = now() + 60_000;
        let token = |hash| RefreshToken { hash, family: "f", user_id: &user.id, expires_at: later };
        store.add_refresh_token(token("1")).await.unwrap();
        let done = Rotation::Done { user_id: user.id.clone() };
        assert_eq!(store.rotate_refresh_token("1", "2", later).await.unwrap(), done);
        assert_eq!(store.rotate_refresh_token("2", "3", later).await.unwrap(), done);
        assert_eq!(store.rotate_refresh_token("1", "x", later).await.unwrap(), Rotation::Reused);
        assert_eq!(store.rotate_refresh_token("3", "4", later).await.unwrap(), Rotation::Unknown, "the family is gone");
        store.add_refresh_token(RefreshToken { expires_at: now() - 1, ..token("old") }).await.unwrap();
        assert_eq!(store.rotate_refresh_token("old", "y", later).await.unwrap(), Rotation::Unknown);
        assert_eq!(store.prune_refresh_tokens().await.unwrap(), 1);
    }
}

#[tokio::test]
async fn of_many_refreshes_at_once_one_succeeds() {
    for (store, _folder) in stores().await {
        let user = store.add_user(ann()).await.unwrap();
        let later = now() + 60_000;
        let token = RefreshToken { hash: "1", family: "f", user_id: &user.id, expires_at: later };
        store.add_refresh_token(token).await.unwrap();
        let attempts = (0..8).map(|index| {
            let store = store.clone();
            tokio::spawn(async move { store.rotate_refresh_token("1", &format!("n{index}"), later).await })
        });
        let mut done = 0;
        for attempt in attempts.collect::<Vec<_>>() {
            done += usize::from(matches!(attempt.await.unwrap(), Ok(Rotation::Done { .. })));
        }
        assert_eq!(done, 1);
    }
}

#[tokio::test]
async fn revoked_tokens_are_remembered_until_their_end() {
    for (store, _folder) in stores().await {
        store.revoke_token("a", now() + 60_000).await.unwrap();
        store.revoke_token("a", now() + 60_000).await.unwrap();
        store.revoke_token("b", now() - 1).await.unwrap();
        assert!(store.is_revoked("a").await.unwrap() && !store.is_revoked("c").await.unwrap());
        assert_eq!(store.prune_revoked_tokens().await.unwrap(), 1);
        assert!(store.is_revoked("a").await.unwrap());
    }
}

#[tokio::test]
async fn secrets_are_made_once_and_rotate() {
    for (store, _folder) in stores().await {
        let first = store.secrets(Purpose::TokenKey, || "one".to_owned()).await.unwrap();
        let again = store.secrets(Purpose::TokenKey, || unreachable!("it is there")).await.unwrap();
        assert_eq!(first, again);
        store.secrets(Purpose::CacheMac, || "other".to_owned()).await.unwrap();
        let rotated = store.rotate_secret(Purpose::TokenKey, "two").await.unwrap();
        let materials: Vec<&str> = rotated.iter().map(|secret| secret.material.as_str()).collect();
        assert_eq!(materials, ["two", "one"]);
        assert!(!format!("{rotated:?}").contains("two"), "secrets do not reach logs");
    }
}

#[tokio::test]
async fn the_file_is_private_and_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/steppe.db");
    let store = Store::sqlite(&path).await.unwrap();
    let user = store.add_user(ann()).await.unwrap();
    store.close().await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0);
    let again = Store::sqlite(&path).await.unwrap();
    assert_eq!(again.user(&user.id).await.unwrap(), Some(user));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_one_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("steppe.db");
    std::fs::write(&path, vec![b'x'; 5000]).unwrap();
    let error = Store::sqlite(&path).await.unwrap_err().to_string();
    assert!(error.contains("not a database"), "{error}");
}

#[tokio::test]
async fn the_writer_keeps_the_order_and_undoes_what_failed_alone() {
    for (store, _folder) in stores().await {
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let writes: Vec<_> = (0..300)
            .map(|index| {
                let order = Arc::clone(&order);
                // Every third adds a department whose name is taken, after one that is not.
                store.write(
                    Write::new(index, |connection, index| {
                        Box::pin(async move {
                            let second = if index % 3 == 2 { "0".into() } else { format!("{index}b") };
                            for name in [index.to_string(), second] {
                                let insert =
                                    "INSERT INTO departments (id, name, limits, created_at) VALUES ($1, $2, '{}', 0)";
                                sqlx::query(insert).bind(new_id("dep")).bind(name).execute(&mut *connection).await?;
                            }
                            Ok(())
                        })
                    }),
                    move |result| order.lock().unwrap().push((index, result.is_ok())),
                )
            })
            .collect();
        for (index, write) in writes.into_iter().enumerate() {
            assert_eq!(write.await.is_ok(), index % 3 != 2, "{index}");
        }
        let expected: Vec<_> = (0..300).map(|index| (index, index % 3 != 2)).collect();
        assert_eq!(*order.lock().unwrap(), expected);
        assert_eq!(store.departments().await.unwrap().len(), 400, "two of every one that went well");
        store.close().await;
        assert!(store.write(Write::new((), |_, ()| Box::pin(async { Ok(()) })), |_| ()).await.is_err());
    }
}

/// Two processes whose transactions take the same accounts in contrary orders.
#[tokio::test]
async fn replicas_do_not_wait_for_each_other_in_a_circle() {
    use ledger::{accounts, holds};
    let Some(url) = fresh_postgres().await else { return };
    let (one, other) = (Store::postgres(&url).await.unwrap(), Store::postgres(&url).await.unwrap());
    let ids: Vec<String> = ["b", "Я", "a", "B", "_", "я"].into_iter().map(str::to_owned).collect();
    for id in &ids {
        let make = Write::new(id.clone(), |connection, id| Box::pin(accounts::purse(connection, id, 1_000_000, 0)));
        one.write_apart(make).await.unwrap();
    }
    let begin = std::time::Instant::now();
    let mut writes = Vec::new();
    for round in 0..200 {
        for (name, store) in [("one", &one), ("other", &other)] {
            let mut amounts: Vec<_> = ids.iter().map(|id| (id.clone(), 1)).collect();
            amounts.rotate_left(round % ids.len());
            if name == "other" {
                amounts.reverse();
            }
            let accounts = amounts.iter().map(|(id, _)| id.clone()).collect();
            let row = holds::HoldRow { request_id: format!("{name} {round}"), owner: name.into(), amounts };
            let take = Write::new(row, |connection, row| Box::pin(holds::take(connection, row, false)));
            writes.push(store.write(take.locking(accounts), |_| ()));
            if round % 20 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    for write in writes {
        assert_eq!(write.await.unwrap(), None);
    }
    // A circle is broken by the server only after a second, and by an error.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    for id in &ids {
        assert_eq!(one.account(id).await.unwrap().unwrap().held, 400);
    }
}

#[tokio::test]
async fn what_nobody_waits_for_is_written_all_the_same_and_goes_with_what_somebody_does() {
    for (store, _folder) in stores().await {
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let write = |name: &'static str, soon: bool| {
            let order = Arc::clone(&order);
            let write = Write::new((), |_, ()| Box::pin(async { Ok(()) }));
            let write = if soon { write.soon() } else { write };
            store.write(write, move |_| order.lock().unwrap().push(name))
        };
        write("alone", true).await.unwrap();
        let (first, second, third) = (write("first", true), write("second", false), write("third", true));
        second.await.unwrap();
        assert_eq!(order.lock().unwrap()[..3], ["alone", "first", "second"]);
        first.await.unwrap();
        third.await.unwrap();
    }
}

#[tokio::test]
async fn the_log_of_the_database_does_not_grow_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let store = Store::sqlite(&path).await.unwrap();
    let log = || std::fs::metadata(path.with_extension("db-wal")).unwrap().len();
    let begin = std::time::Instant::now();
    let mut longest = 0;
    // Far more than is left in the log at the most, while it is written to all the time.
    while begin.elapsed() < Duration::from_secs(6) {
        let write = Write::new((), |connection, ()| {
            Box::pin(async move {
                let insert = "INSERT INTO departments (id, name, limits, created_at) VALUES ($1, $1, $2, 0)";
                sqlx::query(insert).bind(new_id("dep")).bind("x".repeat(100_000)).execute(connection).await?;
                Ok(())
            })
        });
        store.write(write, |_| ()).await.unwrap();
        longest = longest.max(log());
    }
    let written = std::fs::metadata(&path).unwrap().len();
    assert!(written > longest, "{written} bytes written, of which the log held {longest}");
}
