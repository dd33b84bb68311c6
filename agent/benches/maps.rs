//! What counting costs when there is much to remember: with the number of connections, and of processes and status codes,
//! up to the limits of the kernel's maps and beyond, where what is lost must have been counted.
//!
//! `make bench` runs it. Needs root, stays on the loopback interface, takes a minute, and judges nothing. Processes that
//! hold connections, at both ends; one after the other sends a request and its response over each. So each call needs
//! what was needed longest ago. The kernel measures how long the programs run.
#![expect(clippy::print_stdout, reason = "a measurement is there to be seen")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::ExitCode;
use std::ptr;

use agent::bpf::{Counters, HookChoice, Loss, MapSizes, attach, measure_run_times};
use anyhow::{Context as _, Result, ensure};
use testkit::bench::{Spread, count, exit_code, figure, print_table};

/// Measurements of each point, of which the median counts.
const ROUNDS: usize = 5;
/// Requests and responses of each measurement, at least.
const EXCHANGES: u32 = 5_000;
/// System calls of one request and its response, at both ends.
const CALLS: f64 = 4.0;

/// Entries of the connections map, two for each connection, where there is room for all, and in a map as it is by default.
const WITH_ROOM: [u32; 5] = [10, 100, 1_000, 10_000, 100_000];
const ROOM: u32 = 131_072;
const BY_DEFAULT: [u32; 3] = [10_000, 60_000, 100_000];
/// Processes with one connection each, and the status codes that each sends. One counter for each code, one for requests.
const COUNTERS: [(u32, u16); 5] = [(10, 1), (100, 9), (1_000, 1), (1_000, 15), (1_000, 31)];

fn main() -> ExitCode {
    exit_code(measure())
}

fn measure() -> Result<()> {
    let limit = raise_limit()?;
    let mut connections = Vec::new();
    let sizes = MapSizes {
        connections: ROOM,
        ..MapSizes::DEFAULT
    };
    let (mut kernel, attachments) = attach(HookChoice::Auto, sizes)?;
    for entries in WITH_ROOM {
        connections.push((entries, ROOM, of_connections(&mut kernel, entries, limit)?));
    }
    drop((kernel, attachments));
    let sizes = MapSizes::DEFAULT;
    let (mut kernel, attachments) = attach(HookChoice::Auto, sizes)?;
    for entries in BY_DEFAULT {
        let point = of_connections(&mut kernel, entries, limit)?;
        connections.push((entries, sizes.connections, point));
    }
    println!(
        "Hook `{}`. Each in nanoseconds of the programs for one call.\n",
        attachments.hook()
    );
    let baseline = connections[0].2.nanoseconds.median;
    print_table(
        [
            "connections (state entries)",
            "room for",
            "ns a call: median (range)",
            "of the first",
            "counted of sent",
            "losses",
        ],
        connections.iter().map(|(entries, size, point)| {
            let [nanoseconds, ratio, counted, losses] = point.cells(baseline);
            [count(entries), count(size), nanoseconds, ratio, counted, losses]
        }),
    );

    let mut counters = Vec::new();
    for (processes, codes) in COUNTERS {
        let load = Load {
            pairs: 1,
            codes,
            passes: EXCHANGES.div_ceil(processes * u32::from(codes)),
        };
        counters.push((processes, codes, measure_point(&mut kernel, processes, load)?));
    }
    let baseline = counters[0].2.nanoseconds.median;
    print_table(
        [
            "processes",
            "counters wanted",
            "room for",
            "ns a call: median (range)",
            "of the first",
            "counted of sent",
            "losses",
        ],
        counters.iter().map(|(processes, codes, point)| {
            let [nanoseconds, ratio, counted, losses] = point.cells(baseline);
            let wanted = processes * (u32::from(*codes) + 1);
            [
                count(processes),
                count(wanted),
                count(sizes.counters),
                nanoseconds,
                ratio,
                counted,
                losses,
            ]
        }),
    );
    println!("Counted and sent are requests and responses together, of all rounds.\n");
    Ok(())
}

