//! How a client is put together: addresses, CA, credentials, patience.

use crate::address::Address;
use crate::call::{Caller, Credentials, Patience};
use crate::client::Client;
use crate::error::Error;
use crate::roster::Roster;
use crate::secret::Secret;
use crate::tls::{self, ClientCertificate};
use crate::transport::Transport;
use std::path::PathBuf;
use std::time::Duration;

/// Builds a [`Client`]. At least one [`url`](Self::url) with a [`ca_file`](Self::ca_file), or a
/// [`unix_socket`](Self::unix_socket), is needed.
#[derive(Clone, Debug, Default)]
pub struct ClientBuilder {
    urls: Vec<String>,
    socket: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    certificate: Option<ClientCertificate>,
    user: Option<String>,
    password: Option<Password>,
    token: Option<Password>,
    patience: Patience,
    only_given: bool,
}

#[derive(Clone, Debug)]
enum Password {
    Given(Secret),
    File(PathBuf),
}

impl Password {
    fn read(self, what: &'static str) -> Result<Secret, Error> {
        match self {
            Password::Given(secret) => Ok(secret),
            Password::File(path) => Secret::read(&path).map_err(|source| Error::File {
                what,
                path,
                source: source.into(),
            }),
        }
    }
}

impl ClientBuilder {
    /// Adds a member's address: `https://host[:port]`, or `host[:port]`; the port is 20003 unless
    /// given. With several, any that answers will do.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// Talks to the local node over its socket instead; no TLS, no login, never a redirect.
    #[must_use]
    pub fn unix_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// The cluster's CA, PEM. Certificates of any other CA are refused.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// A client certificate and its key, PEM files.
    #[must_use]
    pub fn client_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.certificate =
            Some(ClientCertificate { certificate: certificate.into(), key: key.into() });
        self
    }

    /// The user to log in as, with a password.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The user's password.
    #[must_use]
    pub fn password(mut self, password: Secret) -> Self {
        self.password = Some(Password::Given(password));
        self
    }

    /// A file that holds the user's password.
    #[must_use]
    pub fn password_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.password = Some(Password::File(path.into()));
        self
    }

    /// A token of `user_login`; used instead of user and password.
    #[must_use]
    pub fn token(mut self, token: Secret) -> Self {
        self.token = Some(Password::Given(token));
        self
    }

    /// A file that holds a token.
    #[must_use]
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = Some(Password::File(path.into()));
        self
    }

    /// How long to go on while no member can be reached or there is no master. Default: 30 s,
    /// which outlasts an election many times over.
    #[must_use]
    pub fn retry_for(mut self, within: Duration) -> Self {
        self.patience.retry_for = within;
        self
    }

    /// How long one answer may take, on top of the time that the call itself asks to wait.
    /// Default: 60 s.
    #[must_use]
    pub fn answer_within(mut self, within: Duration) -> Self {
        self.patience.answer_within = within;
        self
    }

    /// Whether to ask the cluster for its other members (the default), after a call and once a
    /// minute at most, and to go on with them when those that were given are gone. They are
    /// verified by the same CA.
    #[must_use]
    pub fn learn_members(mut self, learn: bool) -> Self {
        self.only_given = !learn;
        self
    }

    /// Reads the files and makes the client. Nothing is connected yet.
    ///
    /// # Errors
    /// No address, a bad one, a password without a user, an unreadable file, TLS settings that do
    /// not fit together.
    pub fn build(self) -> Result<Client, Error> {
        let mut members = Vec::new();
        if let Some(path) = &self.socket {
            members.push(Address::Unix(path.clone()));
        } else {
            for url in &self.urls {
                members.push(Address::parse(url)?);
            }
        }
        if members.is_empty() {
            return Err(Error::NoAddress);
        }
        let tls = match (&self.socket, &self.ca_file) {
            (Some(_), _) => None,
            (None, Some(ca_file)) => Some(tls::config(ca_file, self.certificate.as_ref())?),
            (None, None) => {
                return Err(Error::Tls {
                    source: "the cluster's CA file is not given; without it nobody can tell who \
                             answers"
                        .into(),
                });
            }
        };
        let credentials = match (self.token, self.user, self.password) {
            (Some(token), _, _) => Credentials::Token(token.read("token file")?),
            (None, Some(user), Some(password)) => {
                Credentials::Password { user, password: password.read("password file")? }
            }
            (None, None, Some(_)) => return Err(Error::NoUser),
            (None, _, None) => Credentials::None,
        };
        let transport = Transport::new(tls).map_err(|source| Error::Tls { source })?;
        // Behind a local socket there is one node, and it finds the master itself.
        let learns = self.socket.is_none() && !self.only_given;
        let roster = Roster::new(members, learns);
        Ok(Client::new(Caller::new(roster, transport, credentials, self.patience)))
    }
}
