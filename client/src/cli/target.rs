//! Which cluster, and who asks: flags, then `TIEBEAM_*`, then the client file, then the socket.
//!
//! Owns the order (wire.md section 10, last paragraph) and the client file's form. Resolving is
//! pure; what it looks at is handed in as [`Surroundings`].

use super::failure::Failure;
use super::options::Options;
use crate::ClientBuilder;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where a node keeps its socket unless `TIEBEAM_SOCKET` says otherwise.
pub const SOCKET: &str = "/var/lib/tiebeam/tiebeam.sock";

/// `~/.config/tiebeam/client.yaml`, as `tiebeam login` writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientFile {
    /// Members' addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub url: Vec<String>,
    /// The cluster's CA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A file with the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// A file with a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// A client certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// What resolving looks at.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The `TIEBEAM_*` variables by the part after the underscore, e.g. `URL`.
    pub variables: std::collections::BTreeMap<String, String>,
    /// The client file.
    pub file: ClientFile,
    /// The local node's socket, if there is one.
    pub socket: Option<PathBuf>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Members' addresses; empty with a socket.
    pub urls: Vec<String>,
    /// A local node's socket.
    pub socket: Option<PathBuf>,
    /// The CA.
    pub ca: Option<PathBuf>,
    /// The user.
    pub user: Option<String>,
    /// A file with the password.
    pub password_file: Option<PathBuf>,
    /// A file with a token.
    pub token_file: Option<PathBuf>,
    /// Client certificate and key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl Surroundings {
    /// The process's own.
    ///
    /// # Errors
    /// The client file cannot be read.
    pub fn real() -> Result<Surroundings, Failure> {
        let variables = std::env::vars()
            .filter_map(|(key, value)| Some((key.strip_prefix("TIEBEAM_")?.to_owned(), value)))
            .filter(|(_, value)| !value.is_empty())
            .collect::<std::collections::BTreeMap<_, _>>();
        let socket = variables.get("SOCKET").map_or(PathBuf::from(SOCKET), PathBuf::from);
        let socket = socket.exists().then_some(socket);
        Ok(Surroundings { variables, file: read_file(&client_file())?, socket })
    }
}

/// Where the client file is: `$XDG_CONFIG_HOME` or `~/.config`, `tiebeam/client.yaml`.
pub fn client_file() -> PathBuf {
    let folder = std::env::var_os("XDG_CONFIG_HOME").filter(|text| !text.is_empty());
    let folder = folder.map(PathBuf::from).unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".config")
    });
    folder.join("tiebeam/client.yaml")
}

fn read_file(path: &Path) -> Result<ClientFile, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Ok(ClientFile::default()),
        Ok(text) => serde_saphyr::from_str(&text).map_err(|error| {
            Failure::usage(format!("{} is not as it should be: {error}", path.display()))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(ClientFile::default()),
        Err(source) => Err(Failure::File { what: "read", path: path.into(), source }),
    }
}

/// Finds the target. Each value is taken from the first place that has it; a password and a token
/// stand for each other, so a password given by flag is not overruled by a token of the file.
///
/// # Errors
/// No place names an address.
pub fn resolve(options: &Options, around: &Surroundings) -> Result<Target, Failure> {
    let variable = |key: &str| around.variables.get(key).cloned();
    let path = |key: &str| variable(key).map(PathBuf::from);
    let file = &around.file;
    let mut target = Target {
        ca: options.ca.clone().or(path("CA")).or(file.ca.clone()),
        user: options.user.clone().or(variable("USER")).or(file.user.clone()),
        ..Target::default()
    };
    let logins = [
        (options.token_file.clone(), options.password_file.clone()),
        (path("TOKEN_FILE"), path("PASSWORD_FILE")),
        (file.token_file.clone(), file.password_file.clone()),
    ];
    if let Some((token, password)) =
        logins.into_iter().find(|(token, password)| token.is_some() || password.is_some())
    {
        target.token_file = token;
        target.password_file = password;
    }
    let certificates = [(&options.cert, &options.key), (&file.cert, &file.key)];
    target.certificate =
        certificates.into_iter().find_map(|(cert, key)| Some((cert.clone()?, key.clone()?)));
    let from_variable: Vec<String> = variable("URL")
        .map(|text| text.split([',', ' ']).filter(|s| !s.is_empty()).map(str::to_owned).collect())
        .unwrap_or_default();
    if let Some(socket) = &options.socket {
        target.socket = Some(socket.clone());
    } else if let Some(urls) =
        [&options.url, &from_variable, &file.url].into_iter().find(|urls| !urls.is_empty())
    {
        target.urls.clone_from(urls);
    } else if let Some(socket) = &around.socket {
        target.socket = Some(socket.clone());
    } else {
        return Err(Failure::Call(Error::NoAddress));
    }
    Ok(target)
}

impl Target {
    /// A builder for this target.
    pub fn builder(self, options: &Options) -> ClientBuilder {
        let mut builder = ClientBuilder::default().retry_for(options.patience());
        // A program that ends with its call has no use for members that it learns after it.
        builder = builder.learn_members(false);
        for url in self.urls {
            builder = builder.url(url);
        }
        if let Some(path) = self.socket {
            return builder.unix_socket(path);
        }
        if let Some(path) = self.ca {
            builder = builder.ca_file(path);
        }
        if let Some(user) = self.user {
            builder = builder.user(user);
        }
        if let Some(path) = self.token_file {
            builder = builder.token_file(path);
        }
        if let Some(path) = self.password_file {
            builder = builder.password_file(path);
        }
        if let Some((certificate, key)) = self.certificate {
            builder = builder.client_certificate(certificate, key);
        }
        builder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around() -> Surroundings {
        Surroundings {
            variables: [("URL", "n1,n2"), ("CA", "/env/ca"), ("PASSWORD_FILE", "/env/pw")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            file: ClientFile {
                url: vec!["n3".into()],
                user: Some("filed".into()),
                token_file: Some("/file/token".into()),
                ..ClientFile::default()
            },
            socket: Some(SOCKET.into()),
        }
    }

    #[test]
    fn flags_beat_variables_beat_the_file_beats_the_socket() {
        let options = Options { url: vec!["n0".into()], ..Options::default() };
        assert_eq!(resolve(&options, &around()).unwrap().urls, ["n0"]);
        let found = resolve(&Options::default(), &around()).unwrap();
        assert_eq!(found.urls, ["n1", "n2"]);
        assert_eq!(found.user.as_deref(), Some("filed"));
        assert_eq!((found.password_file, found.token_file), (Some("/env/pw".into()), None));
        let mut bare = Surroundings { socket: Some(SOCKET.into()), ..Surroundings::default() };
        assert_eq!(resolve(&Options::default(), &bare).unwrap().socket, Some(SOCKET.into()));
        bare.socket = None;
        assert!(matches!(
            resolve(&Options::default(), &bare),
            Err(Failure::Call(Error::NoAddress))
        ));
    }
}
