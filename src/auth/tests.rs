#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::*;
use crate::store::{NewUser, Purpose};

const PASSWORD: &str = "correct horse";

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn settings() -> AuthConfig {
    AuthConfig {
        required: true,
        issuer: "steppe".into(),
        jwt_secret: None,
        access_token: Duration::from_mins(1),
        refresh_token: Duration::from_mins(10),
        internal_key: None,
    }
}

async fn fresh() -> (Authenticator, User, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::sqlite(&folder.path().join("steppe.db")).await.unwrap();
    let hash = passwords::hash(PASSWORD).unwrap();
    let new = NewUser { name: "ann", password_hash: Some(&hash), role: Role::User, department_id: None };
    let user = store.add_user(new).await.unwrap();
    (Authenticator::open(store, &settings()).await.unwrap(), user, folder)
}

fn is_invalid<T>(result: &Result<T, AuthError>) -> bool {
    matches!(result, Err(AuthError::Invalid))
}

#[tokio::test]
async fn a_key_names_its_user_until_it_is_revoked() {
    let (auth, user, _folder) = fresh().await;
    let request = KeyRequest { name: "laptop".into(), models: vec!["m".into()], ..KeyRequest::default() };
    let made = auth.make_key(&user.id, request).await.unwrap();
    assert!(made.secret.starts_with("sk-") && made.secret.ends_with(&made.key.hint));
    let identity = auth.bearer(&made.secret).await.unwrap();
    assert_eq!((identity.user_id.as_str(), identity.name.as_str(), identity.role), (&*user.id, "ann", Role::User));
    assert!(matches!(&identity.credential, Credential::Key { models, .. } if models == &["m"]));
    for wrong in ["sk-", "sk-other", &made.secret[..made.secret.len() - 1], "", "x.y.z"] {
        assert!(is_invalid(&auth.bearer(wrong).await), "{wrong}");
    }
    auth.inner.store.revoke_api_key(&user.id, &made.key.id).await.unwrap();
    assert!(is_invalid(&auth.bearer(&made.secret).await));
}

#[tokio::test]
async fn an_expired_key_and_a_disabled_user_are_refused() {
    let (auth, user, _folder) = fresh().await;
    let expired = KeyRequest { expires_at: Some(now() - 1), ..KeyRequest::default() };
    let made = auth.make_key(&user.id, expired).await.unwrap();
    assert!(is_invalid(&auth.bearer(&made.secret).await));
    let made = auth.make_key(&user.id, KeyRequest::default()).await.unwrap();
    let login = auth.log_in("ann", PASSWORD, HERE).await.unwrap();
    auth.inner.store.set_disabled(&user.id, true).await.unwrap();
    assert!(is_invalid(&auth.bearer(&made.secret).await) && is_invalid(&auth.bearer(&login.access_token).await));
    assert!(is_invalid(&auth.refresh(&login.refresh_token).await));
    assert!(matches!(auth.log_in("ann", PASSWORD, HERE).await, Err(AuthError::WrongPassword)));
}

#[tokio::test]
async fn a_login_gives_tokens_that_name_the_user() {
    let (auth, user, _folder) = fresh().await;
    let login = auth.log_in("Ann", PASSWORD, HERE).await.unwrap();
    assert_eq!((login.expires_in, login.role), (60, Role::User));
    let identity = auth.bearer(&login.access_token).await.unwrap();
    assert_eq!(identity.user_id, user.id);
    for (name, password) in [("ann", "wrong horse"), ("ann", ""), ("nobody", PASSWORD)] {
        assert!(matches!(auth.log_in(name, password, HERE).await, Err(AuthError::WrongPassword)), "{name} {password}");
    }
}

#[tokio::test]
async fn a_refresh_token_is_good_once() {
    let (auth, user, _folder) = fresh().await;
    let first = auth.log_in("ann", PASSWORD, HERE).await.unwrap();
    let second = auth.refresh(&first.refresh_token).await.unwrap();
    assert_eq!(auth.bearer(&second.access_token).await.unwrap().user_id, user.id);
    assert!(is_invalid(&auth.refresh(&first.refresh_token).await));
    assert!(is_invalid(&auth.refresh(&second.refresh_token).await), "the thief and the owner are both out");
    assert!(is_invalid(&auth.refresh("nonsense").await));
}

