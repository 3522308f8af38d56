//! Models: `GET /v1/models` and `/v1/models/{id}`.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::Uri;
use axum::response::Response;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use tokio_util::sync::CancellationToken;

use super::api::Api;
use super::body::json_response;
use super::middleware::RequestId;
use super::problem::Problem;
use super::types::models::ModelList;

impl Api {
    /// The installed models, for the request `id`. The class's timeout bounds a disk that does not
    /// respond.
    async fn models(&self, id: &str) -> Result<Arc<ModelList>, ErrorBody> {
        let context = self.context(id, Class::Simple, CancellationToken::new());
        let list = self.model_list.get(&self.service);
        self.service.within_deadline("listing the models", &context, list).await
    }
}

/// Lists the installed models.
///
/// # Errors
/// A models folder that cannot be read, and `TIMEOUT`.
pub async fn list(
    State(api): State<Arc<Api>>,
    Extension(id): Extension<RequestId>,
) -> Result<Response, Problem> {
    Ok(json_response(&*api.models(&id.0).await?)?)
}

/// Describes one installed model. Its name may have slashes, escaped or not.
///
/// # Errors
/// `MODEL_NOT_FOUND`, and as for the list.
pub async fn retrieve(
    State(api): State<Arc<Api>>,
    Extension(id): Extension<RequestId>,
    uri: Uri,
) -> Result<Response, Problem> {
    let name = unescaped(uri.path().strip_prefix("/v1/models/").unwrap_or_default());
    let list = api.models(&id.0).await?;
    let Some(model) = list.data.iter().find(|model| model.id.eq_ignore_ascii_case(&name)) else {
        let message = format!("the model `{name}` is not installed");
        return Err(ErrorBody::new(ErrorCode::ModelNotFound, message).into());
    };
    Ok(json_response(model)?)
}

/// Decodes percent escapes such as `%2F`. A `%` that begins no escape stays.
fn unescaped(text: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let (bytes, mut plain, mut at) = (text.as_bytes(), Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                plain.push(u8::try_from(high * 16 + low).unwrap_or(byte));
                at += 3;
            }
            _ => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_escapes_are_decoded() {
        assert_eq!(unescaped("org%2Fname%3aQ8"), "org/name:Q8");
        assert_eq!(unescaped("100%"), "100%");
        assert_eq!(unescaped("%zz%"), "%zz%");
        assert_eq!(unescaped("%C3%A4%ff"), "ä\u{fffd}");
    }
}
