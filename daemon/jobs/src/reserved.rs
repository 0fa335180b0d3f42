//! Names of jobs that a later version brings: refused by name, never taken for a mistyped one.
//!
//! Nobody may give them to a job of another meaning meanwhile. They are in no listing and have no
//! help; whoever looks up a job asks here before saying that there is none.

use tiebeam_proto::RpcError;

/// Whole names, in order.
const NAMES: [&str; 36] = [
    "config_confirm",
    "db_create",
    "db_delete",
    "db_info",
    "db_start",
    "db_state",
    "db_stop",
    "file_delete",
    "file_get",
    "file_list",
    "file_put",
    "firmware_full_update",
    "firmware_rolling_update",
    "firmware_update",
    "hw_discover",
    "hw_register",
    "node_history",
    "node_ping",
    "node_power",
    "node_power_status",
    "node_reboot",
    "node_report",
    "node_sinfo",
    "node_status",
    "node_suggest",
    "plugin_add",
    "plugin_list",
    "plugin_remove",
    "schedule_add",
    "schedule_list",
    "schedule_pause",
    "schedule_remove",
    "token_issue",
    "token_list",
    "token_revoke",
    "what_happened",
];

/// What the names of whole families begin with.
const FAMILIES: [&str; 7] = [
    "db_backup_",
    "firmware_action_",
    "firmware_image_",
    "firmware_snapshot_",
    "host_maintenance_",
    "remote_volume_",
    "st_volume_",
];

/// Whether a later version brings a job of this name.
pub fn is_reserved(name: &str) -> bool {
    NAMES.binary_search(&name).is_ok() || FAMILIES.iter().any(|family| name.starts_with(family))
}

/// The refusal of a call of a reserved job (ruling 24).
pub fn refusal(name: &str) -> RpcError {
    let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    RpcError {
        message: format!("the job {shown} is not built yet"),
        ..RpcError::not_in_this_version("name")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiebeam_proto::ErrorCode;

    #[test]
    fn a_reserved_name_is_no_job_and_is_refused_by_name() {
        assert!(NAMES.windows(2).all(|pair| pair[0] < pair[1]));
        for name in NAMES {
            assert!(is_reserved(name) && crate::find(name).is_none(), "{name}");
            let error = refusal(name);
            assert!(error.message.contains(name), "{}", error.message);
            assert_eq!(error.code, ErrorCode::InvalidParameter);
            assert_eq!(error.hint.as_deref(), Some("not in this version"));
        }
        for job in crate::JOBS {
            assert!(!is_reserved(job.declaration.name), "{}", job.declaration.name);
        }
        assert!(is_reserved("st_volume_create") && !is_reserved("no_such_job"));
    }
}
