//! Logging in by a real LDAP server: who may, who may not, and what happens when it does not answer.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use serde_json::json;
use steppe::auth::{Account, AuthError, Authenticator, KeyRequest, Outside};
use steppe::config::{Config, Sources, load};
use steppe::resilience::Breakers;
use steppe::store::{Role, Source, Store, User};
use tempfile::TempDir;

use crate::harness::Setup;
use crate::http::post;
use crate::slapd::{BASE, PASSWORD, SERVICE, SERVICE_PASSWORD, Slapd};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Keys of `[directory]` with their values in TOML.
type Keys<'a> = [(&'a str, &'a str)];

fn config(folder: &TempDir, keys: &Keys) -> Result<Config, String> {
    let lines: Vec<String> = keys.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    let file = folder.path().join("steppe.toml");
    std::fs::write(
        &file,
        format!("[data]\ndir = \"{}\"\n[directory]\n{}\n", folder.path().display(), lines.join("\n")),
    )
    .unwrap();
    load(&Sources { file: Some(file), ..Sources::default() })
        .map(|loaded| loaded.config)
        .map_err(|error| error.to_string())
}

/// What a test of this server writes, unless `keys` say otherwise.
fn keys_of<'a>(quoted: &'a [String; 4], keys: &Keys<'a>) -> Vec<(&'a str, &'a str)> {
    let [url, ca_file, base, dn] = quoted;
    let mut all = vec![("urls", url.as_str()), ("ca_file", ca_file), ("base_dn", base), ("bind_dn", dn)];
    all.push(("bind_password", "\"service secret\""));
    // A machine that is busy with other things may leave slapd waiting for seconds; a test of patience asks for less.
    all.push(("timeout_seconds", "45"));
    all.retain(|(key, _)| !keys.iter().any(|(known, _)| known == key));
    all.extend(keys);
    all
}

fn quoted(slapd: &Slapd, url: &str) -> [String; 4] {
    assert_eq!(SERVICE_PASSWORD, "service secret");
    [format!("[{url:?}]"), format!("\"{}\"", slapd.ca_file().display()), format!("{BASE:?}"), format!("{SERVICE:?}")]
}

/// Who checks credentials with the directory at `url`.
async fn open_at(slapd: &Slapd, url: &str, keys: &Keys<'_>) -> (Authenticator, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let quoted = quoted(slapd, url);
    let config = config(&folder, &keys_of(&quoted, keys)).unwrap();
    let store = Store::sqlite(&folder.path().join("steppe.db")).await.unwrap();
    let outside = Outside::open(config.directory.as_ref(), None, &Breakers::default()).unwrap();
    (Authenticator::open_with(store, &config.auth, outside).await.unwrap(), folder)
}

async fn open(slapd: &Slapd, keys: &Keys<'_>) -> (Authenticator, TempDir) {
    open_at(slapd, &slapd.ldaps, keys).await
}

/// Logs in; true for a right pair, false for a wrong one.
async fn enters(auth: &Authenticator, name: &str, password: &str) -> bool {
    match auth.log_in(name, password, HERE).await {
        Ok(_) => true,
        Err(AuthError::WrongPassword) => false,
        Err(error) => panic!("{name}: {error}"),
    }
}

/// Why the directory could not be asked.
async fn failure(auth: &Authenticator) -> String {
    match auth.log_in("ann", PASSWORD, HERE).await {
        Err(error @ AuthError::Unavailable(..)) => error.to_string(),
        other => panic!("{:?}", other.err()),
    }
}

async fn user(auth: &Authenticator, name: &str) -> User {
    auth.find_user(name).await.unwrap()
}

async fn department(auth: &Authenticator, name: &str) -> Option<String> {
    let id = user(auth, name).await.department_id?;
    auth.store().departments().await.unwrap().into_iter().find(|known| known.id == id).map(|known| known.name)
}

