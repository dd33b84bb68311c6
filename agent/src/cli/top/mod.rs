//! The live table: what a running agent counts, or what this process counts itself where there is no agent.

mod plain;
mod rows;
mod screen;
mod state;

use std::env;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use ratatui::crossterm::event::{self, Event};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Error, Output, client, print};
use crate::client::{Client, ClientError};
use crate::config::Settings;
use crate::overview::Overview;
use crate::run::{Counting, RunError};
use crate::sampler::View;
use rows::{Grouping, Selection, Sort};
use screen::Letters;
use state::State;

/// How often the screen looks for what is new, unless the agent's interval is shorter.
const REFRESH: Duration = Duration::from_secs(1);
/// How long the screen waits for a key before it looks for what is new.
const KEY_WAIT: Duration = Duration::from_millis(100);
/// How long the screen may take to put the terminal back.
const SCREEN_END: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// What a row is
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    by: Grouping,
    /// Sort by
    #[arg(long, value_enum, default_value_t, value_name = "COLUMN")]
    sort: Sort,
    /// Only rows with this in their name, place or PID
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    filter: String,
    /// Print what is known now, and end
    #[arg(long)]
    once: bool,
    /// Print this instead of the live screen, each time there is news; JSON is one document a line [default: table,
    /// where there is no terminal]
    #[arg(long, value_enum)]
    output: Option<Output>,
}

/// Where overviews come from.
enum Source {
    Agent(Client),
    /// There is no agent. The sender is held for those who wait for changes.
    Attached(
        Box<Counting>,
        #[expect(dead_code, reason = "held, as the comment says")] watch::Sender<crate::config::Live>,
    ),
}

/// What is known, or why it is not. The overview is shared: the screen takes it when it likes.
type Latest = (Option<Arc<Overview>>, Option<String>);

impl Source {
    /// The agent that listens, or one of our own.
    async fn find(settings: &Settings) -> Result<Self, Error> {
        let client = client(settings);
        match client.get("/healthz").await {
            Err(ClientError::NoAgent { .. }) => {
                let live = watch::Sender::new(settings.live.clone());
                let counting = Counting::start(settings, live.subscribe()).await?;
                Ok(Self::Attached(Box::new(counting), live))
            }
            // One that is not well is asked all the same, and says why.
            Ok(_) | Err(ClientError::Status { .. }) => Ok(Self::Agent(client)),
            Err(error) => Err(error.into()),
        }
    }

    const fn is_attached(&self) -> bool {
        matches!(self, Self::Attached(..))
    }

    async fn overview(&self) -> Result<Overview, Error> {
        match self {
            Self::Agent(client) => Ok(client.get_json("/overview").await?),
            Self::Attached(counting, _) => {
                let body = counting.feed.view(View::Overview).await?;
                serde_json::from_slice(&body.plain()).map_err(Error::Json)
            }
        }
    }

    /// Waits until there may be news.
    async fn news(&mut self, ticks: &mut tokio::time::Interval) -> Result<(), RunError> {
        match self {
            Self::Agent(_) => {
                ticks.tick().await;
                Ok(())
            }
            Self::Attached(counting, _) => {
                let mut feed = counting.feed.clone();
                tokio::select! {
                    error = counting.failure() => Err(error),
                    _ = feed.ticked() => Ok(()),
                }
            }
        }
    }

    async fn close(self) {
        if let Self::Attached(counting, _) = self {
            counting.stop().await;
        }
    }
}

pub(super) fn run(settings: &Settings, options: &Options) -> Result<(), Error> {
    let runtime = super::runtime(Builder::new_multi_thread().worker_threads(2))?;
    runtime.block_on(async {
        let mut stop = Stop::new()?;
        let mut source = tokio::select! {
            source = Source::find(settings) => source?,
            () = stop.wait() => return Ok(()),
        };
        let selection = Selection {
            by: options.by,
            sort: options.sort,
            reverse: false,
            filter: options.filter.clone(),
        };
        let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
        let output = match options.output {
            None if options.once || !terminal => Some(Output::Table),
            output => output,
        };
        let outcome = match output {
            Some(output) => print_all(&mut source, &selection, output, options.once, &mut stop).await,
            None => show(&mut source, selection, &mut stop).await,
        };
        source.close().await;
        outcome
    })
}

