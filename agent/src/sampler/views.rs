//! What is told of the books: each view is written when somebody asks, and then the same bytes for all until the next tick.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tracing::info;

use super::Kernel;
use super::body::Body;
use super::books::Books;
use super::handle::{Unavailable, View};
use super::throttle::Throttle;
use crate::bpf::Hook;
use crate::config::Live;
use crate::host::HostIdentity;
use crate::metrics;
use crate::overview::{Overview, Sources};
use crate::report::{Facts, MAX_REPORT, ReportBuilder};
use crate::totals::Totals;

/// At most one line about shortened reports in this time.
const SIZE_LOG_INTERVAL: Duration = Duration::from_mins(10);

/// Views of the latest tick.
#[derive(Debug)]
pub(super) struct Views {
    builder: ReportBuilder,
    /// Those that were written since.
    written: HashMap<View, Body>,
    size_log: Throttle,
}

impl Views {
    pub(super) fn new(live: &Live, hook: Hook) -> Self {
        Self {
            builder: builder(live, hook),
            written: HashMap::new(),
            size_log: Throttle::new(SIZE_LOG_INTERVAL),
        }
    }

    /// Goes by what is configured now.
    pub(super) fn adjust(&mut self, live: &Live, hook: Hook) {
        self.builder = builder(live, hook);
        self.clear();
    }

    /// What was written is no longer true.
    pub(super) fn clear(&mut self) {
        self.written.clear();
    }

    /// A view, as it was written for whoever asked first. `failure` is why the counters could not be read, if so.
    pub(super) fn view<K: Kernel>(
        &mut self,
        view: View,
        books: &mut Books<K>,
        host: &HostIdentity,
        failure: Option<&str>,
    ) -> Result<Body, Unavailable> {
        if let Some(body) = self.written.get(&view) {
            return Ok(body.clone());
        }
        let text = match view {
            View::Report => self.report(books, host),
            View::Overview => serde_json::to_vec(&Overview::new(&Sources {
                host: &host.current().0,
                hook: books.kernel.hook(),
                window: &books.window,
                ledger: &books.ledger,
                directory: &books.directory.borrow(),
                losses: &books.losses,
                failure,
            }))?,
            View::OpenMetrics => {
                books.metrics.measured(books.kernel.programs().into_iter());
                books.metrics.text()?.into_bytes()
            }
            View::ClassicMetrics => {
                let open_metrics = self.view(View::OpenMetrics, books, host, failure)?.plain();
                metrics::classic(&String::from_utf8_lossy(&open_metrics)).into_bytes()
            }
        };
        let body = Body::from(text);
        self.written.insert(view, body.clone());
        Ok(body)
    }

    fn report<K: Kernel>(&mut self, books: &mut Books<K>, host: &HostIdentity) -> Vec<u8> {
        let begin = Instant::now();
        let gone = books.places_gone();
        let (report, shown) = self.builder.build(&Facts {
            host_id: &host.current().0,
            window: &books.window,
            ledger: &books.ledger,
            gone: &gone,
            directory: &books.directory.borrow(),
            losses: (&books.losses, books.losses_changed),
        });
        self.log_size(shown, books.window.dates().len());
        books.metrics.reported(begin.elapsed());
        report
    }

    fn log_size(&mut self, shown: usize, ticks: usize) {
        let now = Instant::now();
        if shown < ticks && self.size_log.is_open(now) {
            info!(
                shown,
                ticks, "reports would be too large; they show less of the past"
            );
            self.size_log.close(now);
        }
    }
}

fn builder(live: &Live, hook: Hook) -> ReportBuilder {
    ReportBuilder::new(live.status_codes.clone(), hook, MAX_REPORT).filtered(live.filter())
}

/// Totals as JSON, read now.
pub(super) fn totals<K: Kernel>(books: &mut Books<K>, host: &HostIdentity) -> Result<Bytes, Unavailable> {
    books
        .read()
        .map_err(|error| Unavailable::Counters(Arc::new(error)))?;
    books.look_at_all();
    let json = serde_json::to_vec(&Totals::new(
        books.kernel.hook(),
        host,
        &books.ledger,
        &books.directory.borrow(),
        &books.losses,
    ))?;
    Ok(Bytes::from(json))
}
