//! A client of the nodes' public HTTP interface: what crosses the wire, and nothing of what it means.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::LOCATION;
use hyper::{Method, StatusCode};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpFailure {
    /// The request cannot be put into words; nothing was sent.
    Invalid(String),
    /// There was no connection; nothing was sent.
    NotConnected,
    /// It was sent, or part of it: it may have been done, or may yet be.
    Unknown(String),
}

/// What a node answered.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// The status.
    pub status: StatusCode,
    /// The node that a redirect points to.
    pub leader: Option<SocketAddr>,
    /// The body, whole.
    pub body: Bytes,
}

/// A client of the HTTP interface. Every attempt is made once: what is tried again is for the caller to decide.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Client<HttpConnector, Full<Bytes>>,
    timeout: Duration,
}

impl HttpClient {
    /// A client that waits at most `timeout` for an answer.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(timeout));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .retry_canceled_requests(false)
            .build(connector);
        Self { client, timeout }
    }

    /// Asks a node once. Dropping the future leaves open what becomes of the request.
    ///
    /// # Errors
    /// [`HttpFailure`], which tells whether the request may take effect.
    pub async fn exchange(
        &self,
        method: Method,
        node: SocketAddr,
        path: &str,
        body: String,
    ) -> Result<HttpAnswer, HttpFailure> {
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("http://{node}{path}"))
            .body(Full::from(body))
            .map_err(|error| HttpFailure::Invalid(format!("{path} cannot be asked for: {error}")))?;
        let answer = async {
            let response = self.client.request(request).await.map_err(|error| {
                if error.is_connect() {
                    HttpFailure::NotConnected
                } else {
                    HttpFailure::Unknown(error.to_string())
                }
            })?;
            let status = response.status();
            let leader = response.headers().get(LOCATION).and_then(|location| address(location.to_str().ok()?));
            let body = response.into_body().collect().await.map_err(|error| HttpFailure::Unknown(error.to_string()))?;
            Ok(HttpAnswer { status, leader, body: body.to_bytes() })
        };
        let unanswered = || Err(HttpFailure::Unknown("no answer in time".to_owned()));
        tokio::time::timeout(self.timeout, answer).await.unwrap_or_else(|_| unanswered())
    }
}

/// The address in a redirect.
fn address(location: &str) -> Option<SocketAddr> {
    location.strip_prefix("http://")?.split(['/', '?']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_names_the_leader() {
        let node = "127.0.0.1:8101".parse().ok();
        assert_eq!(address("http://127.0.0.1:8101/kv/r/1?expect=2"), node);
        assert_eq!(address("http://127.0.0.1:8101"), node);
        assert_eq!(address("/kv/r"), None);
    }
}
