//! An error with what caused it, in one line.

use std::error::Error;
use std::iter::successors;

/// The messages of an error and of its sources, outermost first.
pub(crate) fn error_chain(error: &(dyn Error + 'static)) -> String {
    let messages: Vec<String> = successors(Some(error), |error: &&(dyn Error + 'static)| (*error).source())
        .map(ToString::to_string)
        .collect();
    messages.join(": ")
}