/// Spreads the connections over as many processes as may have them open.
fn of_connections(kernel: &mut Counters, entries: u32, limit: u32) -> Result<Point> {
    let pairs = (entries / 2).max(1);
    // Besides a listener, pipes, and what else is open.
    let holders = pairs.div_ceil((limit - 200) / 2);
    let load = Load {
        pairs: pairs.div_ceil(holders),
        codes: 1,
        passes: EXCHANGES.div_ceil(pairs),
    };
    measure_point(kernel, holders, load)
}

/// What was found for one number of connections or counters.
struct Point {
    nanoseconds: Spread,
    /// Requests and responses.
    sent: u64,
    counted: u64,
    losses: BTreeMap<&'static str, u64>,
}

impl Point {
    fn cells(&self, baseline: f64) -> [String; 4] {
        let losses: Vec<String> = self
            .losses
            .iter()
            .map(|(name, lost)| format!("{} {name}", count(lost)))
            .collect();
        [
            self.nanoseconds.show(0),
            figure(self.nanoseconds.median / baseline, 2),
            format!("{} of {}", count(self.counted), count(self.sent)),
            if losses.is_empty() {
                "none".to_owned()
            } else {
                losses.join(", ")
            },
        ]
    }
}

fn measure_point(kernel: &mut Counters, processes: u32, load: Load) -> Result<Point> {
    let losses_before = kernel.losses()?;
    let mut holders = Holders::start(processes, load)?;
    holders.all(CONNECT)?;
    // Every connection and counter is known from here on, as far as there is room.
    holders.all(PASS)?;
    let _measuring = measure_run_times().context("the kernel does not measure its programs' run times")?;
    let exchanges = u64::from(processes) * u64::from(load.exchanges());
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let before = run_time(kernel);
        holders.all(PASS)?;
        #[expect(clippy::cast_precision_loss, reason = "thousands")]
        rounds.push((run_time(kernel) - before) / (exchanges as f64 * CALLS));
    }
    let pids = holders.pids();
    let counters = kernel.read()?;
    let counted = counters
        .iter()
        .filter(|counter| pids.contains(&counter.key.pid))
        .map(|counter| counter.value)
        .sum();
    let losses = kernel.losses()?;
    // Room for the next ones.
    let keys: Vec<_> = counters.iter().map(|counter| counter.key).collect();
    kernel.forget(&keys)?;
    Ok(Point {
        nanoseconds: Spread::of(rounds),
        sent: 2 * exchanges * (ROUNDS as u64 + 1),
        counted,
        losses: Loss::ALL
            .iter()
            .zip(losses.0.iter().zip(losses_before.0))
            .filter(|(_, (after, before))| *after > before)
            .map(|(loss, (after, before))| (loss.name(), after - before))
            .collect(),
    })
}

/// Nanoseconds that all programs ran.
fn run_time(kernel: &Counters) -> f64 {
    let statistics = kernel.statistics();
    statistics
        .map(|(_, statistics)| statistics.run_time.as_secs_f64() * 1e9)
        .sum()
}

/// As many open files as this process and those that it starts may have; returns how many that is.
fn raise_limit() -> Result<u32> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure outlives both calls.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    ensure!(
        raised == 0 && limit.rlim_max >= 4096,
        "this takes 4,096 open files: ulimit -Hn is {}",
        limit.rlim_max
    );
    // No more than there are ports for the connections of one listener.
    Ok(u32::try_from(limit.rlim_max).unwrap_or(u32::MAX).min(40_000))
}

/// What one process does.
#[derive(Clone, Copy)]
struct Load {
    /// Its connections, each from itself to itself.
    pairs: u32,
    /// Status codes that it answers with on each.
    codes: u16,
    /// How often, at one command.
    passes: u32,
}