/// What ends `top` besides its key.
struct Stop([tokio::signal::unix::Signal; 3]);

impl Stop {
    fn new() -> Result<Self, Error> {
        let kinds = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
        ];
        let [terminate, interrupt, hangup] = kinds.map(signal);
        let signals = || -> io::Result<_> { Ok([terminate?, interrupt?, hangup?]) };
        signals()
            .map(Self)
            .map_err(|error| RunError::Signals(error).into())
    }

    async fn wait(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

fn ticker() -> tokio::time::Interval {
    let mut ticks = interval(REFRESH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Prints each overview that is new, or only the first.
async fn print_all(
    source: &mut Source,
    selection: &Selection,
    output: Output,
    once: bool,
    stop: &mut Stop,
) -> Result<(), Error> {
    let mut ticks = ticker();
    let mut printed = None;
    loop {
        tokio::select! {
            news = source.news(&mut ticks) => news?,
            () = stop.wait() => return Ok(()),
        }
        let overview = source.overview().await?;
        // Before the first tick nothing is known.
        let is_news = overview.date.is_some() && overview.date != printed;
        if !is_news && overview.failure.is_none() {
            continue;
        }
        printed = overview.date;
        let listing = selection.of(&overview);
        print(&match output {
            Output::Table => plain::table(&listing) + if once { "" } else { "\n" },
            Output::Json => serde_json::to_string(&listing).map_err(Error::Json)? + "\n",
        })?;
        if once {
            return Ok(());
        }
    }
}

/// The screen, until a key or a signal ends it.
async fn show(source: &mut Source, selection: Selection, stop: &mut Stop) -> Result<(), Error> {
    let (latest, receiver) = watch::channel::<Latest>((None, None));
    let state = State::new(selection, source.is_attached());
    // Not one of the runtime's threads, whose end it waits for: where the terminal is gone, crossterm never comes back.
    let (end, mut screen) = oneshot::channel();
    thread::spawn(move || end.send(live(receiver, state)));
    let mut ticks = ticker();
    let failure = loop {
        tokio::select! {
            ended = &mut screen => return screen_ended(ended),
            () = stop.wait() => break None,
            news = source.news(&mut ticks) => if let Err(error) = news {
                break Some(error.into());
            }
        }
        let news: Latest = match source.overview().await {
            Ok(overview) => (Some(Arc::new(overview)), None),
            Err(error) => (None, Some(error.to_string())),
        };
        latest.send_replace(news);
    };
    // Without a sender it ends.
    drop(latest);
    if let Ok(ended) = timeout(SCREEN_END, screen).await {
        screen_ended(ended)?;
    }
    failure.map_or(Ok(()), Err)
}

/// An end without a result is a panic, of which its hook has told.
fn screen_ended(ended: Result<io::Result<()>, oneshot::error::RecvError>) -> Result<(), Error> {
    ended
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(Error::Screen)
}

/// Draws what is new and takes keys, on a thread that may wait for them. The terminal is left as it was.
fn live(mut latest: watch::Receiver<Latest>, mut state: State) -> io::Result<()> {
    let letters = letters();
    let mut terminal = ratatui::try_init()?;
    let outcome = (|| {
        while !state.done {
            match latest.has_changed() {
                Ok(true) => {
                    let (overview, problem) = latest.borrow_and_update().clone();
                    state.update(overview.map(Arc::unwrap_or_clone), problem);
                }
                Ok(false) => {}
                Err(_) => break,
            }
            terminal.draw(|frame| screen::draw(frame, &state, letters))?;
            if event::poll(KEY_WAIT)?
                && let Event::Key(key) = event::read()?
            {
                state.press(key);
            }
        }
        Ok(())
    })();
    let restored = ratatui::try_restore();
    outcome.and(restored)
}

/// Blocks where the locale says that the terminal has them.
fn letters() -> Letters {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(|name| env::var(name).ok())
        .find(|value| !value.is_empty())
        .unwrap_or_default()
        .to_lowercase();
    if locale.contains("utf-8") || locale.contains("utf8") {
        Letters::Unicode
    } else {
        Letters::Ascii
    }
}