#[tokio::test]
async fn right_passwords_enter_and_make_users_without_one() {
    let Some(slapd) = Slapd::start() else { return };
    for url in [&slapd.ldaps, &slapd.ldap] {
        let (auth, _folder) = open_at(&slapd, url, &[]).await;
        auth.probe_directory().await.unwrap();
        let login = auth.log_in("Ann", PASSWORD, HERE).await.unwrap();
        let identity = auth.bearer(&login.access_token).await.unwrap();
        let ann = user(&auth, "ann").await;
        assert_eq!((identity.user_id, ann.source, ann.password_hash), (ann.id.clone(), Source::Directory, None));
        assert!(enters(&auth, "ann", PASSWORD).await && user(&auth, "ann").await.id == ann.id, "the same user");
        assert!(enters(&auth, "мария", PASSWORD).await && enters(&auth, "smith", PASSWORD).await);
        assert!(enters(&auth, "carol", PASSWORD).await, "the service account sees her");
        for (name, password) in
            [("ann", "wrong"), ("ann", ""), ("", PASSWORD), ("", ""), ("nobody", PASSWORD), ("nobody", "")]
        {
            assert!(!enters(&auth, name, password).await, "{name} {password}");
        }
    }
    let (auth, _folder) = open(&slapd, &[("bind_dn", "\"\""), ("bind_password", "\"\"")]).await;
    assert!(enters(&auth, "ann", PASSWORD).await, "nobody in particular may search, too");
    assert!(!enters(&auth, "carol", PASSWORD).await, "who does not see her");
}

#[tokio::test]
async fn names_are_taken_to_the_letter_and_for_one_entry() {
    let Some(slapd) = Slapd::start() else { return };
    let (auth, _folder) = open(&slapd, &[("disabled_filter", "\"(employeeType=left)\"")]).await;
    for name in ["*", "ann*", "*)(uid=ann", "ann)(|(uid=*", "\\61nn", "ann\0", "{user}", "{dn}", "twin", "old"] {
        assert!(!enters(&auth, name, PASSWORD).await, "{name}");
    }
    let injection = "*)(uid=*";
    assert!(enters(&auth, injection, PASSWORD).await && user(&auth, injection).await.name == injection);
    let names: Vec<_> = auth.store().users().await.unwrap().into_iter().map(|user| user.name).collect();
    assert_eq!(names, [injection]);
}

#[tokio::test]
async fn groups_in_groups_give_roles_and_departments() {
    let Some(slapd) = Slapd::start() else { return };
    let keys = [
        ("admin_groups", "[\"IT\"]"),
        ("user_groups", "[\"cn=Staff, ou=groups, dc=example, dc=org\", \"sales, emea (all)\"]"),
        ("department_groups", "[\"nowhere -> X\", \"west -> Запад\", \"unix -> Unix\"]"),
        ("department_attribute", "\"department\""),
    ];
    let (auth, _folder) = open(&slapd, &keys).await;
    for (name, role, place) in
        [("bob", Role::Admin, Some("IT")), ("ann", Role::User, Some("Запад")), ("smith", Role::User, None)]
    {
        assert_eq!(auth.log_in(name, PASSWORD, HERE).await.unwrap().role, role, "{name}");
        assert_eq!(department(&auth, name).await.as_deref(), place, "{name}");
    }
    assert!(!enters(&auth, "carol", PASSWORD).await, "she is in no group");
    let shallow = [("admin_groups", "[\"it\"]"), ("group_depth", "1"), ("department_groups", "[\"UNIX -> Unix\"]")];
    let (auth, _folder) = open(&slapd, &shallow).await;
    assert_eq!(auth.log_in("bob", PASSWORD, HERE).await.unwrap().role, Role::User, "too deep");
    assert!(enters(&auth, "ann", PASSWORD).await);
    assert_eq!(department(&auth, "ann").await.as_deref(), Some("Unix"), "by memberUid");
}

