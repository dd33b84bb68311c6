//! What counting costs an application, for each hook that this machine allows.
//!
//! `make bench` runs it. Needs root, stays on the loopback interface, takes half a minute, and judges nothing. One thread
//! at both ends of a connection, so that no waiting is measured, and only its time on a processor: it sends a request, receives it, sends the response and
//! receives that, four system calls, and parses nothing. Beside it a file is written and read, and a system call made
//! that has to do with neither. Each round does it all without and with the programs attached, in turns; of the rounds'
//! differences the median counts. Then once more while the kernel measures how long the programs run: what is missing to
//! the difference is the hook's own.
//!
//! In a guest that counts (`VM_COUNT=1`, .ci/vm-runner) a nanosecond is an instruction, and fewer repetitions do.
#![expect(clippy::print_stdout, reason = "a measurement is there to be seen")]

use std::env;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use agent::bpf::{Hook, HookChoice, MapSizes, attach, measure_run_times};
use anyhow::{Context as _, Result, ensure};
use testkit::bench::{Spread, exit_code, figure, print_table};

/// How often everything is done.
struct Repetitions {
    /// Of which the median counts.
    rounds: usize,
    /// Of one load in one round.
    times: u32,
}

const ON_TIME: Repetitions = Repetitions {
    rounds: 11,
    times: 5_000,
};
/// The same instructions each time, but for a timer's interrupt now and then; and attaching takes its time.
const ON_COUNT: Repetitions = Repetitions {
    rounds: 1,
    times: 500,
};

/// What is done again and again.
struct Load {
    name: &'static str,
    kind: Kind,
}

enum Kind {
    /// Both ways over one connection.
    Tcp { request: Vec<u8>, response: Vec<u8> },
    /// The same over a unix socket.
    Unix { request: Vec<u8>, response: Vec<u8> },
    /// 500 bytes written to a file and read from it.
    File,
    /// `getppid`.
    Other,
}

fn loads() -> Vec<Load> {
    let head = |start: &str, len: usize| {
        // Lines as browsers and servers send them, of some 40 bytes.
        let mut head = start.to_owned();
        while head.len() + 44 <= len {
            head += "X-Some-Header: a value of ordinary length\r\n";
        }
        let rest = len.saturating_sub(head.len() + "X: \r\n\r\n".len());
        [&*head, "X: ", &"x".repeat(rest), "\r\n\r\n"]
            .concat()
            .into_bytes()
    };
    let tcp = |name, request, response| Load {
        name,
        kind: Kind::Tcp { request, response },
    };
    let request = || head("GET /index.html HTTP/1.1\r\n", 500);
    let response = || head("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", 250);
    vec![
        tcp("no HTTP: 500 and 250 bytes", vec![b'{'; 500], vec![b'}'; 250]),
        tcp(
            "a first line and no more",
            b"GET /index.html HTTP/1.1\r\n\r\n".to_vec(),
            b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        ),
        tcp("heads of 500 and 250 bytes", request(), response()),
        tcp(
            "the same and bodies of 16 KiB",
            [
                head("POST /index.html HTTP/1.1\r\nContent-Length: 16384\r\n", 500),
                vec![b'x'; 16384],
            ]
            .concat(),
            [
                head("HTTP/1.1 200 OK\r\nContent-Length: 16384\r\n", 250),
                vec![b'x'; 16384],
            ]
            .concat(),
        ),
        Load {
            name: "unix socket, heads of 500 and 250 bytes",
            kind: Kind::Unix {
                request: request(),
                response: response(),
            },
        },
        Load {
            name: "file: 500 bytes written and read",
            kind: Kind::File,
        },
        Load {
            name: "getppid",
            kind: Kind::Other,
        },
    ]
}

impl Load {
    /// Does it so often, on a new connection; returns nanoseconds for each time, and what `watch` tells of them.
    fn repeat<T>(&self, times: u32, watch: impl Fn() -> T) -> Result<(f64, T, T)> {
        match &self.kind {
            Kind::Tcp { request, response } => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                let mut client = TcpStream::connect(listener.local_addr()?)?;
                let (mut server, _) = listener.accept()?;
                for stream in [&client, &server] {
                    stream.set_nodelay(true)?;
                    answer_with_data(stream)?;
                }
                exchange(&mut client, &mut server, [request, response], times, watch)
            }
            Kind::Unix { request, response } => {
                let (mut client, mut server) = UnixStream::pair()?;
                exchange(&mut client, &mut server, [request, response], times, watch)
            }
            Kind::File => {
                let mut file: File = tempfile::tempfile()?;
                let mut bytes = [b'x'; 500];
                // The page cache has all of it then: what new pages take, a virtual machine's above all, is not ours.
                for _ in 0..times {
                    file.write_all(&bytes)?;
                }
                timed(times, watch, |times| {
                    file.rewind()?;
                    for _ in 0..times {
                        file.write_all(&bytes)?;
                    }
                    file.rewind()?;
                    for _ in 0..times {
                        file.read_exact(&mut bytes)?;
                    }
                    Ok(())
                })
            }
            Kind::Other => timed(times, watch, |times| {
                for _ in 0..times {
                    std::hint::black_box(std::os::unix::process::parent_id());
                }
                Ok(())
            }),
        }
    }

    /// Whether it is a request and its response, each with two sides.
    fn has_sides(&self) -> bool {
        matches!(self.kind, Kind::Tcp { .. } | Kind::Unix { .. })
    }
}

