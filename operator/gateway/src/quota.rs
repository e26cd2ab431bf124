//! How many requests each tenant has in progress at this gateway.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use naru_protocol::openai::ApiError;

use crate::keys::Caller;

/// What a tenant with too many requests is told in `Retry-After`.
const RETRY_SECONDS: u32 = 1;

/// Counts requests by tenant.
#[derive(Clone, Default)]
pub(crate) struct Quotas(Arc<Mutex<HashMap<String, u32>>>);

/// One request in progress; dropped, it is over.
pub(crate) struct Place {
    quotas: Quotas,
    tenant: Option<String>,
}

impl Quotas {
    /// Counts one more request of the caller's tenant until the result is dropped.
    ///
    /// Errors: 429 when the tenant has as many as it may.
    pub(crate) fn enter(&self, caller: &Caller) -> Result<Place, ApiError> {
        let Some(tenant) = caller.tenant() else {
            return Ok(Place { quotas: self.clone(), tenant: None });
        };
        let mut counts = self.locked();
        let count = counts.get(tenant).copied().unwrap_or_default();
        if let Some(max) = caller.concurrent_requests_max()
            && count >= max
        {
            let message = format!("tenant `{tenant}` has {count} requests in progress, of {max}");
            return Err(ApiError::rate_limited(message, RETRY_SECONDS));
        }
        counts.insert(tenant.to_owned(), count + 1);
        Ok(Place { quotas: self.clone(), tenant: Some(tenant.to_owned()) })
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        // Nothing panics while it is held; a count is sound in any case.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(tenant) = &self.tenant else { return };
        let mut counts = self.quotas.locked();
        if let Some(count) = counts.get_mut(tenant) {
            *count -= 1;
            if *count == 0 {
                counts.remove(tenant); // tenants come and go; only busy ones are kept
            }
        }
    }
}
