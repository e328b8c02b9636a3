//! The door: arguments, logger, signals, exit code.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use clap::Parser as _;
use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use log_shipper::cli::{
    Args, CheckpointCommand, Command, ConfigArg, EXIT_USAGE, acl, check, checkpoint, demo, explain,
    plain, status,
};
use log_shipper::config::{Config, Walk};
use log_shipper::error::Error;
use log_shipper::metrics::{IndexCounters, TailCounters};
use log_shipper::{index, tail};

fn main() -> ExitCode {
    abort_on_panic();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            // Nobody is left to tell if the output is closed.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let result = match args.command {
        Command::Acl(args) => return ExitCode::from(acl::run(&args)),
        Command::Check(arg) => return ExitCode::from(check::run(&arg.config)),
        Command::Demo(args) => demo::run(&args),
        Command::Tail(arg) => run_tail(&arg),
        Command::Index(arg) => run_index(&arg),
        Command::Checkpoint(command) => run_checkpoint(&command),
        Command::Explain(args) => return exit_code(explain::run(&args)),
        Command::Status(args) => return exit_code(status::run(&args)),
    };
    exit_code(result.map(|()| 0))
}

fn exit_code(result: Result<u8, Error>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let text: String = error.to_string().lines().map(plain).collect::<Vec<_>>().join("\n");
            let _ = writeln!(std::io::stderr(), "shipper: {text}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run_tail(arg: &ConfigArg) -> Result<(), Error> {
    let config = load(arg, Walk::Tail)?;
    // First of all: who reads in the log that it runs may already stop it.
    let stop = stop_on_signals()?;
    start_log(&config);
    let result = tail::run(&config, &TailCounters::default(), &stop);
    result.inspect_err(|error| say_remedies(error, &arg.config))
}

fn run_index(arg: &ConfigArg) -> Result<(), Error> {
    let config = load(arg, Walk::Index)?;
    // First of all: who reads in the log that it runs may already stop it.
    let stop = stop_on_signals()?;
    start_log(&config);
    index::run(&config, &Arc::new(IndexCounters::default()), &stop)
}

fn run_checkpoint(command: &CheckpointCommand) -> Result<(), Error> {
    start_logger("warn");
    checkpoint::run(command).inspect_err(|error| say_remedies(error, command.config()))
}

/// Logs the commands that lead out of a refused start, ready to be copied.
fn say_remedies(error: &Error, config: &Path) {
    checkpoint::remedies(error, config).lines().for_each(|line| log::error!("choose: {line}"));
}

fn load(arg: &ConfigArg, walk: Walk) -> Result<Config, Error> {
    let config = Config::load(&arg.config).and_then(|config| {
        config.require(walk, &arg.config)?;
        Ok(config)
    });
    config.map_err(|problems| Error::Config { problems: problems.to_string() })
}

/// A process with half its threads would look alive and do nothing: any panic ends it.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

/// Starts the log with what the configuration means.
fn start_log(config: &Config) {
    start_logger("info");
    log::info!("shipper {}", env!("CARGO_PKG_VERSION"));
    check::summary(config).lines().for_each(|line| log::info!("config: {line}"));
}

/// File names and answers of servers are data: no control character of them reaches a terminal.
fn start_logger(level: &str) {
    let filter = env_logger::Env::default().default_filter_or(level);
    without_secrets(&mut env_logger::Builder::from_env(filter))
        .format(|out, record| {
            let time = out.timestamp_seconds();
            writeln!(out, "{time} {:<5} {}", record.level(), plain(&record.args().to_string()))
        })
        .init();
}

/// Whatever RUST_LOG says: at `trace` ureq would show each byte of requests and answers, with
/// passwords for Elasticsearch, secrets of clients and tokens among them.
fn without_secrets(log: &mut env_logger::Builder) -> &mut env_logger::Builder {
    log.filter_module("ureq_proto::util", log::LevelFilter::Off)
}

/// Gives a message at the first SIGTERM or SIGINT; the second ends the process at once, which
/// loses nothing: restart is the tested path. SIGHUP, which ends a process that knows nothing of
/// it, is answered: the configuration is read at the start only.
fn stop_on_signals() -> Result<Receiver<()>, Error> {
    let start = |source| Error::Start { attempt: "listen for signals", source };
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(start)?;
    let (sender, stop) = bounded(1);
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let is_stop = |signal: &i32| {
                if *signal == SIGHUP {
                    log::warn!("SIGHUP: the configuration is read at the start only: restart");
                }
                *signal != SIGHUP
            };
            let mut signals = signals.forever().filter(is_stop);
            if let Some(signal) = signals.next() {
                log::info!("stopping: signal {signal}; once more to stop at once");
                // Full or unheard only if the walk has ended by itself.
                let _ = sender.try_send(());
            }
            if let Some(signal) = signals.next() {
                std::process::exit(128 + signal);
            }
        })
        .map_err(start)?;
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_filter_brings_what_goes_over_http_into_the_log() {
        let mut builder = env_logger::Builder::new();
        builder.parse_filters("trace,ureq_proto=trace,ureq_proto::util=trace");
        let log = without_secrets(&mut builder).build();
        let is_logged = |target| {
            let record = log::Record::builder().level(log::Level::Trace).target(target).build();
            log.matches(&record)
        };
        assert!(is_logged("log_shipper") && is_logged("ureq::run"));
        assert!(!is_logged("ureq_proto::util"));
    }
}
