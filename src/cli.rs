//! What a person types; the subcommands, one file each.

pub mod check;
pub mod demo;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// `EX_USAGE` of sysexits(3).
pub const EXIT_USAGE: u8 = 64;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "shipper",
    version,
    about = "Ships a Kafka broker's logs to a topic, and the topic to Elasticsearch, without losing \
             a line",
    after_help = "Try `shipper demo` first: it needs no server and no configuration.",
    max_term_width = 100
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Follow log files and ship their events to a Kafka topic
    #[command(after_help = "Example: shipper tail -c /etc/shipper/shipper.toml\n\n\
        Runs until SIGTERM or SIGINT, then waits for what is under way (tail.shutdown_timeout); \
        a second signal stops at once.\n\
        Exit codes: 0 stopped and all of it acknowledged, 1 failed, 64 wrong usage, 74 state \
        directory cannot be used, 75 another shipper works in it, 78 wrong configuration or \
        damaged registry.")]
    Tail(ConfigArg),
    /// Consume the topic: errors to the error topic, the rest to Elasticsearch or an archive
    #[command(after_help = "Example: shipper index -c /etc/shipper/shipper.toml\n\n\
        Runs until SIGTERM or SIGINT, then waits for what is under way (index.shutdown_timeout); \
        a second signal stops at once.\n\
        Exit codes: 0 stopped and all of it settled, 1 failed, 64 wrong usage, 74 state directory \
        cannot be used, 78 wrong configuration.")]
    Index(ConfigArg),
    /// Show both walks at work, against a broker inside this process
    #[command(
        after_help = "Examples:\n  shipper demo\n  shipper demo /var/log/kafka/server.log*\n\n\
        Without files it writes a broker's log while it runs and rotates it as Kafka does. \
        Documents go to local files in a temporary folder.\n\
        Exit codes: 0 all counts reconcile, 1 they do not."
    )]
    Demo(DemoArgs),
    /// Say everything that is wrong with a configuration, and what a right one means
    #[command(after_help = "Example: shipper check -c /etc/shipper/shipper.toml\n\n\
        Opens no connection and writes nothing.\nExit codes: 0 right, 78 wrong.")]
    Check(ConfigArg),
}

/// `-c FILE`.
#[derive(Debug, clap::Args)]
pub struct ConfigArg {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = "/etc/shipper/shipper.toml")]
    pub config: PathBuf,
}

/// What `demo` takes.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Log files to ship in place of a written one
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Keep the temporary folder, and say where it is
    #[arg(long)]
    pub keep: bool,
}
