//! What the program says.

use eldr_client::{ActivationCounts, Error, Placement, is_fallback};
use prost::Message;
use serde_json::{Value, json};

pub fn bare(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_owned()
}

pub fn hexadecimal(counts: &ActivationCounts) -> String {
    counts.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn placement(found: &Placement) -> Value {
    let alternates = found.alternates.iter();
    let alternates = alternates.map(|each| json!([each.worker_id, each.url, each.dp_rank]));
    json!({
        "worker_id": found.worker_id,
        "url": found.url,
        "dp_rank": found.dp_rank,
        "alternates": alternates.collect::<Vec<_>>(),
        "reason": bare(found.reason().as_str_name(), "PLACEMENT_REASON_"),
        "is_fallback": is_fallback(found),
        "repeated": found.repeated,
        "stale": found.stale,
        "policy": found.policy,
        "partition_version": found.partition_version,
        "lease_id": found.lease_id,
        "similarity": found.similarity,
        "coverage": found.coverage,
        "early": found.early,
    })
}

pub fn failure(error: &Error) -> Value {
    match error {
        Error::Refused(refusal) => {
            let mut said = json!({
                "kind": snake(&format!("{:?}", refusal.code)),
                "message": refusal.message,
                "reason": refusal.reason,
                "field": refusal.field,
                "expected": refusal.expected,
                "found": refusal.found,
            });
            if let Some(delay) = refusal.retry_after {
                said["retry_after"] = delay.as_secs_f64().into();
            }
            said
        }
        Error::RouterUnavailable(why) => json!({"kind": "ROUTER_UNAVAILABLE", "message": why}),
        Error::RouterFault(fault) => json!({"kind": "ROUTER_FAULT", "message": fault.message}),
        error => json!({"kind": "INVALID_VALUE", "message": error.to_string()}),
    }
}

/// `NotFound` as `NOT_FOUND`.
fn snake(name: &str) -> String {
    let mut said = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !said.is_empty() {
            said.push('_');
        }
        said.push(letter.to_ascii_uppercase());
    }
    said
}
