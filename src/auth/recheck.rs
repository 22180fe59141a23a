//! Users of the directory, asked for when they log in and again from time to time: who has left the company is out here,
//! too, with all tokens and keys.

use super::{AuthError, Authenticator};
use crate::store::{Moment, Source, User, now};

impl Authenticator {
    /// Whether the directory answers, in one sentence for whoever starts the server.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] when there is one and it does not answer.
    pub async fn probe_directory(&self) -> Result<(), AuthError> {
        match &self.inner.outside.directory {
            Some(directory) => directory.probe().await,
            None => Ok(()),
        }
    }

    /// Whoever the directory knows by this name and password. `known` is the user of this name, who is the directory's
    /// business only if they came from there.
    pub(super) async fn ask_directory(
        &self,
        known: Option<&User>,
        name: &str,
        password: &str,
    ) -> Result<Option<User>, AuthError> {
        let Some(directory) = &self.inner.outside.directory else { return Ok(None) };
        if known.is_some_and(|user| user.source != Source::Directory) || !super::accounts::is_name(name) {
            return Ok(None);
        }
        let Some(person) = directory.log_in(name, password).await? else { return Ok(None) };
        self.adopt(Source::Directory, &person, &directory.rules).await
    }

    /// Looks up whose refresh token this is, if it is time.
    pub(super) async fn recheck_owner(&self, refresh_hash: &str) -> Result<(), AuthError> {
        if self.inner.outside.directory.is_none() {
            return Ok(());
        }
        let Some(id) = self.store().user_of_refresh_token(refresh_hash).await? else { return Ok(()) };
        match self.store().user(&id).await? {
            Some(user) if self.is_due(&user) => self.recheck(&user).await,
            _ => Ok(()),
        }
    }

    /// Looks a user up behind the back of the request that they make, if it is time.
    pub(super) fn recheck_soon(&self, user: &User) {
        if self.is_due(user) && self.inner.rechecked.entry_by_ref(&user.id).or_insert(()).is_fresh() {
            let (auth, user) = (self.clone(), user.clone());
            tokio::spawn(async move {
                if let Err(error) = auth.recheck(&user).await {
                    tracing::warn!(user = user.name, "was not looked up again: {error}");
                }
            });
        }
    }

    fn is_due(&self, user: &User) -> bool {
        let directory = self.inner.outside.directory.as_ref().filter(|_| user.source == Source::Directory);
        let pause = directory.and_then(|directory| directory.recheck);
        pause.is_some_and(|pause| now() - user.vouched_at >= pause.as_millis() as Moment)
    }

    async fn recheck(&self, user: &User) -> Result<(), AuthError> {
        let Some(directory) = &self.inner.outside.directory else { return Ok(()) };
        let adopted = match directory.find(&user.name).await? {
            Some(person) => self.adopt(Source::Directory, &person, &directory.rules).await?,
            None => None,
        };
        // Somebody else of a similar name is somebody else.
        if adopted.is_none_or(|adopted| adopted.id != user.id) {
            tracing::info!(user = user.name, "is disabled in the directory or gone, and out here, too");
            self.store().disown(&user.id).await?;
        }
        Ok(())
    }
}
