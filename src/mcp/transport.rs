//! Messages on their way in and out, watched for what becomes of calls: withdrawn by the client, answered, or answered
//! in vain.

use super::calls::Calls;
use rmcp::model::{ClientJsonRpcMessage, ClientNotification, ClientRequest, GetMeta, JsonRpcMessage, RequestId};
use rmcp::service::{RoleServer, RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use std::sync::Arc;
use tokio::sync::Notify;

/// A transport below which each call is known. All of it runs on the one thread of the SDK's loop, which decides in
/// the order of these calls whether an answer goes out: so both always agree.
pub(super) struct Watched<T> {
    inner: T,
    calls: Arc<Calls>,
    /// Told when no more comes in.
    ended: Arc<Notify>,
    /// The client has begun in one of the two eras.
    has_begun: bool,
}

impl<T> Watched<T> {
    pub(super) fn new(inner: T, calls: Arc<Calls>, ended: Arc<Notify>) -> Watched<T> {
        Watched { inner, calls, ended, has_begun: false }
    }

    /// Notes what comes in; false for what has to be passed over. Before it knows the era the SDK takes a notification
    /// for the end of all things, and clients that were too impatient for an answer send one.
    fn notes(&mut self, message: &ClientJsonRpcMessage) -> bool {
        match message {
            JsonRpcMessage::Request(request) => {
                self.has_begun |= match &request.request {
                    ClientRequest::InitializeRequest(_) => true,
                    ClientRequest::DiscoverRequest(_) | ClientRequest::PingRequest(_) => false,
                    other => other.get_meta().protocol_version().is_some(),
                };
                if let ClientRequest::CallToolRequest(_) = &request.request {
                    self.calls.begin(request.id.clone());
                }
                true
            }
            JsonRpcMessage::Notification(notification) => {
                if let ClientNotification::CancelledNotification(cancelled) = &notification.notification
                    && let Some(id) = &cancelled.params.request_id
                {
                    self.calls.withdraw(id);
                }
                self.has_begun
            }
            JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_) => self.has_begun,
        }
    }
}

impl<T: Transport<RoleServer>> Transport<RoleServer> for Watched<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let call = answered(&item).and_then(|id| self.calls.take(id));
        let sending = self.inner.send(item);
        async move {
            let sent = sending.await;
            match (&sent, call) {
                (_, None) => {}
                (Ok(()), Some(call)) => call.arrived(),
                (Err(_), Some(call)) => call.undo(),
            }
            sent
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            let Some(message) = self.inner.receive().await else {
                self.ended.notify_one();
                return None;
            };
            if self.notes(&message) {
                return Some(message);
            }
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.inner.close().await
    }
}

/// The request that a message answers.
fn answered(message: &TxJsonRpcMessage<RoleServer>) -> Option<&RequestId> {
    match message {
        JsonRpcMessage::Response(response) => Some(&response.id),
        JsonRpcMessage::Error(error) => error.id.as_ref(),
        JsonRpcMessage::Request(_) | JsonRpcMessage::Notification(_) => None,
    }
}
