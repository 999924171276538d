//! The Rust client's program for eldr-conformance.

mod answers;
mod requests;

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

use eldr_client::{Client, Error, Options, ReleaseOutcome};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (lines, mut commands) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let line = line.expect("commands are UTF-8");
            lines.send(serde_json::from_str(&line).expect("a line is a JSON object")).ok();
        }
    });
    let mut client: Option<Client> = None;
    let mut cancels: HashMap<u64, Arc<Notify>> = HashMap::new();
    let mut calls = JoinSet::new();
    while let Some(command) = commands.recv().await {
        let command: Value = command;
        let id = requests::number(&command, "id");
        match requests::text(&command, "call").as_str() {
            "open" => {
                let opened = open(&command);
                say(id, opened.as_ref().map(|_| json!({"lacks": []})).map_err(Clone::clone));
                client = opened.ok();
            }
            "cancel" => {
                cancels[&requests::number(&command, "of")].notify_one();
                say(id, Ok(json!({})));
            }
            _ => {
                let mut client = client.clone().expect("`open` comes first");
                if let Some(seconds) = command["timeout"].as_f64() {
                    client = client.within(Duration::from_secs_f64(seconds));
                }
                let cancel = cancels.entry(id).or_default().clone();
                calls.spawn(async move {
                    tokio::select! {
                        result = perform(&client, &command) => say(id, result),
                        () = cancel.notified() => println!(r#"{{"id": {id}, "error": {{"kind": "CANCELLED"}}}}"#),
                    }
                });
            }
        }
    }
    while calls.join_next().await.is_some() {}
    if let Some(client) = client {
        client.close().await;
    }
}

#[allow(clippy::needless_update)] // the feature `tls` adds a field
fn open(command: &Value) -> Result<Client, Error> {
    let options = Options {
        timeout: Duration::from_secs_f64(command["timeout"].as_f64().unwrap_or(0.25)),
        token: command["token"].as_str().map(str::to_owned),
        fallback_workers: requests::workers(&command["fallback_workers"]),
        ..Options::default()
    };
    Client::new(&requests::text(command, "target"), options)
}

async fn perform(client: &Client, command: &Value) -> Result<Value, Error> {
    match requests::text(command, "call").as_str() {
        "counts" => {
            let counts = requests::counts(&command["counts"])?.unwrap_or_default();
            Ok(json!({"bytes": answers::hexadecimal(&counts)}))
        }
        "route" => Ok(answers::placement(&client.route(requests::route(command)?).await?)),
        "place" => place(client, command).await,
        "release" => {
            let result = client.release(requests::release(command)?).await?;
            let name = result.map(|result| answers::bare(result.as_str_name(), "RELEASE_RESULT_"));
            Ok(json!({"result": name}))
        }
        "renew" => {
            let answer = client.renew_leases(requests::renewal(command)).await?;
            let unknown = answer.unknown.iter().map(|each| json!([each.request_id, each.attempt]));
            Ok(json!({"unknown": unknown.collect::<Vec<_>>()}))
        }
        "register_signature" => {
            let answer = client.register_signature(requests::chunk(command)?).await?;
            Ok(json!({"tokens_held": answer.tokens_held, "complete": answer.complete}))
        }
        "stream_signature" => {
            let placed = client.stream_signature(requests::streamed_chunk(command)?).await?;
            Ok(json!({"placement": placed.as_ref().map(answers::placement)}))
        }
        other => panic!("no call of the protocol: {other}"),
    }
}

async fn place(client: &Client, command: &Value) -> Result<Value, Error> {
    let mut held = client.place(requests::route(command)?).await?;
    let body = &command["body"];
    held.output_tokens = requests::number(body, "output_tokens") as u32;
    sleep(Duration::from_secs_f64(body["seconds"].as_f64().unwrap_or(0.0))).await;
    let placement = answers::placement(&held);
    if body["ends"] == "raise" {
        held.release(ReleaseOutcome::Failed).await;
    } else {
        held.release(ReleaseOutcome::Completed).await;
    }
    Ok(placement)
}

fn say(id: u64, result: Result<Value, Error>) {
    let said = match result {
        Ok(result) => json!({"id": id, "result": result}),
        Err(error) => json!({"id": id, "error": answers::failure(&error)}),
    };
    println!("{said}");
    std::io::stdout().flush().expect("stdout is open");
}
