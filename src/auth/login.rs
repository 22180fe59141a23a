//! From name and password to tokens, from one refresh token to the next.

use std::net::IpAddr;
use std::time::Instant;

use rand::distr::{Alphanumeric, SampleString as _};

use super::{AuthError, Authenticator};
use crate::store::{Moment, RefreshToken, Role, Rotation, Source, User, now};

/// What somebody who has logged in gets.
pub struct Login {
    /// A JWT.
    pub access_token: String,
    /// Seconds that it is good for.
    pub expires_in: u64,
    /// Good for one refresh.
    pub refresh_token: String,
    /// What they may do.
    pub role: Role,
    /// Whose they are.
    pub user_id: String,
    /// Under what name.
    pub name: String,
}

const REFRESH_CHARACTERS: usize = 43;

impl Authenticator {
    /// Logs a user in.
    ///
    /// # Errors
    /// [`AuthError::WrongPassword`] for an unknown or disabled user and for a wrong password, after the same time;
    /// [`AuthError::TooMany`] after too many of them from this address; [`AuthError::Unavailable`] where the directory
    /// would have to say, and does not answer.
    pub async fn log_in(&self, name: &str, password: &str, address: IpAddr) -> Result<Login, AuthError> {
        if let Some(wait) = self.inner.attempts.wait(name, address, Instant::now()) {
            return Err(AuthError::TooMany(wait));
        }
        self.inner.attempts.begun(name, address, Instant::now());
        let known = self.inner.store.user_named(name).await?;
        let local = known.as_ref().filter(|user| user.source == Source::Local && !user.disabled);
        let hash = local.and_then(|user| user.password_hash.clone());
        // Both take their time whoever it is, but the directory is never told the password of a user of another source.
        let own = self.inner.passwords.verify(password.to_owned(), hash);
        let (right, theirs) = tokio::join!(own, self.ask_directory(known.as_ref(), name, password));
        let user = if right? { known } else { theirs? };
        let user = user.filter(|user| !user.disabled).ok_or(AuthError::WrongPassword)?;
        self.inner.attempts.succeeded(name, address, Instant::now());
        let (refresh_token, expires_at) = self.new_refresh_token();
        let hash = self.inner.keys.hash(&refresh_token);
        let family = Alphanumeric.sample_string(&mut rand::rng(), REFRESH_CHARACTERS);
        let token = RefreshToken { hash: &hash, family: &family, user_id: &user.id, expires_at };
        self.inner.store.add_refresh_token(token).await?;
        self.login(&user, refresh_token)
    }

    /// Takes a refresh token, which is used up, and gives new tokens.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] for one that is not good; one that was good before ends all that descend from its login;
    /// [`AuthError::Unavailable`], and the token stays good, where the directory must be asked and does not answer.
    pub async fn refresh(&self, refresh_token: &str) -> Result<Login, AuthError> {
        let (new, expires_at) = self.new_refresh_token();
        let new_hash = self.inner.keys.hash(&new);
        for hash in self.inner.keys.hashes(refresh_token) {
            self.recheck_owner(&hash).await?;
            match self.inner.store.rotate_refresh_token(&hash, &new_hash, expires_at).await? {
                Rotation::Done { user_id } => return self.login(&self.active_user(&user_id).await?, new),
                Rotation::Reused => {
                    tracing::warn!("a refresh token was used twice: all tokens of its login are void");
                    return Err(AuthError::Invalid);
                }
                Rotation::Unknown => {}
            }
        }
        Err(AuthError::Invalid)
    }

    /// Takes an access or refresh token back. One that is not good is none to take back (RFC 7009).
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revoke(&self, token: &str) -> Result<(), AuthError> {
        if let Some(issuer) = self.inner.outside.issuer.as_ref().filter(|issuer| issuer.is_named_by(token)) {
            return match issuer.verify(token).await {
                Ok(token) => Ok(self.inner.store.revoke_token(&token.id, token.expires_at).await?),
                Err(AuthError::Invalid) => Ok(()),
                Err(error) => Err(error),
            };
        }
        if let Ok(claims) = self.inner.tokens.verify(token) {
            return Ok(self.inner.store.revoke_token(&claims.jti, claims.exp * 1000).await?);
        }
        for hash in self.inner.keys.hashes(token) {
            self.inner.store.end_refresh_family(&hash).await?;
        }
        Ok(())
    }

    fn new_refresh_token(&self) -> (String, Moment) {
        let lifetime = self.inner.tokens.refresh_lifetime.as_millis() as Moment;
        (Alphanumeric.sample_string(&mut rand::rng(), REFRESH_CHARACTERS), now() + lifetime)
    }

    fn login(&self, user: &User, refresh_token: String) -> Result<Login, AuthError> {
        let jti = Alphanumeric.sample_string(&mut rand::rng(), 22);
        Ok(Login {
            access_token: self.inner.tokens.issue(&user.id, jti)?,
            expires_in: self.inner.tokens.lifetime.as_secs(),
            refresh_token,
            role: user.role,
            user_id: user.id.clone(),
            name: user.name.clone(),
        })
    }
}
