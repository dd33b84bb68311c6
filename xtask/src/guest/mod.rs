//! Guests: emulated machines with another kernel, in which tests run as if on this one.
//!
//! A guest sees this machine's file system under the same paths, read-only over virtiofs below a writable layer that is
//! forgotten at the end: same programs, another kernel. One more directory is shared to be written on, for results. It is
//! root there and alone. Emulated (TCG): /dev/kvm may exist and yet not run these kernels. Kernels and emulator are those
//! that `.ci/kernels` has put into the cache.

mod command;
mod death;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

pub(crate) use command::Arguments;
pub(crate) use death::Death;

use crate::workspace::Workspace;

/// Where a guest sees the directory for results.
pub(crate) const RESULTS: &str = "/run/results";

/// To the guest's first process it takes 3 s, and 20 where six boot at once on two cores.
const BOOT_PATIENCE: Duration = Duration::from_mins(2);

/// The first process of a guest.
const INIT: &str = include_str!("init.sh");

/// An emulated machine.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// Series of its kernel, as the cache has it: `6.1`, or `7` for the newest.
    pub(crate) kernel: String,
    /// More for the kernel's command line.
    pub(crate) append: String,
    /// MiB.
    pub(crate) memory: u32,
    /// Its clocks count instructions, one for each nanosecond, so that its times are the same on any machine, however busy.
    /// One CPU; slower.
    pub(crate) counts: bool,
    /// From its boot to its end.
    pub(crate) patience: Duration,
    /// Of the emulator, see nice(1).
    pub(crate) niceness: u8,
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its job has ended.
    Finished {
        /// Of the kernel, as `uname -r` has it.
        release: String,
        /// Of the job.
        code: i32,
    },
    /// It had not come to its end in time.
    TimedOut,
    /// It died before that, or never came to its first process.
    Died(Death),
}

impl Guest {
    /// Of this series, as tests need it.
    pub(crate) fn new(kernel: &str) -> Self {
        Self {
            kernel: kernel.to_owned(),
            append: String::new(),
            memory: 1024,
            counts: false,
            patience: Duration::from_mins(10),
            niceness: 0,
        }
    }

    /// Boots it and runs `job`, a script for bash, in it. `results` is the directory that it may write to; each line of its
    /// console goes to `said`.
    pub(crate) fn run(
        &self,
        workspace: &Workspace,
        job: &str,
        results: &Path,
        said: &mut dyn FnMut(&str),
    ) -> Result<End> {
        let kernel = kernel_of(workspace, &self.kernel)?;
        let work = tempfile::tempdir().context("failed to make a temporary directory")?;
        let initramfs = work.path().join("initramfs");
        fs::write(&initramfs, initial_files(&kernel, work.path(), job)?)
            .context("failed to write the initramfs")?;
        let root_share = Share::start(work.path(), "host", Path::new("/"))?;
        let results_share = Share::start(work.path(), "results", results)?;
        let line = work.path().join("line");
        File::create(&line).context("failed to make the guest's second serial line")?;

        let mut emulator = self.emulator(workspace, &kernel, &initramfs, &line);
        for (number, share) in [&root_share, &results_share].into_iter().enumerate() {
            emulator
                .arg("-chardev")
                .arg(format!("socket,id=fs{number},path={}", share.socket.display()))
                .arg("-device")
                .arg(format!("vhost-user-fs-pci,chardev=fs{number},tag={}", share.tag));
        }
        let mut child = emulator
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("failed to run {}", emulator.get_program().display()))?;
        let console = child.stdout.take().context("the guest has no console")?;
        let mut text = String::new();
        let stopped = thread::scope(|scope| {
            let watch = scope.spawn(|| watch(&mut child, &line, self.patience));
            for bytes in BufReader::new(console)
                .split(b'\n')
                .map_while(std::io::Result::ok)
            {
                let bytes = String::from_utf8_lossy(&bytes);
                let words = bytes.trim_end_matches('\r');
                if !words.contains("reboot: Restarting system") {
                    said(words);
                    text.push_str(words);
                    text.push('\n');
                }
            }
            watch.join()
        });
        let stopped = stopped
            .map_err(|_panic| anyhow::anyhow!("the watch over the guest panicked"))?
            .context("failed to wait for the emulator")?;
        Ok(end_of(
            &fs::read_to_string(&line).unwrap_or_default(),
            &text,
            stopped,
        ))
    }

    fn emulator(&self, workspace: &Workspace, kernel: &Path, initramfs: &Path, line: &Path) -> Command {
        let mut command = Command::new("nice");
        command
            .args(["-n", &self.niceness.to_string()])
            // Ends with the thread that waits for it.
            .args(["setpriv", "--pdeathsig", "KILL", "--"]);
        let own = workspace.cache.join("qemu");
        let program = own.join("bin/qemu-system-x86_64");
        if program.is_file() {
            command
                .arg(program)
                .arg("-L")
                .arg(own.join("share"))
                .args(["-L", "/usr/share/seabios"]);
        } else {
            // Where Debian's backports are not to be had; its kernels die of `int3` now and then.
            command.arg("qemu-system-x86_64");
        }
        command.args(if self.counts {
            [
                "-accel",
                "tcg,thread=single",
                "-smp",
                "1",
                "-icount",
                "shift=0,sleep=off",
            ]
            .as_slice()
        } else {
            ["-accel", "tcg,thread=multi", "-smp", "2"].as_slice()
        });
        let memory = self.memory;
        command
            .args(["-cpu", "max", "-machine", "q35,memory-backend=memory"])
            .args(["-m", &memory.to_string(), "-object"])
            .arg(format!("memory-backend-memfd,id=memory,size={memory}M,share=on"))
            .args([
                "-display",
                "none",
                "-no-user-config",
                "-nodefaults",
                "-no-reboot",
                "-serial",
                "stdio",
            ])
            .arg("-serial")
            .arg(format!("file:{}", line.display()))
            .arg("-kernel")
            .arg(kernel.join("vmlinuz"))
            .arg("-initrd")
            .arg(initramfs)
            .arg("-append")
            // no_timer_check: on a busy machine the emulated timer fails that check, and the kernel panics.
            .arg(format!(
                "console=ttyS0 quiet panic=-1 no_timer_check test_kernel={} modules={} {}",
                self.kernel,
                kernel.join("lib/modules").display(),
                self.append
            ));
        command
    }
}

