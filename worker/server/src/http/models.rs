//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::extract::{Path, State};
use axum::response::Response;
use naru_protocol::openai::{Model, ModelList};

use super::error::Refused;
use super::{Shared, json};

/// Every served name.
pub(super) async fn list(State(http): State<Shared>) -> Response {
    json(&ModelList::new(http.member.names.iter().map(|name| model(&http, name)).collect()))
}

/// One served name; names may hold slashes.
pub(super) async fn show(
    State(http): State<Shared>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    http.check_model(&id)?;
    Ok(json(&model(&http, &id)))
}

fn model(http: &Shared, name: &str) -> Model {
    let served = http.member.served();
    let max_model_len = served.map(|served| served.context_tokens_max as u64);
    let model = Model::new(name, http.member.started);
    let owned_by = if http.member.fingerprint.is_some() { "naru-sim" } else { model.owned_by };
    Model { max_model_len, owned_by, ..model }
}
