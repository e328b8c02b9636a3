//! Trouble from below: file systems of a test's own, failing system calls, too little memory.
//!
//! Not every machine lets a test make them. Where it does not, a test says so on standard error,
//! also when it passes, and fails where `CI` is set and it would have had the right.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::tail::LIMIT;
use super::{Shipper, run, shipper_binary, start, wait_for};

/// `CAP_SYS_ADMIN` and `CAP_SYS_PTRACE` in `CapEff` of `/proc/self/status`.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_PTRACE: u32 = 19;

/// Says that a test shows nothing here; fails where it should have.
pub fn left_out(what: &str, needs: u32) {
    // Not `eprintln!`, which the test harness keeps to itself.
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let line = format!("\nNOT TESTED here: {name}: {what}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!(in_ci && has_capability(needs)), "CI could have tested this: {what}");
}

fn has_capability(bit: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or("0");
    u64::from_str_radix(line.trim(), 16).unwrap_or(0) >> bit & 1 == 1
}

/// A mount namespace, alive as long as this is.
pub struct Namespace {
    holder: Child,
    in_user_namespace: bool,
}

impl Namespace {
    /// Makes one in which `mounts`, a shell command, has been run; says why not where it cannot.
    pub fn new(mounts: &str) -> Option<Namespace> {
        for in_user_namespace in [false, true] {
            let flags = if in_user_namespace { "-rm" } else { "-m" };
            let script = format!("{mounts} && echo ready && exec sleep 600");
            let mut command = Command::new("unshare");
            command.args([flags, "--propagation", "private", "sh", "-c", &script]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            let Ok(mut holder) = start(&mut command) else { continue };
            let mut ready = [0; 6];
            let stdout = holder.stdout.as_mut().expect("piped");
            if std::io::Read::read_exact(stdout, &mut ready).is_ok() {
                return Some(Namespace { holder, in_user_namespace });
            }
            let _ = holder.wait();
        }
        left_out("no mount namespace", CAP_SYS_ADMIN);
        None
    }

    /// Returns how a path inside is reached from outside.
    pub fn outside(&self, path: &Path) -> PathBuf {
        let root = format!("/proc/{}/root", self.holder.id());
        Path::new(&root).join(path.strip_prefix("/").expect("absolute"))
    }

    /// A command that runs inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "-m"]);
        if self.in_user_namespace {
            command.args(["-U", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }

    /// Runs a shell command inside, which must succeed.
    pub fn run(&self, script: &str) {
        let output = run(self.command("sh").args(["-c", script])).expect("nsenter runs");
        assert!(output.status.success(), "{script}: {output:?}");
    }

    /// Starts `shipper tail` inside.
    pub fn start(&self, config: &Path) -> Shipper {
        Shipper::spawn(self.command(shipper_binary()).arg("tail").arg("-c").arg(config))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// `strace`, attached to one thread of a shipper.
pub struct Strace {
    child: Child,
    output: PathBuf,
}

impl Strace {
    /// Attaches to the thread of this name, and does to its system calls on these files what
    /// `inject` says, in the words of `strace -e inject=`; says why not where it cannot.
    pub fn attach(
        shipper: &Shipper,
        thread: &str,
        files: &[PathBuf],
        inject: Option<&str>,
        output: &Path,
    ) -> Option<Strace> {
        let tid = thread_of(shipper.pid(), thread);
        let mut command = Command::new("strace");
        command.args(["-y", "-e", "trace=%file,%desc", "-p", &tid.to_string()]);
        command.arg("-o").arg(output);
        for file in files {
            command.arg("-P").arg(file);
        }
        if let Some(inject) = inject {
            command.args(["-e", &format!("inject={inject}")]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(mut child) = start(&mut command) else {
            left_out("no strace", CAP_SYS_PTRACE);
            return None;
        };
        let status = format!("/proc/{}/task/{tid}/status", shipper.pid());
        let is_traced = || {
            let status = fs::read_to_string(&status).unwrap_or_default();
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
            let is_traced = tracer.is_some_and(|tracer| tracer.trim() != "0");
            let has_ended = child.try_wait().expect("waited for").is_some();
            (is_traced || has_ended).then_some(is_traced)
        };
        if !wait_for(LIMIT, "tracer", is_traced, || shipper.log()) {
            left_out("strace may not attach", CAP_SYS_PTRACE);
            return None;
        }
        Some(Strace { child, output: output.into() })
    }

    /// What it has seen so far.
    pub fn seen(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Lets go of the thread, and returns what was seen.
    pub fn detach(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        // It may have ended with the process it traced.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        self.child.wait().expect("waited for");
        self.seen()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn thread_of(pid: u32, name: &str) -> u32 {
    let find = || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        threads.filter_map(Result::ok).find_map(|thread| {
            let comm = fs::read_to_string(thread.path().join("comm")).ok()?;
            (comm.trim() == name).then(|| thread.file_name().to_str()?.parse().ok())?
        })
    };
    wait_for(LIMIT, &format!("thread {name}"), find, String::new)
}

/// The system calls of a trace, each with its number among those of its name.
pub fn calls(trace: &str) -> Vec<(String, usize)> {
    let mut calls: Vec<(String, usize)> = Vec::new();
    for line in trace.lines() {
        let Some((name, _)) = line.split_once('(') else { continue };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            continue;
        }
        let nth = calls.iter().filter(|(other, _)| other == name).count() + 1;
        calls.push((name.into(), nth));
    }
    calls
}

/// A group of processes that together may use so much memory.
pub struct MemoryGroup {
    folder: PathBuf,
    limit: &'static str,
}

impl MemoryGroup {
    /// Makes one, by either version of control groups; says why not where it cannot.
    pub fn new(bytes: u64) -> Option<MemoryGroup> {
        static N_MADE: AtomicU32 = AtomicU32::new(0);
        let n = N_MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("shipper-test-{}-{n}", std::process::id());
        for (root, limit) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let folder = Path::new(root).join(&name);
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = MemoryGroup { folder, limit };
            if group.set_limit(bytes).is_ok() {
                return Some(group);
            }
        }
        left_out("no memory group can be made", CAP_SYS_ADMIN);
        None
    }

    /// Changes the limit.
    pub fn set_limit(&self, bytes: u64) -> std::io::Result<()> {
        fs::write(self.folder.join(self.limit), bytes.to_string())
    }

    /// Starts `shipper tail` inside.
    pub fn start(&self, config: &Path) -> Shipper {
        let procs = self.folder.join("cgroup.procs");
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$1\" && exec \"$2\" tail -c \"$3\"", "sh"]);
        Shipper::spawn(command.arg(procs).arg(shipper_binary()).arg(config))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Only an empty one can be removed, a moment after its last process has ended.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
