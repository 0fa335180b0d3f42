//! What an old revision may bring back (ruling 29), for `config_rollback`.
//!
//! Pure functions from the value then and the value now to the value that is to be. Nothing here
//! writes; every part that stays as it is goes into `left_out`, for the job's warnings. A value
//! `then` has commitments in the place of secrets, a value `now` the sealed secrets themselves.

use crate::app_section::commitment;
use serde_json::{Map, Value, json};
use tiebeam_core::Path;
use tiebeam_core::tree::sealed_digest;

/// What belongs together in the section `ssl`.
pub(crate) const CERTIFICATE: [&str; 3] = ["certificate", "authority", "key"];

/// What is to stand at `at`; `None` for nothing.
pub(crate) fn value(
    at: &Path,
    then: Option<&Value>,
    now: Option<&Value>,
    left_out: &mut Vec<String>,
) -> Option<Value> {
    let then = then?;
    let sealed = now.filter(|now| sealed_digest(now).is_some());
    match (commitment(then), sealed) {
        (Some(digest), Some(sealed)) => {
            if sealed_digest(sealed) != Some(digest) {
                left_out.push(format!("{at}: the secret stays the one of now"));
            }
            return Some(sealed.clone());
        }
        (Some(_), None) if now == Some(then) => return now.cloned(),
        (Some(_), None) => {
            left_out.push(format!("{at}: a secret is not brought back; set it again"));
            return None;
        }
        (None, Some(sealed)) => {
            left_out.push(format!("{at}: is a secret now and stays the one of now"));
            return Some(sealed.clone());
        }
        (None, None) => {}
    }
    let Some(object) = then.as_object() else { return Some(then.clone()) };
    let children = object.iter().filter_map(|(name, then)| {
        let now = now.and_then(|now| now.get(name));
        value(&at.child(name), Some(then), now, left_out).map(|value| (name.clone(), value))
    });
    Some(Value::Object(children.collect()))
}

/// What is to stand at `ssl`: a certificate comes back only with the key that it belongs to.
pub(crate) fn ssl(
    at: &Path,
    then: Option<&Value>,
    now: Option<&Value>,
    left_out: &mut Vec<String>,
) -> Option<Value> {
    let key_then = then.and_then(|then| commitment(then.get("key")?));
    let key_now = now.and_then(|now| sealed_digest(now.get("key")?));
    if key_then.is_none() || key_then == key_now {
        return value(at, then, now, left_out);
    }
    left_out.push(format!("{at}: the certificate of then, whose key is not brought back"));
    let mut then = then.and_then(Value::as_object).cloned().unwrap_or_default();
    CERTIFICATE.iter().for_each(|name| drop(then.remove(*name)));
    let mut restored = match value(at, Some(&Value::Object(then)), now, left_out) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    };
    for name in CERTIFICATE {
        if let Some(kept) = now.and_then(|now| now.get(name)) {
            restored.insert(name.to_owned(), kept.clone());
        }
    }
    Some(Value::Object(restored))
}

/// What a user's entry is to be. It never lets anybody in who is out now: a user who comes back
/// cannot log in, and keys and a login that were taken away stay away.
pub(crate) fn user(
    at: &Path,
    then: &Value,
    now: Option<&Value>,
    left_out: &mut Vec<String>,
) -> Option<Value> {
    let Some(now) = now else {
        left_out.push(format!("{at}: comes back without password, keys and login"));
        let mut entry = then.as_object().cloned().unwrap_or_default();
        entry.remove("credential");
        entry.insert("login_enabled".to_owned(), json!(false));
        entry.insert("authorized_keys".to_owned(), json!([]));
        return Some(Value::Object(entry));
    };
    if then["id"] != now["id"] {
        left_out.push(format!("{at}: is another user now, with another id, and stays as it is"));
        return Some(now.clone());
    }
    let mut entry = then.as_object().cloned().unwrap_or_default();
    match now.get("credential") {
        Some(kept) => entry.insert("credential".to_owned(), kept.clone()),
        None => entry.remove("credential"),
    };
    if then["login_enabled"] == true && now["login_enabled"] != true {
        left_out.push(format!("{at}/login_enabled: stays false"));
        entry.insert("login_enabled".to_owned(), json!(false));
    }
    let keys = |entry: &Value| entry["authorized_keys"].as_array().cloned().unwrap_or_default();
    let (old, current) = (keys(then), keys(now));
    let kept: Vec<Value> = old.iter().filter(|key| current.contains(key)).cloned().collect();
    if kept.len() < old.len() {
        left_out.push(format!("{at}/authorized_keys: keys that were taken out stay out"));
    }
    entry.insert("authorized_keys".to_owned(), json!(kept));
    Some(Value::Object(entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiebeam_core::path::path;
    use tiebeam_core::tree::sealed;

    #[test]
    fn no_secret_comes_back_and_none_is_lost() {
        let at = path(&["app", "db"]);
        let shown = |digest: &str| json!({"secret": format!("sha256:{digest}")});
        let held = |digest: &str| sealed("sealed text", &format!("sha256:{digest}"));
        let then = json!({"same": shown("a"), "other": shown("b"), "gone": shown("c"),
            "clear": 5, "host": "h"});
        let now =
            json!({"same": held("a"), "other": held("x"), "clear": held("y"), "new": held("z")});
        let mut left_out = Vec::new();
        let restored = value(&at, Some(&then), Some(&now), &mut left_out).unwrap();
        let expected =
            json!({"same": held("a"), "other": held("x"), "clear": held("y"), "host": "h"});
        assert_eq!(restored, expected);
        let named: Vec<&str> = left_out.iter().filter_map(|l| l.split(':').next()).collect();
        assert_eq!(named, ["app/db/clear", "app/db/gone", "app/db/other"]);
    }

    #[test]
    fn a_certificate_comes_back_only_with_its_key() {
        let at = path(&["ssl"]);
        let shown = |digest: &str| json!({"secret": digest});
        let now =
            json!({"certificate": "NEW", "key": sealed("t", "sha256:n"), "cert_verify": "none"});
        let then = json!({"certificate": "OLD", "authority": "A", "key": shown("sha256:o"),
            "cert_verify": "optional"});
        let mut left_out = Vec::new();
        let restored = ssl(&at, Some(&then), Some(&now), &mut left_out).unwrap();
        assert_eq!(restored["certificate"], "NEW");
        assert_eq!(restored["cert_verify"], "optional");
        assert_eq!((restored.get("authority"), left_out.len()), (None, 1));
        let same_key = json!({"certificate": "OLD", "key": shown("sha256:n")});
        let restored = ssl(&at, Some(&same_key), Some(&now), &mut left_out).unwrap();
        assert_eq!(restored, json!({"certificate": "OLD", "key": sealed("t", "sha256:n")}));
    }
}
