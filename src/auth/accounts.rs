//! What administrators do with users and their keys, at the command line and through the API alike.

use super::{AuthError, Authenticator, KeyRequest, MadeKey, passwords};
use crate::store::{NewUser, Role, Store, StoreError, User};

const LONGEST_NAME: usize = 128;

/// A user that an administrator wants.
#[derive(Debug, Clone)]
pub struct Account {
    /// What they log in with.
    pub name: String,
    /// Absent: a random one is made.
    pub password: Option<String>,
    /// What they may do.
    pub role: Role,
    /// By name; made when there is none.
    pub department: Option<String>,
}

/// What an administrator changes of a user; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct AccountChange {
    /// A new password.
    pub password: Option<String>,
    /// A new role.
    pub role: Option<Role>,
    /// By name; made when there is none.
    pub department: Option<String>,
    /// Shut out, or let in again.
    pub disabled: Option<bool>,
}

/// The name of the user that the first start makes.
const FIRST_USER: &str = "admin";
const FIRST_KEY: &str = "first start";

/// What the first start makes.
pub struct FirstUser {
    /// What they log in with.
    pub name: &'static str,
    /// Shown once.
    pub password: String,
    /// A key to try the API with.
    pub key: String,
}

impl Authenticator {
    /// Adds a user; with them comes the password that was made, if one was.
    ///
    /// # Errors
    /// When the name is taken or no name, the password is weak, or the database fails.
    pub async fn add_user(&self, account: Account) -> Result<(User, Option<String>), AuthError> {
        let Account { name, password, role, department } = account;
        if !is_name(&name) {
            return Err(AuthError::BadName);
        }
        let made = password.is_none().then(passwords::random);
        let hash = hash(password.or_else(|| made.clone()).unwrap_or_default()).await?;
        let department_id = department_id(self.store(), department).await?;
        let new = NewUser { name: &name, password_hash: Some(&hash), role, department_id: department_id.as_deref() };
        Ok((self.store().add_user(new).await?, made))
    }

    /// Changes a user. Tokens issued before are void when the password changes or the user is shut out.
    ///
    /// # Errors
    /// When there is no such user, the password is weak, or the database fails.
    pub async fn change_user(&self, id: &str, change: AccountChange) -> Result<User, AuthError> {
        let store = self.store();
        if let Some(password) = change.password {
            store.set_password(id, &hash(password).await?).await?;
        }
        if let Some(role) = change.role {
            store.set_role(id, role).await?;
        }
        if let Some(department) = department_id(store, change.department).await? {
            store.set_department(id, &department).await?;
        }
        if let Some(disabled) = change.disabled {
            store.set_disabled(id, disabled).await?;
        }
        self.find_user(id).await
    }

    /// A password nobody guesses.
    pub fn random_password() -> String {
        passwords::random()
    }

    /// The user of this id or name.
    ///
    /// # Errors
    /// When there is none, or the database fails.
    pub async fn find_user(&self, id_or_name: &str) -> Result<User, AuthError> {
        let by_id = self.store().user(id_or_name).await?;
        let found = if by_id.is_some() { by_id } else { self.store().user_named(id_or_name).await? };
        Ok(found.ok_or_else(|| StoreError::NotFound(format!("user {id_or_name}")))?)
    }

    /// Makes the first user and a key for them, in a database without an administrator.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn first_user(&self) -> Result<Option<FirstUser>, AuthError> {
        if self.store().users().await?.iter().any(|user| user.role == Role::Admin) {
            return Ok(None);
        }
        let account = Account { name: FIRST_USER.into(), password: None, role: Role::Admin, department: None };
        let (user, password) = match self.add_user(account).await {
            Ok(added) => added,
            // A replica that starts at the same time was faster.
            Err(AuthError::Store(StoreError::Exists(_))) => return Ok(None),
            Err(error) => return Err(error),
        };
        let request = KeyRequest { name: FIRST_KEY.into(), ..KeyRequest::default() };
        let MadeKey { secret, .. } = self.make_key(&user.id, request).await?;
        Ok(Some(FirstUser { name: FIRST_USER, password: password.unwrap_or_default(), key: secret }))
    }
}

/// Whether somebody can be called like this.
pub(super) fn is_name(name: &str) -> bool {
    let sound = !name.is_empty() && name.len() <= LONGEST_NAME && !name.contains(char::is_control);
    sound && name.trim() == name
}

async fn hash(password: String) -> Result<String, AuthError> {
    let hashed = tokio::task::spawn_blocking(move || passwords::hash(&password)).await;
    hashed.map_err(|error| AuthError::System(format!("a password was not hashed: {error}")))?
}

/// The department of this name, made when there is none.
pub(super) async fn department_id(store: &Store, name: Option<String>) -> Result<Option<String>, AuthError> {
    let Some(name) = name else { return Ok(None) };
    if let Some(known) = store.department_named(&name).await? {
        return Ok(Some(known.id));
    }
    Ok(Some(store.add_department(&name).await?.id))
}
