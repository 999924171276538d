use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use crate::StreamSignaturesRequest;
use crate::call::Try;
use crate::proto::eldr::v1::StreamSignaturesResponse;
use crate::replicas::Replica;

/// Sends a message and waits for its answer, as a unary call does, on a call that stays open. It opens on
/// first use, and again after it has broken. Messages take turns.
#[derive(Default)]
pub(crate) struct SignatureStream {
    open: tokio::sync::Mutex<Option<Open>>,
    replica: Mutex<Option<Arc<Replica>>>,
}

struct Open {
    replica: Arc<Replica>,
    messages: mpsc::Sender<StreamSignaturesRequest>,
    answers: Streaming<StreamSignaturesResponse>,
}

impl SignatureStream {
    /// Where it was opened, unless that one drains or was silent a moment ago.
    pub(crate) fn replica(&self) -> Option<Arc<Replica>> {
        self.replica.lock().unwrap().clone().filter(|replica| replica.is_good())
    }

    /// The answer to `message`, or what the stream ended with.
    pub(crate) async fn exchange(
        &self,
        message: StreamSignaturesRequest,
        given: Try,
    ) -> Result<StreamSignaturesResponse, Status> {
        let mut turn = self.open.lock().await;
        // Taken out: should this be given up, the stream closes, as a late answer would be taken for that
        // of the next message.
        let mut open = turn.take().filter(|open| Arc::ptr_eq(&open.replica, &given.replica));
        *self.replica.lock().unwrap() = Some(given.replica.clone());
        if let Some(idle) = &mut open
            && !idle.is_quiet().await
        {
            open = None;
        }
        let mut open = match open {
            Some(open) => {
                let _ = open.messages.try_send(message); // the true error comes with the answer
                open
            }
            None => Open::begin(message, &given).await?,
        };
        let ended = || Status::unavailable("the router ended the stream");
        let answer = open.answers.message().await?.ok_or_else(ended)?;
        *turn = Some(open);
        Ok(answer)
    }
}

impl Open {
    /// The first message goes along, as a router may answer nothing before it.
    async fn begin(message: StreamSignaturesRequest, given: &Try) -> Result<Self, Status> {
        let (messages, sent) = mpsc::channel(1);
        let _ = messages.try_send(message); // there is room for one
        let call = Request::new(ReceiverStream::new(sent)); // it outlives this message's deadline
        let answers = given.router().stream_signatures(call).await?.into_inner();
        Ok(Self { replica: given.replica.clone(), messages, answers })
    }

    /// It did not break while it was idle.
    async fn is_quiet(&mut self) -> bool {
        tokio::select! {
            biased;
            _ = self.answers.message() => false,
            () = std::future::ready(()) => true,
        }
    }
}