#[tokio::test]
async fn revoked_tokens_are_not_good() {
    let (auth, _, _folder) = fresh().await;
    let login = auth.log_in("ann", PASSWORD, HERE).await.unwrap();
    auth.revoke(&login.access_token).await.unwrap();
    assert!(is_invalid(&auth.bearer(&login.access_token).await));
    auth.revoke(&login.refresh_token).await.unwrap();
    assert!(is_invalid(&auth.refresh(&login.refresh_token).await));
    auth.revoke("nonsense").await.unwrap();
}

#[tokio::test]
async fn a_new_password_voids_old_tokens_and_not_new_ones() {
    let (auth, user, _folder) = fresh().await;
    let old = auth.log_in("ann", PASSWORD, HERE).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    auth.inner.store.set_password(&user.id, &passwords::hash("another horse").unwrap()).await.unwrap();
    assert!(is_invalid(&auth.bearer(&old.access_token).await));
    let new = auth.log_in("ann", "another horse", HERE).await.unwrap();
    assert!(auth.bearer(&new.access_token).await.is_ok());
}

#[tokio::test]
async fn tokens_survive_a_restart_and_a_rotation() {
    let (auth, _, folder) = fresh().await;
    let login = auth.log_in("ann", PASSWORD, HERE).await.unwrap();
    let user_id = auth.bearer(&login.access_token).await.unwrap().user_id;
    let key = auth.make_key(&user_id, KeyRequest::default()).await.unwrap().secret;
    let store = Store::sqlite(&folder.path().join("steppe.db")).await.unwrap();
    let seed: String = "ab".repeat(32);
    store.rotate_secret(Purpose::TokenKey, &seed).await.unwrap();
    store.rotate_secret(Purpose::KeyPepper, "another pepper").await.unwrap();
    let again = Authenticator::open(store, &settings()).await.unwrap();
    assert!(again.bearer(&login.access_token).await.is_ok() && again.bearer(&key).await.is_ok());
    let newer = again.log_in("ann", PASSWORD, HERE).await.unwrap();
    assert!(again.bearer(&newer.access_token).await.is_ok());
    assert!(is_invalid(&auth.bearer(&newer.access_token).await), "the first has not seen the new key yet");
}

#[tokio::test]
async fn tokens_of_another_issuer_algorithm_or_key_are_refused() {
    let (auth, _, folder) = fresh().await;
    let login = auth.log_in("ann", PASSWORD, HERE).await.unwrap();
    let store = Store::sqlite(&folder.path().join("steppe.db")).await.unwrap();
    let other_issuer = AuthConfig { issuer: "other".into(), ..settings() };
    let other = Authenticator::open(store.clone(), &other_issuer).await.unwrap();
    assert!(is_invalid(&other.bearer(&login.access_token).await));
    let secret = "0123456789abcdef0123456789abcdef".to_owned();
    let shared = AuthConfig { jwt_secret: Some(secret.into()), ..settings() };
    let hs256 = Authenticator::open(store.clone(), &shared).await.unwrap();
    assert!(is_invalid(&hs256.bearer(&login.access_token).await));
    let login = hs256.log_in("ann", PASSWORD, HERE).await.unwrap();
    assert!(hs256.bearer(&login.access_token).await.is_ok() && is_invalid(&auth.bearer(&login.access_token).await));
    let brief = AuthConfig { access_token: Duration::ZERO, ..shared };
    let brief = Authenticator::open(store, &brief).await.unwrap();
    let login = brief.log_in("ann", PASSWORD, HERE).await.unwrap();
    assert!(brief.bearer(&login.access_token).await.is_ok(), "within the leeway");
}

#[tokio::test]
#[ignore = "measures times of a machine that has nothing else to do; scripts/test --long"]
async fn unknown_users_take_as_long_as_wrong_passwords() {
    let (auth, _, _folder) = fresh().await;
    let mut best = [Duration::MAX; 2];
    for _ in 0..5 {
        for (name, best) in ["ann", "nobody"].into_iter().zip(&mut best) {
            let begin = Instant::now();
            assert!(auth.log_in(name, "wrong horse", HERE).await.is_err());
            *best = (*best).min(begin.elapsed());
        }
    }
    let ratio = best[0].as_secs_f64() / best[1].as_secs_f64();
    assert!((0.5..2.0).contains(&ratio), "{best:?}");
}

#[test]
fn short_passwords_are_none() {
    assert!(matches!(passwords::hash("пароль1"), Err(AuthError::WeakPassword(8))));
    assert!(passwords::hash("пароль12").is_ok());
    assert_ne!(passwords::random(), passwords::random());
}