impl Load {
    /// At one command.
    fn exchanges(self) -> u32 {
        self.pairs * u32::from(self.codes) * self.passes
    }
}

/// Commands to a holder, and its answer when it is done.
const CONNECT: u8 = b'c';
const PASS: u8 = b'p';
const DONE: u8 = b'd';

/// Processes that hold connections. They are told through pipes what to do, which no hook sees, and end with these.
struct Holders(Vec<Holder>);

struct Holder {
    pid: libc::pid_t,
    commands: PipeWriter,
    answers: PipeReader,
}

impl Holders {
    fn start(processes: u32, load: Load) -> Result<Self> {
        let mut holders = Self(Vec::new());
        for _ in 0..processes {
            let (mut command, commands) = io::pipe()?;
            let (answers, mut answer) = io::pipe()?;
            // SAFETY: this process has one thread, so all is usable in the new one.
            match unsafe { libc::fork() } {
                0 => {
                    drop(commands);
                    // SAFETY: neither takes pointers.
                    unsafe {
                        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                        let held = hold(load, &mut command, &mut answer);
                        libc::_exit(i32::from(held.is_err()));
                    }
                }
                pid @ 1.. => holders.0.push(Holder {
                    pid,
                    commands,
                    answers,
                }),
                _ => {
                    return Err(io::Error::last_os_error()).context("failed to start a process (ulimit -u?)");
                }
            }
        }
        Ok(holders)
    }

    /// Has each of them do something, one after the other.
    fn all(&mut self, command: u8) -> Result<()> {
        for holder in &mut self.0 {
            holder.commands.write_all(&[command])?;
            let mut answer = [0];
            holder
                .answers
                .read_exact(&mut answer)
                .context("a process of the load failed (not enough memory, ports or files?)")?;
        }
        Ok(())
    }

    fn pids(&self) -> BTreeSet<u32> {
        self.0.iter().map(|holder| holder.pid.cast_unsigned()).collect()
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        for Holder { pid, .. } in &self.0 {
            // SAFETY: kill takes no pointers, and the child is not reaped, so the pid is still its own.
            unsafe { libc::kill(*pid, libc::SIGKILL) };
        }
        for Holder { pid, .. } in &self.0 {
            // SAFETY: the status may be null.
            unsafe { libc::waitpid(*pid, ptr::null_mut(), 0) };
        }
    }
}

/// Does as it is told until nobody does.
fn hold(load: Load, commands: &mut PipeReader, answers: &mut PipeWriter) -> io::Result<()> {
    let responses: Vec<Vec<u8>> = (0..load.codes)
        .map(|code| format!("HTTP/1.1 {} OK\r\nContent-Length: 0\r\n\r\n", 200 + code).into_bytes())
        .collect();
    let mut pairs = Vec::new();
    let mut command = [0];
    while commands.read(&mut command)? > 0 {
        if command[0] == CONNECT {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            for _ in 0..load.pairs {
                pairs.push(pair(&listener)?);
            }
        } else {
            for _ in 0..load.passes {
                pass(&mut pairs, &responses)?;
            }
        }
        answers.write_all(&[DONE])?;
    }
    Ok(())
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";

/// A request and a response with each code over each connection.
fn pass(pairs: &mut [[TcpStream; 2]], responses: &[Vec<u8>]) -> io::Result<()> {
    let mut buffer = [0; 128];
    for [client, server] in pairs {
        for response in responses {
            client.write_all(REQUEST)?;
            server.read_exact(&mut buffer[..REQUEST.len()])?;
            server.write_all(response)?;
            client.read_exact(&mut buffer[..response.len()])?;
        }
    }
    Ok(())
}

/// A connection that is reset when it is closed, so that nothing of it stays.
fn pair(listener: &TcpListener) -> io::Result<[TcpStream; 2]> {
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        // SAFETY: the structure outlives the call and has the size given.
        let set = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                libc::socklen_t::try_from(size_of_val(&linger)).unwrap_or(0),
            )
        };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok([client, server])
}
