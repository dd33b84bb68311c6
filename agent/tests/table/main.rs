//! Every row of docs/reference/accuracy.md, byte for byte: servers that make exactly the socket calls a case asks for, and say
//! what they have received and sent. That is the truth the agent's totals are compared with, per process, and its
//! losses with those that the case documents.
//!
//! On the host with the hook `tracepoint`; with `VM_KERNELS` set, in guests with all hooks (`cargo xtask vm`).
//! `TEST_HOOKS` names others. Arguments are parts of names, of which one must be in a case's name, or rows ("row 4").
//! `--list` prints what there is, a case and transport a line, as golden/table.txt must have it; the file that
//! `TEST_CASES` names chooses among them: a line of that list, a comma and a hook in each of its lines.
//!
//! Not a libtest harness: the servers are forked from this binary without its threads.

#![expect(
    clippy::panic,
    reason = "clippy does not know this for a test: it has a harness of its own"
)]
#![expect(clippy::too_many_lines, reason = "lists of cases")]

mod bodies;
mod calls;
mod case;
mod client;
mod endings;
mod foreign;
mod framing;
mod processes;
mod server;
mod shapes;
mod slow_arrival;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use case::{Case, Counts, Mode, Play, Transport, Truth, Turn};
use client::Client;
use testkit::live::{Agent, Nginx, for_each_hook};
use testkit::results::record;

/// Time after which what has not been counted is missing.
const SETTLED: Duration = Duration::from_secs(5);

/// After all cases, over the agent that is there: to attach takes longer than anything else here in a guest.
const LOAD: &str = "64 connections to nginx";

/// Set for the process that the servers are forked from.
const SERVERS: &str = "ACCURACY_TABLE_SERVERS";

fn cases() -> Vec<Case> {
    let mut cases = framing::cases();
    cases.extend(shapes::cases());
    cases.extend(bodies::cases());
    cases.extend(processes::cases());
    cases.extend(foreign::cases());
    cases.extend(endings::cases());
    cases
}

