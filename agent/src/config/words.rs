//! The options' values as the log tells them.

use std::path::PathBuf;

use super::filter::{NamespaceLists, Processes};
use super::values::{
    History, HostId, Interval, LogFormat, LogLevel, MapEntries, MetricsAddress, NodeName, PluginDir,
    StandbySocket, StatusCodes,
};
use crate::bpf::HookChoice;

/// A value as it is told to people: as one writes it.
pub(super) trait InWords {
    /// The value in words. Equal texts are equal values.
    fn in_words(&self) -> String;
}

impl<T: InWords> InWords for Option<T> {
    fn in_words(&self) -> String {
        self.as_ref().map_or_else(|| "(none)".to_owned(), T::in_words)
    }
}

macro_rules! in_words {
    ($($value:ty: $words:expr;)+) => {
        $(impl InWords for $value {
            fn in_words(&self) -> String {
                ($words as fn(&Self) -> String)(self)
            }
        })+
    };
}

in_words! {
    Interval: |it| format!("{:?}", it.get());
    History: |it| format!("{:?}", it.get());
    StatusCodes: |it| format!("[{it}]");
    HookChoice: ToString::to_string;
    HostId: ToString::to_string;
    LogFormat: ToString::to_string;
    LogLevel: ToString::to_string;
    MapEntries: |it| it.get().to_string();
    MetricsAddress: ToString::to_string;
    NodeName: |it| it.as_str().to_owned();
    PathBuf: |it| it.display().to_string();
    PluginDir: |it| it.path().display().to_string();
    Processes: ToString::to_string;
    NamespaceLists: |it| format!("{{include: [{}], exclude: [{}]}}", it.include, it.exclude);
    StandbySocket: |it| it.path().display().to_string();
}
