//! The small `GET` endpoints: who is master, is the node well, its metrics (wire.md section 2).
//!
//! They need no login, but for `/metrics`, and no master, so that load balancers and people can ask
//! any node. Called by `http`.

use super::answer::{self, Answer};
use super::seam::{Caller, Service};
use http::StatusCode;
use serde_json::Value;

/// `/master`: the master's host, or by `?info_type=name` its name.
pub fn master(service: &dyn Service, query: Option<&str>) -> Answer {
    let Some(master) = service.master() else {
        return answer::no_master();
    };
    let wanted = query.unwrap_or("").split('&').find_map(|pair| pair.strip_prefix("info_type="));
    match wanted {
        None | Some("" | "ip" | "address") => answer::word(StatusCode::OK, &master.host),
        Some("name") => answer::word(StatusCode::OK, &master.name),
        Some(_) => answer::text(StatusCode::BAD_REQUEST, "info_type is name, or left out"),
    }
}

/// `/is_master`: `true` only if a quorum says so.
pub async fn is_master(service: &dyn Service) -> Answer {
    if service.confirm_master().await {
        answer::word(StatusCode::OK, "true")
    } else {
        answer::word(StatusCode::SERVICE_UNAVAILABLE, "false")
    }
}

/// `/health/live` and `/health/ready`.
pub fn health((well, about): (bool, Value)) -> Answer {
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer::json(status, &about)
}

/// `/metrics` for a caller, or for the plain loopback listener, where there is none.
pub fn metrics(service: &dyn Service, caller: Option<&Caller>) -> Answer {
    match caller {
        Some(caller) if !service.may_read_metrics(caller) => {
            answer::forbidden("metrics are for the groups monitor, exaadm and root")
        }
        _ => answer::metrics(service.metrics_text()),
    }
}
