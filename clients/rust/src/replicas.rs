use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::Error;
use crate::addresses::Addresses;
use crate::client::{Connector, Router, Wire};
use crate::proto::eldr::v1::router_service_client::RouterServiceClient;
use crate::proto::grpc::health::v1::health_client::HealthClient;
use crate::proto::grpc::health::v1::{HealthCheckRequest, health_check_response::ServingStatus};
use crate::times::chance;

/// One that left a call without an answer is asked again after so long, as long as there are others.
const SHUNNED: Duration = Duration::from_secs(1);
const WATCH_AGAIN: Duration = Duration::from_millis(250);
/// Names are looked up again so often, and soon after a call without an answer.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(30);
const LOOK_UP_SOON: Duration = Duration::from_secs(1);

/// One address of the router.
pub(crate) struct Replica {
    at: Option<SocketAddr>,
    wire: Wire,
    standing: Arc<Standing>,
    watch: Option<AbortHandle>,
}

#[derive(Default)]
struct Standing {
    drains: AtomicBool,
    shunned_until: Mutex<Option<Instant>>,
}

impl Standing {
    fn shun(&self) {
        *self.shunned_until.lock().unwrap() = Some(Instant::now() + SHUNNED);
    }

    fn is_good(&self) -> bool {
        !self.drains.load(Relaxed)
            && self.shunned_until.lock().unwrap().is_none_or(|until| until <= Instant::now())
    }
}

impl Replica {
    fn new(at: Option<SocketAddr>, wire: Wire, is_watched: bool) -> Arc<Self> {
        let standing = Arc::new(Standing::default());
        let watch = is_watched
            .then(|| tokio::spawn(watch_health(wire.clone(), standing.clone())).abort_handle());
        Arc::new(Self { at, wire, standing, watch })
    }

    pub(crate) fn router(&self) -> Router {
        RouterServiceClient::new(self.wire.clone())
    }

    pub(crate) fn is_good(&self) -> bool {
        self.standing.is_good()
    }

    pub(crate) fn shun(&self) {
        self.standing.shun();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

/// A replica that drains says so; one that is away cannot.
async fn watch_health(wire: Wire, standing: Arc<Standing>) {
    loop {
        let watched = HealthClient::new(wire.clone()).watch(HealthCheckRequest::default()).await;
        let ended = match watched.map(tonic::Response::into_inner) {
            Err(ended) => ended,
            Ok(mut answers) => loop {
                match answers.message().await {
                    Ok(Some(answer)) => {
                        standing.drains.store(answer.status() != ServingStatus::Serving, Relaxed);
                    }
                    Ok(None) => break tonic::Status::unavailable("the watch ended"),
                    Err(ended) => break ended,
                }
            },
        };
        if ended.code() == Code::Unimplemented {
            return;
        }
        standing.drains.store(false, Relaxed);
        standing.shun();
        sleep(WATCH_AGAIN).await;
    }
}

/// All addresses of the router. Calls take turns among them.
pub(crate) struct Replicas {
    pub(crate) are_several: bool,
    all: watch::Receiver<Vec<Arc<Replica>>>,
    turn: AtomicUsize,
    stale: Arc<Notify>,
    lookups: Option<AbortHandle>,
}

impl Replicas {
    pub(crate) fn new(addresses: Addresses, connector: Connector) -> Result<Self, Error> {
        let (found, all) = watch::channel(Vec::new());
        let stale = Arc::new(Notify::new());
        let mut lookups = None;
        let are_several = match addresses {
            Addresses::Unix(path) => {
                found.send_replace(vec![Replica::new(None, connector.unix(&path)?, false)]);
                false
            }
            Addresses::Listed(listed) => {
                let several = listed.len() > 1;
                let wires = listed.iter().map(|each| connector.listed(each));
                let replicas = wires.map(|wire| Ok(Replica::new(None, wire?, several)));
                found.send_replace(replicas.collect::<Result<_, Error>>()?);
                several
            }
            Addresses::Resolved(name) => {
                connector.listed(&name)?; // says now what is wrong with it
                let looking = look_up(name, connector, found, stale.clone());
                lookups = Some(tokio::spawn(looking).abort_handle());
                true
            }
        };
        Ok(Self { are_several, all, turn: AtomicUsize::new(chance() as usize), stale, lookups })
    }

    /// The next in turn that neither drains nor was silent a moment ago, or simply the next.
    pub(crate) async fn pick(&self) -> Arc<Replica> {
        let mut all = self.all.clone();
        let Ok(found) = all.wait_for(|all| !all.is_empty()).await else {
            unreachable!("lookups go on as long as the replicas are there");
        };
        let first = self.turn.fetch_add(1, Relaxed) % found.len();
        let in_turn = || found[first..].iter().chain(&found[..first]);
        in_turn().find(|each| each.is_good()).unwrap_or(&found[first]).clone()
    }

    /// A call had no answer: the name may have other addresses by now.
    pub(crate) fn look_up_again(&self) {
        self.stale.notify_one();
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        if let Some(lookups) = &self.lookups {
            lookups.abort();
        }
    }
}

async fn look_up(
    name: String,
    connector: Connector,
    found: watch::Sender<Vec<Arc<Replica>>>,
    stale: Arc<Notify>,
) {
    loop {
        match tokio::net::lookup_host(&name).await {
            Ok(addresses) => {
                let known = found.borrow().clone();
                let mut addresses: Vec<_> = addresses.collect();
                addresses.sort();
                addresses.dedup();
                let replicas = addresses.into_iter().filter_map(|at| {
                    let same = known.iter().find(|each| each.at == Some(at)).cloned();
                    let new =
                        || Some(Replica::new(Some(at), connector.resolved(&name, at).ok()?, true));
                    same.or_else(new)
                });
                found.send_replace(replicas.collect());
            }
            Err(error) => tracing::warn!(%name, %error, "the router's name has no address"),
        }
        sleep(LOOK_UP_SOON).await;
        let _ = timeout(LOOK_UP_AGAIN, stale.notified()).await;
    }
}
