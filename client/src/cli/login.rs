//! `tiebeam login` and `logout`: a token instead of a password in every call.

use super::exit::Exit;
use super::failure::Failure;
use super::prompt;
use super::screen::Screen;
use super::session::Session;
use super::table::Run;
use super::target::{self, ClientFile, Surroundings, Target};
use crate::{Secret, blocking};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Log in and keep a token, so that further calls need no flags
///
/// Asks for the password (or reads --password-file), and writes the addresses, the CA and the
/// user to ~/.config/tiebeam/client.yaml and the token to a file beside it, readable by you only.
///
///   tiebeam login admin --url n11 --url n12 --ca ca.pem
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "login", verbatim_doc_comment)]
pub struct Login {
    /// The user; else --user, TIEBEAM_USER, the client file
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Seconds until the token ends; the daemon's default is 8 hours, its most 24
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
}

/// End the token of the last login
///
/// The token is refused from then on, on every node; its file is removed.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "logout", verbatim_doc_comment)]
pub struct Logout {}

impl Run for Login {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let mut target = target::resolve(&session.options, &Surroundings::real()?)?;
        let user = self
            .name
            .or(target.user.clone())
            .ok_or_else(|| Failure::usage_hint("no user is named", "`tiebeam login NAME`"))?;
        if target.urls.is_empty() {
            return Err(Failure::usage_hint(
                "a login needs an address; the local socket needs no login",
                "--url https://HOST:20003 --ca FILE",
            ));
        }
        let password = match target.password_file.take() {
            Some(path) => Secret::read(&path).map_err(|source| Failure::File {
                what: "read",
                path,
                source,
            })?,
            None => prompt::password(&format!("Password of {user}: "))?,
        };
        // An old token must not be sent, and its file may be gone.
        target.token_file = None;
        target.user = None;
        let client = target.clone().builder(&session.options).build()?;
        let client = blocking::Client::new(client)
            .map_err(|source| Failure::Terminal { what: "start a runtime", source })?;
        let login = client.login(&user, &password, self.ttl.map(Duration::from_secs))?;
        let file = keep(&target, &user, &login.token)?;
        let reply = json!({"user": user, "expires": login.expires, "file": file});
        session.print(&render(&reply, &session.screen))?;
        Ok(Exit::Ok)
    }
}

impl Run for Logout {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let target = target::resolve(&session.options, &Surroundings::real()?)?;
        let path = target
            .token_file
            .ok_or_else(|| Failure::usage("there is no token: nobody is logged in"))?;
        let token = Secret::read(&path).map_err(|source| Failure::File {
            what: "read",
            path: path.clone(),
            source,
        })?;
        session.client()?.logout(&token)?;
        std::fs::remove_file(&path).map_err(|source| Failure::File {
            what: "remove",
            path,
            source,
        })?;
        session.print_value(&json!("logged out"))?;
        Ok(Exit::Ok)
    }
}

/// Writes the client file and the token beside it.
fn keep(target: &Target, user: &str, token: &Secret) -> Result<PathBuf, Failure> {
    let file = target::client_file();
    let folder = file.parent().unwrap_or(Path::new(".")).to_owned();
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Failure::File { what: "write", path, source }
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(failed(&folder))?;
    let token_file = folder.join("token");
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let content = ClientFile {
        url: target.urls.clone(),
        ca: target.ca.as_ref().map(absolute),
        user: Some(user.to_owned()),
        token_file: Some(token_file.clone()),
        ..ClientFile::default()
    };
    let text = serde_yaml::to_string(&content).map_err(|e| Failure::usage(e.to_string()))?;
    write_private(&token_file, token.expose()).map_err(failed(&token_file))?;
    write_private(&file, &text).map_err(failed(&file))?;
    Ok(file)
}

/// Replaces a file by one that only its owner can read; never half of it.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let next = PathBuf::from(name);
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&next)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&next, path)
}

/// `{user, expires, file}` as a sentence.
pub fn render(reply: &Value, screen: &Screen) -> String {
    if screen.json {
        return screen.value(reply);
    }
    let text = |key: &str| screen.line(reply[key].as_str().unwrap_or_default()).into_owned();
    let until = screen.time(&text("expires"));
    format!("logged in as {} until {until}, kept in {}\n", text("user"), text("file"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_kept_is_readable_by_its_owner_only() {
        let path = std::env::temp_dir().join(format!("tiebeam-token-{}", std::process::id()));
        write_private(&path, "one").unwrap();
        write_private(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_file(&path).unwrap();
    }
}