/// Has acknowledgements go with the data, from the start: sooner or later the kernel does so by itself, and what it saves
/// is more than what is measured here.
fn answer_with_data(stream: &TcpStream) -> io::Result<()> {
    let no: libc::c_int = 0;
    // SAFETY: the number outlives the call and has the size given.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUICKACK,
            (&raw const no).cast(),
            libc::socklen_t::try_from(size_of_val(&no)).unwrap_or(0),
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Requests and responses, each in one call.
fn exchange<T>(
    client: &mut (impl Read + Write),
    server: &mut (impl Read + Write),
    [request, response]: [&[u8]; 2],
    times: u32,
    watch: impl Fn() -> T,
) -> Result<(f64, T, T)> {
    let mut buffer = vec![0; request.len().max(response.len())];
    timed(times, watch, |times| {
        for _ in 0..times {
            client.write_all(request)?;
            server.read_exact(&mut buffer[..request.len()])?;
            server.write_all(response)?;
            client.read_exact(&mut buffer[..response.len()])?;
        }
        Ok(())
    })
}

/// Nanoseconds for each of so many times, and what `watch` tells before and after.
fn timed<T>(
    times: u32,
    watch: impl Fn() -> T,
    mut repeat: impl FnMut(u32) -> Result<()>,
) -> Result<(f64, T, T)> {
    // So that caches are warm, and the connection has its verdict.
    repeat(times / 10)?;
    let before = watch();
    let started = processor_time();
    repeat(times)?;
    let nanoseconds = processor_time() - started;
    Ok((nanoseconds / f64::from(times), before, watch()))
}

/// Nanoseconds that this thread was on a processor, so that what others do on the machine counts little.
#[expect(
    clippy::cast_precision_loss,
    reason = "a minute of nanoseconds has less than 53 bits"
)]
fn processor_time() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure outlives the call, which cannot fail: every thread has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Nanoseconds of one load, each time, by round.
#[derive(Default)]
struct Results {
    without: Vec<f64>,
    with: Vec<f64>,
    programs: Vec<f64>,
}

fn main() -> ExitCode {
    exit_code(measure())
}

fn measure() -> Result<()> {
    let counts = env::var("VM_COUNT").is_ok_and(|value| value == "1");
    let (unit, repetitions) = if counts {
        ("instructions", ON_COUNT)
    } else {
        ("nanoseconds", ON_TIME)
    };
    let mut measured = 0;
    let wanted = env::var("TEST_HOOKS").ok();
    let is_wanted = |hook: &Hook| {
        let names = wanted.as_deref();
        names.is_none_or(|names| names.split_whitespace().any(|name| name == hook.to_string()))
    };
    for hook in Hook::ALL.into_iter().filter(is_wanted) {
        match measure_hook(hook, &repetitions) {
            Ok(results) => {
                print_hook(hook, unit, &results);
                measured += 1;
            }
            Err(error) => println!("Hook `{hook}`: not measured: {error:#}\n"),
        }
    }
    ensure!(measured > 0, "no hook could be measured");
    Ok(())
}

fn measure_hook(hook: Hook, repetitions: &Repetitions) -> Result<Vec<(Load, Results)>> {
    let mut loads: Vec<(Load, Results)> = loads()
        .into_iter()
        .map(|load| (load, Results::default()))
        .collect();
    let times = repetitions.times;
    for round in 0..repetitions.rounds {
        // In turns, so that a machine that gets slower or faster favours neither.
        for attached in [round.is_multiple_of(2), !round.is_multiple_of(2)] {
            if !attached {
                for (load, results) in &mut loads {
                    let (nanoseconds, ..) = load.repeat(times, || ())?;
                    results.without.push(nanoseconds);
                }
                continue;
            }
            let (counters, _attachments) = attach(HookChoice::Only(hook), MapSizes::DEFAULT)?;
            for (load, results) in &mut loads {
                let (nanoseconds, ..) = load.repeat(times, || ())?;
                results.with.push(nanoseconds);
            }
            let _measuring =
                measure_run_times().context("the kernel does not measure its programs' run times")?;
            let run_time = || -> f64 {
                let statistics = counters.statistics();
                statistics
                    .map(|(_, statistics)| statistics.run_time.as_secs_f64() * 1e9)
                    .sum()
            };
            for (load, results) in &mut loads {
                let (_, before, after) = load.repeat(times, run_time)?;
                results.programs.push((after - before) / f64::from(times));
            }
        }
    }
    Ok(loads)
}

fn print_hook(hook: Hook, unit: &str, loads: &[(Load, Results)]) {
    println!("Hook `{hook}`, {unit}:\n");
    print_table(
        [
            "each time",
            "without",
            "with",
            "more: median (range)",
            "ratio",
            "per request and side",
            "in programs (range)",
            "the hook's own",
        ],
        loads.iter().map(|(load, results)| {
            let paired = || results.with.iter().zip(&results.without);
            let [without, with] =
                [&results.without, &results.with].map(|all| Spread::of(all.iter().copied()));
            let more = Spread::of(paired().map(|(with, without)| with - without));
            let programs = Spread::of(results.programs.iter().copied());
            let sides = if load.has_sides() {
                figure(more.median / 2.0, 0)
            } else {
                "-".to_owned()
            };
            [
                load.name.to_owned(),
                figure(without.median, 0),
                figure(with.median, 0),
                more.show(0),
                figure(
                    Spread::of(paired().map(|(with, without)| with / without)).median,
                    3,
                ),
                sides,
                programs.show(0),
                figure(more.median - programs.median, 0),
            ]
        }),
    );
}
