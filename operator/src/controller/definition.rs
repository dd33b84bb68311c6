//! Waits until the API server knows `HttpStatistics`.

use std::time::Duration;

use kube::api::ListParams;
use kube::{Api, Client};
use tokio::time::{sleep, timeout};

use super::raw::Raw;
use crate::api_error::{ANSWER_TIMEOUT, ApiError};
use crate::error_chain::error_chain;

/// How often to look for the definition until it is there.
const INTERVAL: Duration = Duration::from_secs(2);

/// Returns when resources can be listed. Logs what is in the way, each time that it is something else.
pub(super) async fn wait(client: &Client) {
    let api = Api::<Raw>::all(client.clone());
    let one = ListParams::default().limit(1);
    let mut told = String::new();
    loop {
        let answer = timeout(ANSWER_TIMEOUT, api.list_metadata(&one)).await;
        let problem = match answer.map(|answer| answer.map_err(ApiError::from)) {
            Ok(Ok(_)) => return,
            Ok(Err(error)) if error.is(404) => {
                "HttpStatistics is not defined: apply crds/httpstatistics.yaml".to_owned()
            }
            Ok(Err(error)) => error_chain(&error),
            Err(_elapsed) => "the API server does not answer".to_owned(),
        };
        if problem != told {
            tracing::warn!("waiting: {problem}");
            told = problem;
        }
        sleep(INTERVAL).await;
    }
}