#[tokio::test]
async fn presets_know_active_directory_samba_freeipa_and_ald_pro() {
    let Some(slapd) = Slapd::start() else { return };
    // slapd does not know the rule that follows groups in groups by itself.
    for preset in ["\"active-directory\"", "\"samba\""] {
        let windows = [
            ("preset", preset),
            ("group_filter", "\"(member={dn})\""),
            ("group_depth", "5"),
            ("admin_groups", "[\"staff\"]"),
        ];
        let (auth, _folder) = open(&slapd, &windows).await;
        assert_eq!(auth.log_in("win@example.org", PASSWORD, HERE).await.unwrap().role, Role::Admin);
        assert!(enters(&auth, "WIN", PASSWORD).await);
        let names: Vec<_> = auth.store().users().await.unwrap().into_iter().map(|user| user.name).collect();
        assert_eq!(names, ["win"], "one user, whatever they log in with");
        assert!(!enters(&auth, "lost", PASSWORD).await && !enters(&auth, "ann", PASSWORD).await);
    }

    let (ipa, admins) = ("\"ald-pro\"", "[\"admins\"]");
    for preset in [ipa, "\"freeipa\""] {
        let keys = [("preset", preset), ("user_groups", "[\"office\"]"), ("admin_groups", admins)];
        let (auth, _folder) = open(&slapd, &keys).await;
        assert_eq!(auth.log_in("ipa", PASSWORD, HERE).await.unwrap().role, Role::Admin);
        assert!(!enters(&auth, "locked", PASSWORD).await && !enters(&auth, "ann", PASSWORD).await);
    }
    let place = ("group_base_dn", "\"ou=Groups,dc=example,dc=org\"");
    let (auth, _folder) = open(&slapd, &[("preset", ipa), ("admin_groups", admins), place]).await;
    assert_eq!(auth.log_in("ipa", PASSWORD, HERE).await.unwrap().role, Role::User, "a group of another place");
}

#[tokio::test]
async fn a_name_belongs_to_whoever_had_it_first() {
    let Some(slapd) = Slapd::start() else { return };
    let (auth, _folder) = open(&slapd, &[]).await;
    let account =
        Account { name: "ann".into(), password: Some("local horse".into()), role: Role::Admin, department: None };
    let (ann, _) = auth.add_user(account).await.unwrap();
    assert!(!enters(&auth, "ann", PASSWORD).await, "the directory's password");
    assert!(enters(&auth, "ann", "local horse").await);
    assert_eq!(user(&auth, "ann").await.id, ann.id);
    assert!(enters(&auth, "bob", PASSWORD).await);
    let bob = user(&auth, "bob").await;
    let change = steppe::auth::AccountChange { password: Some("local horse".into()), ..Default::default() };
    auth.change_user(&bob.id, change).await.unwrap();
    assert!(!enters(&auth, "bob", PASSWORD).await && enters(&auth, "bob", "local horse").await, "local from now on");
    assert!(enters(&auth, "smith", PASSWORD).await);
    auth.store().set_disabled(&user(&auth, "smith").await.id, true).await.unwrap();
    assert!(!enters(&auth, "smith", PASSWORD).await, "shut out here");
}

#[tokio::test]
async fn certificates_and_tls_are_insisted_upon() {
    let Some(slapd) = Slapd::start() else { return };
    let other = format!("\"{}\"", slapd.other_ca_file().display());
    for url in [&slapd.ldaps, &slapd.ldap] {
        let (auth, _folder) = open_at(&slapd, url, &[("ca_file", &other)]).await;
        assert!(failure(&auth).await.contains("certificate"), "{}", failure(&auth).await);
        let named = url.replace("127.0.0.1", "localhost");
        let (auth, _folder) = open_at(&slapd, &named, &[]).await;
        assert!(failure(&auth).await.contains("certificate"), "not this server's name");
    }
    let (auth, _folder) = open(&slapd, &[("bind_password", "\"wrong\"")]).await;
    assert!(failure(&auth).await.contains("directory.bind_dn"), "{}", failure(&auth).await);
    let (auth, _folder) = open(&slapd, &[("base_dn", "\"dc=nowhere\"")]).await;
    assert!(failure(&auth).await.contains("dc=nowhere"), "{}", failure(&auth).await);

    let Some(bare) = Slapd::start_with(false) else { return };
    let ca_file = format!("\"{}\"", slapd.ca_file().display());
    let (auth, _folder) = open_at(&bare, &bare.ldap, &[("ca_file", &ca_file)]).await;
    assert!(failure(&auth).await.contains("StartTLS"), "{}", failure(&auth).await);
    let (auth, _folder) = open_at(&bare, &bare.ldap, &[("plain", "true"), ("ca_file", "\"/nowhere\"")]).await;
    assert!(enters(&auth, "ann", PASSWORD).await, "allowed by the configuration");
}

