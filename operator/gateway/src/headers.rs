//! Which headers pass, and the id that follows a request through every log.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Follows a request through gateway and worker.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What the gateway tells the worker about the tenant; never taken from a client.
const TENANT: HeaderName = HeaderName::from_static("x-naru-tenant");
/// Longest id that is taken from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Headers that belong to one connection and end with it (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What the client sent, less what is not for the worker: its key, the connection's own headers,
/// and a tenant it may not name. `tenant` is whose key it was.
pub(crate) fn for_worker(
    client: &HeaderMap,
    request_id: &HeaderValue,
    tenant: Option<&HeaderValue>,
) -> HeaderMap {
    let mut headers = end_to_end(client);
    for name in [header::HOST, header::AUTHORIZATION, header::CONTENT_LENGTH, header::EXPECT] {
        headers.remove(name);
    }
    headers.remove(TENANT);
    if let Some(tenant) = tenant {
        headers.insert(TENANT, tenant.clone());
    }
    headers.insert(REQUEST_ID, request_id.clone());
    headers
}

/// What the worker answered, less the connection's own headers.
pub(crate) fn for_client(worker: &HeaderMap, request_id: &HeaderValue) -> HeaderMap {
    let mut headers = end_to_end(worker);
    headers.insert(REQUEST_ID, request_id.clone());
    headers
}

fn end_to_end(all: &HeaderMap) -> HeaderMap {
    let mut headers = all.clone();
    for listed in all.get_all(header::CONNECTION) {
        for name in listed.to_str().unwrap_or_default().split(',') {
            headers.remove(name.trim());
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers
}

/// The client's own id when it is printable and short, else a new one.
pub(crate) fn request_id(client: &HeaderMap) -> HeaderValue {
    let usable = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    client.get(REQUEST_ID).filter(usable).cloned().unwrap_or_else(new_request_id)
}

fn new_request_id() -> HeaderValue {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    // The standard library seeds its hash maps from the operating system's randomness.
    let random = RandomState::new().hash_one(count);
    let id = format!("req-{random:016x}{count:08x}");
    HeaderValue::from_str(&id).expect("hexadecimal digits are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let entry = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        list.iter().map(entry).collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn what_passes() {
        let client = headers(&[
            ("accept", "*/*"),
            ("authorization", "Bearer secret"),
            ("connection", "close, x-hop"),
            ("content-length", "5"),
            ("content-type", "application/json"),
            ("host", "a"),
            ("transfer-encoding", "chunked"),
            ("x-hop", "1"),
            ("x-naru-tenant", "bank"),
        ]);
        let id = HeaderValue::from_static("r1");
        let passed = for_worker(&client, &id, None);
        assert_eq!(names(&passed), ["accept", "content-type", "x-request-id"]);
        let saudi = HeaderValue::from_static("saudi");
        let passed = for_worker(&client, &id, Some(&saudi));
        assert_eq!(passed.get_all(TENANT).iter().collect::<Vec<_>>(), [&saudi]);
        let worker = headers(&[("content-length", "2"), ("connection", "close"), ("x-a", "1")]);
        assert_eq!(names(&for_client(&worker, &id)), ["content-length", "x-a", "x-request-id"]);
    }

    #[test]
    fn ids() {
        let given = |id: &'static str| request_id(&headers(&[("x-request-id", id)]));
        assert_eq!(given("abc-1"), "abc-1");
        assert_ne!(given("a b"), "a b", "not printable in a log");
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
