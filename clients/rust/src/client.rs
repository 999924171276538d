use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::Error;
use crate::addresses::Addresses;
use crate::call::Shared;
use crate::chores::Chores;
use crate::fallback::{Pool, Worker};
use crate::proto::eldr::v1::router_service_client::RouterServiceClient;
use crate::replicas::Replicas;
use crate::stream::SignatureStream;

const TIMEOUT: Duration = Duration::from_millis(250);

pub(crate) type Wire = InterceptedService<Channel, Bearer>;
pub(crate) type Router = RouterServiceClient<Wire>;

/// Options of a client. The default is for a daemon on this host.
#[derive(Debug, Clone)]
pub struct Options {
    /// Of a call; what the request itself asks to wait for comes on top. 250 ms.
    pub timeout: Duration,
    /// A bearer token. Without TLS it goes out in the clear.
    pub token: Option<String>,
    /// TLS, where the router serves it. Certificates of a `dns:///NAME:PORT` are for that name.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::ClientTlsConfig>,
    /// Workers that are known before the first placement names any.
    pub fallback_workers: Vec<Worker>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: TIMEOUT,
            token: None,
            #[cfg(feature = "tls")]
            tls: None,
            fallback_workers: Vec::new(),
        }
    }
}

/// A connection to the router, for any number of tasks: clones share it. It connects on first use and
/// reconnects by itself.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    pub(crate) deadline: Option<Duration>,
    life: Arc<Life>,
}

/// Ends the chores when the last clone is gone.
struct Life {
    closing: watch::Sender<bool>,
    chores: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.closing.send_replace(true);
    }
}

impl Client {
    /// A client of the router at `target`: `HOST:PORT`, several of them with commas between them for replicas,
    /// `dns:///NAME:PORT` for all addresses of a name, or `unix:PATH`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidValue`] says what is wrong with the target or an option.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn new(target: &str, options: Options) -> Result<Self, Error> {
        let addresses = Addresses::parse(target)?;
        let connector = Connector::new(&options)?;
        let shared = Arc::new(Shared {
            timeout: options.timeout,
            replicas: Replicas::new(addresses, connector)?,
            pool: Pool::new(options.fallback_workers),
            chores: Chores::default(),
            stream: SignatureStream::default(),
        });
        let (closing, closes) = watch::channel(false);
        let chores = tokio::spawn(shared.clone().do_chores(closes));
        let life = Arc::new(Life { closing, chores: Some(chores).into() });
        Ok(Self { shared, deadline: None, life })
    }

    /// The same connection, where each call ends within `deadline`, all tries and waits together.
    #[must_use]
    pub fn within(&self, deadline: Duration) -> Self {
        Self { deadline: Some(deadline), ..self.clone() }
    }

    /// Says the releases that are still unsaid, for one second at most. Dropping the last clone does it
    /// too, if the runtime goes on for so long. Other clones can still call, but keep no releases.
    pub async fn close(self) {
        self.life.closing.send_replace(true);
        let chores = self.life.chores.lock().unwrap().take();
        if let Some(chores) = chores {
            // An error is a panic of theirs, which has been told.
            let _ = chores.await;
        }
    }
}

/// Makes connections as the options say.
pub(crate) struct Connector {
    bearer: Bearer,
    #[cfg(feature = "tls")]
    tls: Option<crate::ClientTlsConfig>,
}

impl Connector {
    fn new(options: &Options) -> Result<Self, Error> {
        let wrong = |_| Error::invalid("token", "visible ASCII", "other characters");
        let token = options.token.as_ref().map(|token| format!("Bearer {token}").parse());
        Ok(Self {
            bearer: Bearer(token.transpose().map_err(wrong)?),
            #[cfg(feature = "tls")]
            tls: options.tls.clone(),
        })
    }

    pub(crate) fn unix(&self, path: &str) -> Result<Wire, Error> {
        Ok(self.wire(endpoint(format!("unix:{path}"))?))
    }

    pub(crate) fn listed(&self, address: &str) -> Result<Wire, Error> {
        let endpoint = endpoint(format!("{}://{address}", self.scheme()))?;
        #[cfg(feature = "tls")]
        let endpoint = secured(endpoint, self.tls.clone())?;
        Ok(self.wire(endpoint))
    }

    /// One address of a name, which stays the name that is asked for.
    pub(crate) fn resolved(&self, name: &str, at: SocketAddr) -> Result<Wire, Error> {
        let origin = format!("{}://{name}", self.scheme());
        let origin = origin.parse().map_err(|error| unusable(&origin, &error))?;
        let endpoint = endpoint(format!("{}://{at}", self.scheme()))?.origin(origin);
        #[cfg(feature = "tls")]
        let endpoint = {
            let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
            secured(endpoint, self.tls.clone().map(|tls| tls.domain_name(host)))?
        };
        Ok(self.wire(endpoint))
    }

    #[cfg(feature = "tls")]
    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    #[cfg(not(feature = "tls"))]
    fn scheme(&self) -> &'static str {
        "http"
    }

    fn wire(&self, endpoint: Endpoint) -> Wire {
        let endpoint = endpoint
            .connect_timeout(Duration::from_secs(1))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(5));
        InterceptedService::new(endpoint.connect_lazy(), self.bearer.clone())
    }
}

fn endpoint(uri: String) -> Result<Endpoint, Error> {
    Endpoint::from_shared(uri.clone()).map_err(|error| unusable(&uri, &error))
}

fn unusable(uri: &str, error: &dyn std::error::Error) -> Error {
    Error::invalid("target", "an address", format!("{uri:?} ({error})"))
}

#[cfg(feature = "tls")]
fn secured(endpoint: Endpoint, tls: Option<crate::ClientTlsConfig>) -> Result<Endpoint, Error> {
    let wrong = |error| Error::invalid("tls", "certificates and keys in PEM", format!("{error:?}"));
    match tls {
        Some(tls) => endpoint.tls_config(tls).map_err(wrong),
        None => Ok(endpoint),
    }
}

/// Adds the token to every call.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}