fn main() -> ExitCode {
    let cases = cases();
    if env::var_os(SERVERS).is_some() {
        server::fork_servers(&cases);
        return ExitCode::SUCCESS;
    }
    if let Err(difference) = check_list(&cases) {
        say(&difference);
        return ExitCode::FAILURE;
    }
    if env::args().any(|it| it == "--list") {
        let _ = write!(io::stdout(), "{}", list(&cases));
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    let selection = selection();
    let wanted: Vec<String> = env::args().skip(1).filter(|it| !it.starts_with('-')).collect();
    let wants = |case: &Case| {
        let row = format!("row {}", case.row);
        wanted.is_empty()
            || wanted
                .iter()
                .any(|it| *it == row || case.name.contains(it.as_str()))
    };
    let wanted: Vec<&Case> = cases.iter().filter(|case| wants(case)).collect();
    let (mut passed, mut failed, mut failures) = (0, 0, Vec::new());
    for_each_hook(|hook| {
        let mut table = Table::start(hook, &cases, &wanted, selection.as_ref());
        for case in &wanted {
            match table.run(case) {
                Some(true) => passed += 1,
                Some(false) => failed += 1,
                None => {}
            }
        }
        if wanted.len() == cases.len() {
            let begin = Instant::now();
            let outcome = table.load();
            let outcome = outcome.as_ref().map_err(String::as_str).copied();
            record(&format!("{hook}, {LOAD}"), outcome, begin.elapsed());
            match outcome {
                Ok(()) => passed += 1,
                Err(why) => {
                    failed += 1;
                    table.failures.push(format!("FAILED: {hook}, {LOAD}: {why}"));
                }
            }
        }
        let (before, begin) = (table.failures.len(), Instant::now());
        let found = table.end();
        let late = found[before..].join("; ");
        let outcome = if late.is_empty() { Ok(()) } else { Err(&*late) };
        record(&format!("{hook}, at the end"), outcome, begin.elapsed());
        failures.extend(found);
    });
    for failure in &failures {
        say(failure);
    }
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    say(&format!(
        "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s",
        failed.max(usize::from(!failures.is_empty())),
        cases.len() - wanted.len(),
        start.elapsed().as_secs_f32(),
    ));
    if failures.is_empty() && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A case over one transport, as it is listed.
fn listed(case: &Case, transport: Transport) -> String {
    format!("row {}, {}, {transport:?}", case.row, case.name)
}

fn list(cases: &[Case]) -> String {
    let mut list = String::new();
    for case in cases {
        for transport in case.over {
            let _ = writeln!(list, "{}", listed(case, *transport));
        }
    }
    list
}

/// A case that is no longer there is missed: what there is stands in a file that people review, and each row of
/// docs/reference/accuracy.md has a case.
fn check_list(cases: &[Case]) -> Result<(), String> {
    const GOLDEN: &str = "tests/golden/table.txt";
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(GOLDEN);
    let list = list(cases);
    if env::var("SCOPE_HTTP_STATISTICS_WRITE").is_ok_and(|it| it == "1") {
        fs::write(&file, &list).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let golden = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let (are, should): (BTreeSet<_>, BTreeSet<_>) = (list.lines().collect(), golden.lines().collect());
    if are.len() != list.lines().count() {
        return Err("two cases have one name".to_owned());
    }
    let mut differences = String::new();
    for case in should.difference(&are) {
        let _ = writeln!(
            differences,
            "FAILED: {case}: is in {GOLDEN} and no longer in the table"
        );
    }
    for case in are.difference(&should) {
        let _ = writeln!(
            differences,
            "FAILED: {case}: is not in {GOLDEN}: SCOPE_HTTP_STATISTICS_WRITE=1 writes it"
        );
    }
    let documented: BTreeSet<u8> = include_str!("../../../docs/reference/accuracy.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" |")?.0.parse().ok())
        .collect();
    // Crowds are in tests/saturation.
    let elsewhere = [19, 20];
    let tested: BTreeSet<u8> = cases.iter().map(|case| case.row).chain(elsewhere).collect();
    for row in documented.symmetric_difference(&tested) {
        let _ = writeln!(
            differences,
            "FAILED: row {row} is not both in docs/reference/accuracy.md and in the table"
        );
    }
    if differences.is_empty() {
        Ok(())
    } else {
        Err(differences)
    }
}

/// Names of results to come, if not all shall.
fn selection() -> Option<BTreeSet<String>> {
    let file = env::var_os("TEST_CASES")?;
    let text = fs::read_to_string(file).expect("the file that TEST_CASES names can be read");
    Some(text.lines().map(str::to_owned).collect())
}

/// A result, and what `TEST_CASES` has in a line.
fn name_of(case: &Case, transport: Transport, hook: &str) -> String {
    format!("{}, {hook}", listed(case, transport))
}

/// The process that servers are forked from.
struct Servers {
    process: Child,
    orders: OwnedFd,
}

impl Servers {
    fn start() -> Self {
        let (ours, theirs) = calls::socketpair(libc::SOCK_SEQPACKET);
        let process = Command::new(env::current_exe().expect("this binary"))
            .env(SERVERS, "1")
            .stdin(Stdio::from(theirs))
            .spawn()
            .expect("this binary runs");
        Self {
            process,
            orders: ours,
        }
    }

    /// A server of the case, as the client sees it.
    fn fork(&self, index: usize, transport: Transport, cgroup: Option<&Cgroup>) -> Client {
        let (ours, theirs) = calls::socketpair(libc::SOCK_SEQPACKET);
        let cgroup = cgroup.map_or(String::new(), |it| it.directory.display().to_string());
        let order = format!("{index} {transport:?} {cgroup}");
        calls::pass(self.orders.as_raw_fd(), order.as_bytes(), theirs.as_raw_fd());
        drop(theirs);
        Client::new(ours)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A cgroup of a case's own, by which its processes are known when they are gone.
struct Cgroup {
    directory: PathBuf,
    /// As the agent names it.
    path: String,
}

impl Cgroup {
    fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let mount = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|words| words[2] == "cgroup2")
            .expect("cgroup v2 is mounted")[1]
            .to_owned();
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = format!("/accuracy-{}-{number}", process::id());
        let directory = PathBuf::from(mount + &path);
        fs::create_dir(&directory).expect("a new cgroup");
        Self { directory, path }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its last process may not be gone quite yet.
        for _ in 0..100 {
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// How many servers live at a time, with what was counted for them. Looking at totals takes the longer the more there are.
const KEPT: usize = 48;
/// How many of the last are kept when there are too many: what is counted late must have had the time.
const KEPT_LONGER: usize = 16;

/// What must still be so some cases later.
struct Seen {
    /// Keeps the server alive. First, because its cgroup can go only after it.
    _control: OwnedFd,
    name: String,
    pids: BTreeSet<u32>,
    cgroup: Option<Cgroup>,
    counted: Counts,
}

/// One agent, and all cases.
struct Table<'a> {
    hook: String,
    kernel: (u32, u32),
    cases: &'a [Case],
    selection: Option<&'a BTreeSet<String>>,
    servers: Servers,
    agent: Agent,
    /// Those that began before the agent, by case and transport, and how many turns they have done.
    begun: BTreeMap<(usize, usize), (Client, usize)>,
    seen: Vec<Seen>,
    /// What the agent had lost at the end of the case before.
    losses: BTreeMap<String, u64>,
    failures: Vec<String>,
}

impl<'a> Table<'a> {
    fn start(
        hook: &str,
        cases: &'a [Case],
        wanted: &[&Case],
        selection: Option<&'a BTreeSet<String>>,
    ) -> Self {
        let servers = Servers::start();
        let mut begun = BTreeMap::new();
        for (index, case) in cases.iter().enumerate() {
            let Play::Dialogue { turns, .. } = &case.play else {
                continue;
            };
            let Some(at) = turns.iter().position(|it| matches!(it, Turn::AgentStarts)) else {
                continue;
            };
            if !wanted.iter().any(|it| std::ptr::eq(*it, case)) {
                continue;
            }
            for (number, transport) in case.over.iter().enumerate() {
                if selection.is_some_and(|it| !it.contains(&name_of(case, *transport, hook))) {
                    continue;
                }
                let mut client = servers.fork(index, *transport, None);
                client.socket();
                client.play(&turns[..at]);
                begun.insert((index, number), (client, at));
            }
        }
        let agent = Agent::start(hook);
        Self {
            hook: hook.to_owned(),
            kernel: kernel(),
            cases,
            selection,
            losses: agent.totals().loss_counts(),
            agent,
            servers,
            begun,
            seen: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// One case over all its transports that are selected; true if all went as documented.
    fn run(&mut self, case: &Case) -> Option<bool> {
        let failures = self.failures.len();
        let index = self
            .cases
            .iter()
            .position(|it| std::ptr::eq(it, case))
            .expect("one of the cases");
        let mut verdicts = Vec::new();
        for (number, transport) in case.over.iter().enumerate() {
            let name = name_of(case, *transport, &self.hook);
            if self.selection.is_some_and(|it| !it.contains(&name)) {
                continue;
            }
            let (failures, begin) = (self.failures.len(), Instant::now());
            let mode = Mode {
                hook: self.hook.clone(),
                kernel: self.kernel,
                transport: *transport,
            };
            let verdict = match catch_unwind(AssertUnwindSafe(|| self.compare(index, number, &mode))) {
                Ok(Ok(verdict)) => verdict,
                Ok(Err(difference)) => {
                    self.failures.push(format!(
                        "FAILED: row {}, {}, {transport:?}, {} on {}: {difference}",
                        case.row,
                        case.name,
                        self.hook,
                        release()
                    ));
                    "FAILED"
                }
                Err(_panic) => {
                    self.failures.push(format!(
                        "FAILED: row {}, {}, {transport:?}, {} on {}: did not come to its end",
                        case.row,
                        case.name,
                        self.hook,
                        release()
                    ));
                    "FAILED"
                }
            };
            if !verdicts.contains(&verdict) {
                verdicts.push(verdict);
            }
            let why = self.failures[failures..].join("; ");
            let outcome = if why.is_empty() { Ok(()) } else { Err(&*why) };
            record(&name, outcome, begin.elapsed());
        }
        if verdicts.is_empty() {
            return None;
        }
        say(&format!(
            "row {:2} {}: {}: {} on {}",
            case.row,
            case.name,
            verdicts.join("; "),
            self.hook,
            release()
        ));
        Some(self.failures.len() == failures)
    }

    fn compare(&mut self, index: usize, number: usize, mode: &Mode) -> Result<&'static str, String> {
        let case = &self.cases[index];
        let cgroup = case.exits.then(Cgroup::new);
        let (control, truth) = match &case.play {
            Play::Special { ask, .. } => {
                let mut client = self.servers.fork(index, mode.transport, cgroup.as_ref());
                ask(&mut client);
                client.finish()
            }
            Play::Dialogue { turns, .. } => {
                let (mut client, at) = self
                    .begun
                    .remove(&(index, number))
                    .unwrap_or_else(|| (self.servers.fork(index, mode.transport, cgroup.as_ref()), 0));
                client.socket();
                client.play(&turns[at..]);
                client.finish()
            }
        };
        let before = case.turns_before();
        let mut expected = sum(truth.values());
        expected.requests -= before.requests;
        for (code, count) in &before.codes {
            expected.without(code.parse().expect("a code"), *count);
        }
        let exception = case.exceptions.iter().find(|it| (it.holds)(mode));
        let mut expected_losses = self.losses.clone();
        if let Some(exception) = exception {
            (exception.counted)(&mut expected);
            for (loss, count) in exception.losses {
                *expected_losses.entry((*loss).to_owned()).or_default() += count;
            }
        }

        let pids: BTreeSet<u32> = truth.keys().copied().collect();
        let all_count = exception.is_none() && cgroup.is_none() && before == Counts::default();
        let lost: BTreeMap<String, u64> = exception
            .iter()
            .filter(|it| it.have_owner)
            .flat_map(|it| it.losses)
            .map(|(cause, count)| ((*cause).to_owned(), *count))
            .collect();
        let look = || {
            let totals = self.agent.totals();
            let counts = |(requests, codes)| Counts { requests, codes };
            let counted = match &cgroup {
                Some(cgroup) => counts(totals.of_cgroup(&cgroup.path)),
                None => counts(totals.of(&pids)),
            };
            let mut by_process = Truth::new();
            for (pid, truth) in truth.iter().filter(|_| all_count) {
                let counted = counts(totals.of(&BTreeSet::from([*pid])));
                if counted != *truth {
                    by_process.insert(*pid, counted);
                }
            }
            let found_losses = totals.loss_counts();
            let cgroup = cgroup.as_ref().map(|it| it.path.as_str());
            let owned = totals.losses_of(&pids, cgroup);
            let agrees = counted == expected
                && found_losses == expected_losses
                && owned == lost
                && by_process.is_empty();
            (agrees, counted, found_losses, by_process, owned)
        };
        // What the end of a connection tells comes when the kernel has its last segment, which may be after the case.
        let deadline = Instant::now() + SETTLED;
        let (agrees, counted, found_losses, by_process, owned) = loop {
            let seen = look();
            if seen.0 || Instant::now() > deadline {
                break seen;
            }
            thread::sleep(Duration::from_millis(50));
        };
        // What comes later still shows with the next case, which expects it not.
        self.losses.clone_from(&found_losses);
        self.seen.push(Seen {
            name: case.name.clone(),
            pids,
            cgroup,
            counted: counted.clone(),
            _control: control,
        });
        if self.seen.len() > KEPT {
            self.retire(KEPT - KEPT_LONGER);
        }
        if !agrees {
            let reason = exception.map_or(String::new(), |it| format!(" (as documented: {})", it.reason));
            let mut difference = format!(
                "expected{reason} {expected:?}, counted {counted:?}, losses {:?}",
                found_losses
                    .iter()
                    .map(|(name, count)| (
                        name,
                        i128::from(*count) - i128::from(expected_losses.get(name).copied().unwrap_or(0))
                    ))
                    .filter(|(_, more)| *more != 0)
                    .collect::<Vec<_>>()
            );
            if owned != lost {
                let _ = write!(difference, ", lost {lost:?} but of its processes {owned:?}");
            }
            if !by_process.is_empty() {
                let _ = write!(difference, ", by process {truth:?} but counted {by_process:?}");
            }
            return Err(difference);
        }
        Ok(exception.map_or("exact", |it| it.reason))
    }

    /// A mixed load on a real nginx, as in tests/privileged/hooks.rs: the agent has counted what nginx has logged, and lost nothing.
    fn load(&mut self) -> Result<(), String> {
        let nginx = Nginx::start();
        let workers = nginx.workers();
        let sent = nginx.load(64, 36);
        let expected = (sent, nginx.logged());
        let look = || {
            let totals = self.agent.totals();
            (totals.of(&workers), totals.loss_counts())
        };
        let deadline = Instant::now() + SETTLED;
        while look() != (expected.clone(), self.losses.clone()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(100));
        }
        // Not only for a moment: what is counted twice may come late. That is two of the agent's ticks.
        thread::sleep(Duration::from_millis(2500));
        let (counted, losses) = look();
        nginx.stop();
        if counted == expected && losses == self.losses {
            return Ok(());
        }
        let difference = format!(
            "nginx logged {expected:?}, counted {counted:?}, losses before {:?} and after {losses:?}, of them nginx's {:?}; \
             {:?}",
            self.losses,
            self.agent.totals().losses_of(&workers, None),
            self.agent.totals(),
        );
        self.losses = losses;
        Err(difference)
    }

    /// Ends the first `count` servers that are left. Nothing may have been counted for them since.
    fn retire(&mut self, count: usize) {
        let totals = self.agent.totals();
        for seen in self.seen.drain(..count) {
            let (requests, codes) = match &seen.cgroup {
                Some(cgroup) => totals.of_cgroup(&cgroup.path),
                None => totals.of(&seen.pids),
            };
            let counted = Counts { requests, codes };
            if counted != seen.counted {
                self.failures.push(format!(
                    "FAILED: {}, {}: first {:?}, later {counted:?}",
                    self.hook, seen.name, seen.counted
                ));
            }
        }
    }

    /// Nothing may have been counted later, and nothing for the client, which is this process.
    fn end(mut self) -> Vec<String> {
        self.retire(self.seen.len());
        let totals = self.agent.totals();
        let (requests, codes) = totals.of(&BTreeSet::from([process::id()]));
        let ours = Counts { requests, codes };
        if ours != Counts::default() {
            self.failures
                .push(format!("FAILED: {}: the client was counted, {ours:?}", self.hook));
        }
        self.agent.stop();
        self.failures
    }
}

impl Case {
    /// What was done before the agent started, and cannot have been counted: responses, and requests that were answered.
    fn turns_before(&self) -> Counts {
        let mut counts = Counts::default();
        let Play::Dialogue { turns, .. } = &self.play else {
            return counts;
        };
        let Some(at) = turns.iter().position(|it| matches!(it, Turn::AgentStarts)) else {
            return counts;
        };
        for turn in &turns[..at] {
            match turn {
                Turn::Out { codes, .. } => {
                    for code in codes {
                        counts.requests += u64::from(*code >= 200 || *code == 101);
                        *counts.codes.entry(code.to_string()).or_default() += 1;
                    }
                }
                Turn::In { .. } | Turn::Reconnect | Turn::AgentStarts => {}
            }
        }
        counts
    }
}

fn sum<'a>(all: impl Iterator<Item = &'a Counts>) -> Counts {
    let mut sum = Counts::default();
    for counts in all {
        sum.add(counts);
    }
    sum
}

/// Of the running kernel.
fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .expect("/proc")
        .trim()
        .to_owned()
}

fn kernel() -> (u32, u32) {
    let release = release();
    let mut numbers = release
        .split(|it: char| !it.is_ascii_digit())
        .map(|it| it.parse().expect("a number"));
    let mut next = || numbers.next().expect("a version");
    (next(), next())
}