/// Series of all kernels in the cache, oldest first.
pub(crate) fn kernels(workspace: &Workspace) -> Result<Vec<String>> {
    let directory = workspace.cache.join("kernels");
    let mut found: Vec<String> = fs::read_dir(&directory)
        .with_context(|| {
            format!(
                "there are no kernels in {}: run .ci/setup test",
                directory.display()
            )
        })?
        .flatten()
        .filter(|entry| entry.path().join("pin").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    ensure!(
        !found.is_empty(),
        "no kernel is in {}: run .ci/setup test",
        directory.display()
    );
    found.sort_by_key(|series| version(series));
    Ok(found)
}

/// To sort by: `6.18` is newer than `6.2`.
fn version(series: &str) -> Vec<u32> {
    series
        .split('.')
        .map(|number| number.parse().unwrap_or(0))
        .collect()
}

fn kernel_of(workspace: &Workspace, series: &str) -> Result<PathBuf> {
    let directory = workspace.cache.join("kernels").join(series);
    ensure!(
        directory.join("pin").is_file(),
        "there is no kernel {series} in {}: run .ci/setup test",
        workspace.cache.display()
    );
    Ok(directory)
}

/// The kernel's own initramfs, and after it ours: kernels take archives one after the other.
fn initial_files(kernel: &Path, work: &Path, job: &str) -> Result<Vec<u8>> {
    let files = work.join("files");
    fs::create_dir(&files).context("failed to make a temporary directory")?;
    fs::write(files.join("init"), INIT).context("failed to write the guest's init")?;
    fs::write(files.join("job"), job).context("failed to write the guest's job")?;
    make_executable(&files.join("init"))?;
    let mut cpio = Command::new("cpio")
        .args(["--quiet", "--create", "--format=newc"])
        .current_dir(&files)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to run cpio: run .ci/setup test")?;
    cpio.stdin
        .take()
        .context("cpio takes no names")?
        .write_all(b"init\njob\n")
        .context("failed to tell cpio what to pack")?;
    let packed = cpio.wait_with_output().context("failed to wait for cpio")?;
    ensure!(packed.status.success(), "cpio failed ({})", packed.status);
    let mut archive = fs::read(kernel.join("initramfs.cpio"))
        .with_context(|| format!("{} has no initramfs", kernel.display()))?;
    archive.extend(packed.stdout);
    Ok(archive)
}

fn make_executable(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("failed to make {} executable", file.display()))
}

/// A directory that a guest sees.
struct Share {
    tag: &'static str,
    socket: PathBuf,
    daemon: Child,
}

