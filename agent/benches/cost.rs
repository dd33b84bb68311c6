//! What counting costs an application: nanoseconds that the programs take for each call, by the kernel's own run-time
//! statistics, with every hook that this machine allows.
//!
//! `make bench` runs it. Needs root, stays on the loopback interface, takes a minute, and judges nothing. A client and a
//! server, two threads that take turns, one call each for a request and a response. The client's calls are the
//! baseline: its connection has a verdict, so each costs the bare hook and one look-up. What the server's cost more is
//! the engine's share. Each round does every load once; of the rounds the median counts, and the range is shown.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement is there to be seen"
)]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::panic::resume_unwind;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use agent::bpf::{Hook, HookChoice, MapSizes, Probes, ProgramStatistics, measure_run_times};
use anyhow::{Context as _, Result};

/// Rounds, of which the median counts.
const ROUNDS: usize = 9;
/// Requests and responses of one load in one round.
const EXCHANGES: u32 = 5_000;

/// What goes over the connection, again and again.
struct Load {
    name: &'static str,
    request: Vec<u8>,
    response: Vec<u8>,
}

fn loads() -> [Load; 4] {
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
    let no_body = "Content-Length: 0\r\n";
    [
        Load {
            name: "no HTTP (500 and 250 bytes)",
            request: vec![b'{'; 500],
            response: vec![b'}'; 250],
        },
        Load {
            name: "first line and no more",
            request: b"GET /index.html HTTP/1.1\r\n\r\n".to_vec(),
            response: b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        },
        Load {
            name: "heads of 500 and 250 bytes",
            request: head("GET /index.html HTTP/1.1\r\n", 500),
            response: head(&format!("HTTP/1.1 200 OK\r\n{no_body}"), 250),
        },
        Load {
            name: "the same and bodies of 16 KiB",
            request: [
                head("POST /index.html HTTP/1.1\r\nContent-Length: 16384\r\n", 500),
                vec![b'x'; 16384],
            ]
            .concat(),
            response: [
                head("HTTP/1.1 200 OK\r\nContent-Length: 16384\r\n", 250),
                vec![b'x'; 16384],
            ]
            .concat(),
        },
    ]
}

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<()> {
    let _measuring = measure_run_times().context("the kernel does not measure its programs' run times")?;
    for hook in Hook::ALL {
        match Probes::attach(HookChoice::Only(hook), MapSizes::default()) {
            Ok(probes) => measure_hook(hook, &probes)?,
            Err(error) => println!("{hook}: not measured: {error}\n"),
        }
    }
    Ok(())
}

fn measure_hook(hook: Hook, probes: &Probes) -> Result<()> {
    let loads = loads();
    let mut results: Vec<Vec<f64>> = vec![Vec::new(); loads.len()];
    for _ in 0..ROUNDS {
        for (load, results) in loads.iter().zip(&mut results) {
            let before = programs(probes);
            exchange(load)?;
            let after = programs(probes);
            let total: Duration = after
                .iter()
                .map(|(name, now)| {
                    now.run_time
                        .saturating_sub(before.get(name).map_or(Duration::ZERO, |b| b.run_time))
                })
                .sum();
            results.push(total.as_secs_f64() * 1e9 / f64::from(EXCHANGES));
        }
    }
    println!(
        "{hook}: nanoseconds that all programs take for one request and its response, client and server together"
    );
    println!(
        "{:<32}{:>10}{:>18}{:>12}",
        "LOAD", "MEDIAN", "RANGE", "OF NO HTTP"
    );
    let mut baseline = None;
    for (load, results) in loads.iter().zip(&mut results) {
        results.sort_by(f64::total_cmp);
        let (low, median, high) = (results[0], results[ROUNDS / 2], results[ROUNDS - 1]);
        let baseline = *baseline.get_or_insert(median);
        println!(
            "{:<32}{median:>10.0}{:>18}{:>12.2}",
            load.name,
            format!("{low:.0} - {high:.0}"),
            median / baseline
        );
        if median > baseline {
            println!(
                "{:<32}{:>10.0}",
                "  the engine's, request and response",
                median - baseline
            );
        }
    }
    println!();
    Ok(())
}

fn programs(probes: &Probes) -> BTreeMap<String, ProgramStatistics> {
    probes
        .statistics()
        .map(|(name, statistics)| (name.to_owned(), statistics))
        .collect()
}

/// One connection, and on it so many requests and responses, each in one call.
fn exchange(load: &Load) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    thread::scope(|scope| {
        let serving = scope.spawn(move || -> Result<()> {
            let mut buffer = vec![0; load.request.len()];
            for _ in 0..EXCHANGES {
                server.read_exact(&mut buffer)?;
                server.write_all(&load.response)?;
            }
            Ok(())
        });
        let mut buffer = vec![0; load.response.len()];
        for _ in 0..EXCHANGES {
            client.write_all(&load.request)?;
            client.read_exact(&mut buffer)?;
        }
        serving.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
