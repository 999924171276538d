//! The contract's messages out of commands.

use std::collections::HashMap;

use eldr_client::{
    ActivationCounts, Counts, Error, LeaseReference, RegisterSignatureRequest, ReleaseOutcome,
    ReleaseRequest, RenewLeasesRequest, RouteRequest, StreamSignaturesRequest, Worker,
};
use prost_types::Duration;
use serde_json::Value;

pub fn text(command: &Value, name: &str) -> String {
    command[name].as_str().unwrap_or_default().to_owned()
}

/// 0 where it is absent.
pub fn number(command: &Value, name: &str) -> u64 {
    command[name].as_u64().unwrap_or_default()
}

fn small(command: &Value, name: &str) -> u32 {
    u32::try_from(number(command, name)).expect("the contract's numbers have 32 bits")
}

fn flag(command: &Value, name: &str) -> bool {
    command[name].as_bool().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn texts(command: &Value, name: &str) -> Vec<String> {
    list(&command[name]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn map(command: &Value, name: &str) -> HashMap<String, String> {
    let pairs = command[name].as_object().into_iter().flatten();
    pairs.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().into())).collect()
}

fn duration(command: &Value, name: &str) -> Option<Duration> {
    let seconds = command[name].as_f64()?;
    let duration = std::time::Duration::from_secs_f64(seconds);
    Some(duration.try_into().expect("as long as the contract's times can be"))
}

/// `[id, url, rank]` each, or an object of such lists by model.
pub fn workers(given: &Value) -> Vec<Worker> {
    let read = |model: Option<&String>, all: &Value| -> Vec<Worker> {
        let each = |worker: &Value| Worker {
            id: worker[0].as_str().unwrap_or_default().into(),
            url: worker[1].as_str().unwrap_or_default().into(),
            dp_rank: worker[2].as_u64().unwrap_or_default() as u32,
            model: model.cloned(),
        };
        list(all).iter().map(each).collect()
    };
    match given.as_object() {
        Some(models) => models.iter().flat_map(|(model, all)| read(Some(model), all)).collect(),
        None => read(None, given),
    }
}

pub fn counts(given: &Value) -> Result<Option<ActivationCounts>, Error> {
    if given.is_null() {
        return Ok(None);
    }
    let count = |value: &Value| {
        let fits = value.as_u64().and_then(|count| u32::try_from(count).ok());
        fits.ok_or_else(|| Error::InvalidValue {
            field: "counts",
            expected: "0 to 4294967295".into(),
            found: value.to_string(),
        })
    };
    let row = |row: &Value| list(row).iter().map(count).collect();
    let counts = Counts {
        rows: list(&given["array"]).iter().map(row).collect::<Result<_, Error>>()?,
        top_k: small(given, "top_k"),
        unknown_tokens: small(given, "unknown_tokens"),
        layer_offset: small(given, "layer_offset"),
        num_layers: small(given, "num_layers"),
    };
    counts.encode().map(Some)
}

pub fn route(command: &Value) -> Result<RouteRequest, Error> {
    Ok(RouteRequest {
        model: text(command, "model"),
        request_id: text(command, "request_id"),
        attempt: small(command, "attempt"),
        counts: counts(&command["counts"])?,
        wait_for_signature: duration(command, "wait_for_signature"),
        num_sequences: small(command, "num_sequences"),
        prompt_tokens: small(command, "prompt_tokens"),
        expected_output_tokens: small(command, "expected_output_tokens"),
        prefill_worker: text(command, "prefill_worker"),
        candidate_workers: texts(command, "candidate_workers"),
        exclude_workers: texts(command, "exclude_workers"),
        worker_selector: map(command, "worker_selector"),
        pinned_worker: text(command, "pinned_worker"),
        dry_run: flag(command, "dry_run"),
        explain: flag(command, "explain"),
        lease_ttl: duration(command, "lease_ttl"),
        labels: map(command, "labels"),
        max_wait: duration(command, "max_wait"),
        priority: command["priority"].as_i64().unwrap_or_default() as i32,
        session: text(command, "session"),
        prefix_hashes: list(&command["prefix_hashes"]).iter().filter_map(Value::as_u64).collect(),
        prefix_block_tokens: small(command, "prefix_block_tokens"),
        cached_tokens: {
            let held = &command["cached_tokens"];
            let pairs = held.as_object().into_iter().flatten();
            pairs.map(|(worker, _)| (worker.clone(), small(held, worker))).collect()
        },
        movable: flag(command, "movable"),
    })
}

pub fn release(command: &Value) -> Result<ReleaseRequest, Error> {
    let outcome = format!("RELEASE_OUTCOME_{}", command["outcome"].as_str().unwrap_or("COMPLETED"));
    Ok(ReleaseRequest {
        model: text(command, "model"),
        request_id: text(command, "request_id"),
        attempt: small(command, "attempt"),
        lease_id: text(command, "lease_id"),
        outcome: ReleaseOutcome::from_str_name(&outcome).expect("an outcome").into(),
        output_tokens: small(command, "output_tokens"),
        decode_duration: duration(command, "decode_duration"),
        decode_counts: counts(&command["decode_counts"])?,
    })
}

pub fn renewal(command: &Value) -> RenewLeasesRequest {
    let lease = |each: &Value| LeaseReference {
        request_id: each[0].as_str().unwrap_or_default().into(),
        attempt: each[1].as_u64().unwrap_or_default() as u32,
        lease_id: each[2].as_str().unwrap_or_default().into(),
    };
    let leases = list(&command["leases"]).iter().map(lease).collect();
    RenewLeasesRequest { model: text(command, "model"), leases }
}

pub fn chunk(command: &Value) -> Result<RegisterSignatureRequest, Error> {
    Ok(RegisterSignatureRequest {
        model: text(command, "model"),
        request_id: text(command, "request_id"),
        epoch: small(command, "epoch"),
        sequence: small(command, "sequence"),
        last: command["last"].as_bool().unwrap_or(true),
        total_chunks: small(command, "total_chunks"),
        counts: counts(&command["counts"])?,
        prefill_worker: text(command, "prefill_worker"),
        prompt_tokens: small(command, "prompt_tokens"),
    })
}

pub fn streamed_chunk(command: &Value) -> Result<StreamSignaturesRequest, Error> {
    let chunk = chunk(command)?;
    let asked = command["route"].is_object();
    Ok(StreamSignaturesRequest {
        model: chunk.model,
        request_id: chunk.request_id,
        epoch: chunk.epoch,
        sequence: chunk.sequence,
        last: chunk.last,
        total_chunks: chunk.total_chunks,
        counts: chunk.counts,
        prefill_worker: chunk.prefill_worker,
        prompt_tokens: chunk.prompt_tokens,
        route: asked.then(|| route(&command["route"])).transpose()?,
        trace_context: None,
    })
}