#[tokio::test]
async fn a_server_that_is_frozen_or_gone_keeps_nobody_else_out() {
    let Some(mut slapd) = Slapd::start() else { return };
    let (auth, _folder) = open(&slapd, &[("timeout_seconds", "1")]).await;
    let account = Account { name: "local".into(), password: Some(PASSWORD.into()), role: Role::User, department: None };
    auth.add_user(account).await.unwrap();
    let login = auth.log_in("ann", PASSWORD, HERE).await.unwrap();
    slapd.freeze();
    for frozen in [true, false] {
        if !frozen {
            slapd.stop();
        }
        let begin = Instant::now();
        let told = failure(&auth).await;
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(3) && (!frozen || took > Duration::from_millis(900)), "{took:?}: {told}");
        assert!(matches!(auth.log_in("nobody", PASSWORD, HERE).await, Err(AuthError::Unavailable(..))));
        let begin = Instant::now();
        assert!(enters(&auth, "local", PASSWORD).await && !enters(&auth, "local", "wrong horse").await);
        assert!(begin.elapsed() < Duration::from_secs(3));
        assert!(auth.bearer(&login.access_token).await.is_ok());
    }
    let renewed = auth.refresh(&login.refresh_token).await.unwrap();
    assert!(auth.bearer(&renewed.access_token).await.is_ok(), "it was asked a moment ago");

    let Some(second) = Slapd::start() else { return };
    let urls = format!("[{:?}, {:?}]", slapd.ldaps, second.ldaps);
    let (auth, _folder) = open(&second, &[("urls", &urls)]).await;
    assert!(enters(&auth, "ann", PASSWORD).await, "the second one answers");
}

/// Makes it that the directory vouched for this user long ago.
async fn age(folder: &TempDir, name: &str) {
    sqlx::any::install_default_drivers();
    let url = format!("sqlite:{}", folder.path().join("steppe.db").display());
    let pool = sqlx::AnyPool::connect(&url).await.unwrap();
    let aged = sqlx::query("UPDATE users SET vouched_at = 1 WHERE name = $1").bind(name).execute(&pool).await.unwrap();
    assert_eq!(aged.rows_affected(), 1);
}