impl Share {
    fn start(work: &Path, tag: &'static str, directory: &Path) -> Result<Self> {
        let socket = work.join(format!("{tag}.sock"));
        let log = File::create(work.join(format!("{tag}.log"))).context("failed to make a log")?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(virtiofsd())
            .arg(format!("--socket-path={}", socket.display()))
            // No limit to raise: that may be forbidden. No sandbox: the host's / as it is.
            .args([
                "--rlimit-nofile=0",
                "-o",
                "sandbox=chroot",
                "-o",
                "no_posix_lock",
                "-f",
            ])
            .arg("-o")
            .arg(format!("source={}", directory.display()))
            .args([
                "-o",
                if tag == "host" {
                    "cache=always"
                } else {
                    "cache=auto"
                },
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("one log for both streams")?)
            .stderr(log);
        let daemon = command
            .spawn()
            .context("failed to run virtiofsd: run .ci/setup test")?;
        let share = Self { tag, socket, daemon };
        // Whoever connects has used up the daemon's only connection: look at the file.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !share.socket.exists() {
            ensure!(
                Instant::now() < deadline,
                "virtiofsd does not come up: is it installed? run .ci/setup test"
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // It ends with the emulator anyway.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn virtiofsd() -> &'static str {
    // Debian's qemu-system-common has it outside of PATH.
    let packaged = "/usr/lib/qemu/virtiofsd";
    if Path::new(packaged).exists() {
        packaged
    } else {
        "virtiofsd"
    }
}

/// Why the emulator is no more.
#[derive(Clone, Copy, Debug)]
enum Stopped {
    /// By itself.
    Itself(ExitStatus),
    /// By us: the guest did not come to its first process.
    BootHangs,
    /// By us: out of time.
    TimedOut,
}

/// Waits for the emulator's end, and ends it when the guest hangs.
fn watch(child: &mut Child, line: &Path, patience: Duration) -> std::io::Result<Stopped> {
    let begin = Instant::now();
    let mut is_up = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Stopped::Itself(status));
        }
        is_up = is_up || fs::read_to_string(line).is_ok_and(|text| text.starts_with("up"));
        let over = if !is_up && begin.elapsed() > BOOT_PATIENCE {
            Some(Stopped::BootHangs)
        } else if begin.elapsed() > patience {
            Some(Stopped::TimedOut)
        } else {
            None
        };
        if let Some(stopped) = over {
            child.kill()?;
            child.wait()?;
            return Ok(stopped);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// What a guest's second serial line, its console and its emulator tell of its end. The line has `up` from the first process,
/// and `RELEASE CODE` as its last act.
fn end_of(line: &str, console: &str, stopped: Stopped) -> End {
    let last = line.lines().last().unwrap_or_default();
    if let Some((release, code)) = last.split_once(' ')
        && let Ok(code) = code.trim().parse()
    {
        return End::Finished {
            release: release.to_owned(),
            code,
        };
    }
    let is_up = line.starts_with("up");
    match stopped {
        Stopped::TimedOut if is_up => End::TimedOut,
        Stopped::BootHangs | Stopped::TimedOut => {
            End::Died(Death::NotBooted("it hangs before its first process".to_owned()))
        }
        Stopped::Itself(status) if !is_up => End::Died(Death::NotBooted(format!(
            "the emulator ended ({status}) before the guest's first process"
        ))),
        Stopped::Itself(status) => End::Died(death::cause(console, status)),
    }
}

/// A line for bash that sets a variable.
pub(crate) fn export(name: &str, value: &str) -> String {
    format!("export {name}={}\n", quote(value))
}

/// As one word of bash.
pub(crate) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn itself(code: i32) -> Stopped {
        Stopped::Itself(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn a_guest_that_has_said_its_code_has_finished() {
        let end = end_of("up\n6.1.0-56-cloud-amd64 101\r\n", "", itself(0));
        let expected = End::Finished {
            release: "6.1.0-56-cloud-amd64".to_owned(),
            code: 101,
        };
        assert_eq!(end, expected);
    }

    #[test]
    fn a_guest_that_never_was_up_has_not_booted() {
        assert!(matches!(
            end_of("", "", itself(1)),
            End::Died(Death::NotBooted(_))
        ));
        assert!(matches!(
            end_of("", "", Stopped::BootHangs),
            End::Died(Death::NotBooted(_))
        ));
    }

    #[test]
    fn a_guest_out_of_time_is_no_death() {
        assert_eq!(end_of("up\n", "", Stopped::TimedOut), End::TimedOut);
    }

    #[test]
    fn series_are_sorted_as_versions() {
        let mut series = ["7", "6.18", "5.10", "6.1", "6.12"];
        series.sort_by_key(|it| version(it));
        assert_eq!(series, ["5.10", "6.1", "6.12", "6.18", "7"]);
    }

    #[test]
    fn a_word_stays_one_word() {
        let word = "it's $HOME \"and\" `more`";
        let said = Command::new("bash")
            .args(["-c", &format!("printf %s {}", quote(word))])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(said.stdout).unwrap(), word);
    }
}
