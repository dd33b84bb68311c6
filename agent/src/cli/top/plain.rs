//! The table as plain text, for scripts.

use super::rows::{Grouping, Listing};
use crate::cli::table::{Align, Table};
use crate::cli::totals::not_counted;

/// Rates by class, and totals by status code.
pub(super) fn table(listing: &Listing) -> String {
    let by_process = listing.by == Grouping::Process;
    let titles = match listing.by {
        Grouping::Process => &[
            ("PID", Align::Right),
            ("COMMAND", Align::Left),
            ("WHERE", Align::Left),
        ][..],
        Grouping::Container => &[("CONTAINER", Align::Left), ("WHERE", Align::Left)],
        Grouping::Pod => &[("POD", Align::Left)],
    };
    let numbers =
        ["REQ/S", "2XX/S", "3XX/S", "4XX/S", "5XX/S", "REQUESTS"].map(|title| (title, Align::Right));
    let mut table = Table::new(
        titles
            .iter()
            .copied()
            .chain(numbers)
            .chain([("RESPONSES", Align::Left)]),
    );
    for row in &listing.rows {
        let pid = by_process.then(|| row.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()));
        let place = (listing.by != Grouping::Pod).then(|| row.place.clone());
        let rates = (2..=5).map(|class| format!("{:.2}", row.class_rate(class)));
        let responses: Vec<String> = row
            .responses
            .iter()
            .map(|(code, count)| format!("{code}={count}"))
            .collect();
        table.row(
            pid.into_iter()
                .chain([row.name.clone()])
                .chain(place)
                .chain([format!("{:.2}", row.requests_per_second)])
                .chain(rates)
                .chain([row.requests.to_string(), responses.join(" ")]),
        );
    }
    format!(
        "{}\nhost: {}, hook: {}, agent: process {}\nnot counted: {}\n",
        table.render(),
        listing.host,
        listing.hook,
        listing.agent,
        not_counted(&listing.losses)
    )
}