#[tokio::test]
async fn whoever_leaves_the_company_is_out_with_tokens_and_keys() {
    let Some(mut slapd) = Slapd::start() else { return };
    let keys =
        [("recheck_minutes", "1"), ("disabled_filter", "\"(employeeType=left)\""), ("admin_groups", "[\"heads\"]")];
    let (auth, folder) = open(&slapd, &keys).await;
    let ann = auth.log_in("ann", PASSWORD, HERE).await.unwrap();
    let ann_key = auth.make_key(&user(&auth, "ann").await.id, KeyRequest::default()).await.unwrap().secret;
    let bob = auth.log_in("bob", PASSWORD, HERE).await.unwrap();
    let bob_key = auth.make_key(&user(&auth, "bob").await.id, KeyRequest::default()).await.unwrap().secret;
    assert_eq!(bob.role, Role::Admin);
    let leave = |name: &str| {
        format!("dn: uid={name},ou=people,{BASE}\nchangetype: modify\nadd: employeeType\nemployeeType: left\n")
    };

    // Nothing changed but a group: the next refresh sees it.
    slapd.change(&format!(
        "dn: cn=heads,ou=groups,{BASE}\nchangetype: modify\ndelete: member\nmember: uid=bob,ou=people,{BASE}\n"
    ));
    age(&folder, "bob").await;
    let bob = auth.refresh(&bob.refresh_token).await.unwrap();
    assert_eq!(bob.role, Role::User);

    slapd.change(&leave("ann"));
    let ann = auth.refresh(&ann.refresh_token).await.unwrap();
    assert!(auth.bearer(&ann.access_token).await.is_ok(), "it is not time yet");
    age(&folder, "ann").await;
    assert!(matches!(auth.refresh(&ann.refresh_token).await, Err(AuthError::Invalid)));
    for credential in [&ann.access_token, &ann_key] {
        assert!(matches!(auth.bearer(credential).await, Err(AuthError::Invalid)));
    }

    // A key is enough to be looked up.
    slapd.change(&leave("bob"));
    age(&folder, "bob").await;
    let end = Instant::now() + Duration::from_mins(1);
    while auth.bearer(&bob_key).await.is_ok() {
        assert!(Instant::now() < end, "the key stays good");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(matches!(auth.bearer(&bob.access_token).await, Err(AuthError::Invalid)));

    // Back again: new tokens are good, and keys, but not the tokens of before.
    slapd.change(&format!("dn: uid=ann,ou=people,{BASE}\nchangetype: modify\ndelete: employeeType\n"));
    assert!(enters(&auth, "ann", PASSWORD).await);
    assert!(auth.bearer(&ann_key).await.is_ok() && auth.bearer(&ann.access_token).await.is_err());
    assert!(auth.refresh(&ann.refresh_token).await.is_err());

    // While it does not answer, a refresh has to wait, and the token stays good for later.
    let login = auth.log_in("ann", PASSWORD, HERE).await.unwrap();
    age(&folder, "ann").await;
    slapd.stop();
    assert!(matches!(auth.refresh(&login.refresh_token).await, Err(AuthError::Unavailable(..))));
    assert!(auth.bearer(&login.access_token).await.is_ok());
    assert!(auth.store().user_of_refresh_token("none").await.unwrap().is_none());
}

#[tokio::test]
async fn the_api_says_come_again_when_the_directory_is_down() {
    let Some(mut slapd) = Slapd::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let quoted = quoted(&slapd, &slapd.ldaps);
    let mut setup = Setup::new();
    setup.directory = config(&folder, &keys_of(&quoted, &[])).unwrap().directory;
    let server = setup.start().await;
    let body = |password: &str| json!({"username": "ann", "password": password});
    assert_eq!(post(server.address, "/token", &body(PASSWORD)).await.status, 200);
    let wrong = post(server.address, "/token", &body("wrong")).await;
    assert_eq!((wrong.status, wrong.json()["error"].as_str()), (400, Some("invalid_grant")));
    slapd.stop();
    let down = post(server.address, "/token", &body(PASSWORD)).await;
    assert_eq!((down.status, down.json()["error"].as_str()), (503, Some("temporarily_unavailable")));
    assert!(down.header("retry-after").is_some());
}

#[test]
fn mistakes_are_told_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let good = [("urls", "[\"ldaps://dc1.example.org\"]"), ("base_dn", "\"dc=example,dc=org\"")];
    for (key, value, word) in [
        ("urls", "[\"https://dc1\"]", "directory.urls"),
        ("urls", "[\"ldap://\"]", "directory.urls"),
        ("urls", "[\"ldap://a/b\"]", "directory.urls"),
        ("base_dn", "\"\"", "directory.base_dn"),
        ("preset", "\"novell\"", "active-directory"),
        ("bind_dn", "\"cn=x\"", "directory.bind_password"),
        ("bind_password", "\"x\"", "directory.bind_dn"),
        ("user_filter", "\"(uid=ann)\"", "{user}"),
        ("user_filter", "\"none\"", "{user}"),
        ("user_filter", "\"(uid={user}\"", "no LDAP filter"),
        ("disabled_filter", "\"left\"", "no LDAP filter"),
        ("group_filter", "\"(cn=x)\"", "{dn}"),
        ("department_groups", "[\"Sales\"]", "GROUP -> DEPARTMENT"),
        ("timeout_seconds", "0", "1 to 60"),
        ("ca_file", "\"/no/such/ca.pem\"", "/no/such/ca.pem"),
        ("ca_file", "\"/dev/null\"", "no PEM certificate"),
    ] {
        let mut keys: Vec<_> = good.into_iter().filter(|(known, _)| *known != key).collect();
        keys.push((key, value));
        let opened = config(&folder, &keys).and_then(|config| {
            Outside::open(config.directory.as_ref(), None, &Breakers::default()).map_err(|error| error.to_string())
        });
        let error = opened.err().unwrap_or_else(|| panic!("{key} = {value} is taken"));
        assert!(error.contains(word) && error.lines().count() == 1, "{error}");
    }
    assert!(config(&folder, &[]).unwrap().directory.is_none());
    let secret = "a service's password";
    let password = format!("{secret:?}");
    let config = config(&folder, &[good[0], good[1], ("bind_dn", "\"cn=x\""), ("bind_password", &password)]).unwrap();
    assert!(!format!("{config:?}").contains(secret));
}
