//! What a person types; the subcommands, one file each.

pub mod acl;
pub mod check;
pub mod checkpoint;
pub mod demo;
pub mod explain;
pub mod status;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::tail::registry::Repair;

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
    /// Print the kafka-acls commands for what a configuration needs of the cluster
    #[command(after_help = "Example: shipper acl -c /etc/shipper/shipper.toml\n\n\
        Opens no connection. Whoever may change ACLs runs what it prints, most often with \
        --command-config.\n\
        Exit codes: 0 printed, 64 it cannot be known who we are, 78 wrong configuration.")]
    Acl(AclArgs),
    /// Say what would become of each event of a log: its fields, its route, its document
    #[command(after_help = "Examples:\n  shipper explain /var/log/kafka/server.log\n  \
        shipper explain -c /etc/shipper/shipper.toml --summary /var/log/kafka/*.log\n  \
        grep -h -A9 ERROR server.log | shipper explain --json\n\n\
        Opens no connection. Without -c the defaults hold: errors to the error topic, the rest to \
        Elasticsearch.\n\
        Exit codes: 0 each event is in a layout that is known, 1 some are not, 64 wrong usage, 74 a \
        file cannot be read, 78 wrong configuration.")]
    Explain(ExplainArgs),
    /// Say how the tail on this host is: its brokers, what is wrong, what waits
    #[command(after_help = "Example: shipper status --json | jq .kafka.troubles\n\n\
        Asks over status.sock in the state directory; whoever may write there may ask.\n\
        Exit codes: 0 all is well, 1 something is not, 69 no tail works there, 74 it does not \
        answer, 78 wrong configuration.")]
    Status(StatusArgs),
    /// Show, change or repair what is remembered of each file: how far it was shipped
    #[command(
        subcommand,
        after_help = "Examples:\n  shipper checkpoint list\n  \
        shipper checkpoint set /var/log/kafka/server.log --offset 0\n\n\
        Exit codes: 0 done, 64 wrong usage, 65 refused, 74 state directory cannot be used, 75 a \
        tail runs in it, 78 wrong configuration or damaged registry."
    )]
    Checkpoint(CheckpointCommand),
}

/// What `checkpoint` does.
#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// One row for each file that is known; also while a tail runs
    #[command(after_help = "Example: shipper checkpoint list --json | jq -r .[].name")]
    List {
        /// Where the state directory is
        #[command(flatten)]
        config: ConfigArg,
        /// Print all that is known, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Everything that is known of one file; also while a tail runs
    #[command(after_help = "Example: shipper checkpoint show /var/log/kafka/server.log")]
    Show {
        /// Its name, or the path it was written under
        path: PathBuf,
        /// Where the state directory is
        #[command(flatten)]
        config: ConfigArg,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Ship a file from this byte on; the tail must not run
    #[command(
        after_help = "Example: shipper checkpoint set /var/log/kafka/server.log --offset 0\n\n\
        The offset must be the beginning of a line, or the end of the file."
    )]
    Set {
        /// Its name now
        path: PathBuf,
        /// The first byte that is not shipped yet
        #[arg(long, value_name = "N")]
        offset: u64,
        /// Where the state directory is
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Forget a file, and ship it again from its first byte; the tail must not run
    #[command(after_help = "Example: shipper checkpoint forget /var/log/kafka/server.log.1")]
    Forget {
        /// Its name, or the path that it, and all its rotations, were written under
        path: PathBuf,
        /// Where the state directory is
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Make a registry usable that the tail refuses; keeps what was there
    #[command(after_help = "Example: shipper checkpoint repair --accept-prev\n\n\
        A registry in the backup of the state directory is better than any of these.")]
    Repair(RepairArgs),
}

impl CheckpointCommand {
    /// Returns the configuration file.
    pub fn config(&self) -> &Path {
        match self {
            CheckpointCommand::List { config, .. }
            | CheckpointCommand::Show { config, .. }
            | CheckpointCommand::Set { config, .. }
            | CheckpointCommand::Forget { config, .. }
            | CheckpointCommand::Repair(RepairArgs { config, .. }) => &config.config,
        }
    }
}

/// What `checkpoint repair` takes: exactly one way.
#[derive(Debug, clap::Args)]
#[group(id = "way", required = true, multiple = false, args = ["accept_prev", "from_start", "from_end", "adopt"])]
pub struct RepairArgs {
    /// Go on from the previous generation: what was shipped after it is shipped again
    #[arg(long)]
    pub accept_prev: bool,
    /// Forget everything: each file is shipped again from its first byte
    #[arg(long)]
    pub from_start: bool,
    /// Forget everything, and skip what the files hold now, shipped or not
    #[arg(long)]
    pub from_end: bool,
    /// Take over the registry of another host, which must ship these files no more
    #[arg(long)]
    pub adopt: bool,
    /// Where the state directory is
    #[command(flatten)]
    pub config: ConfigArg,
}

impl RepairArgs {
    /// Returns the one way that was chosen.
    pub fn choice(&self) -> Repair {
        match self {
            RepairArgs { accept_prev: true, .. } => Repair::AcceptPrev,
            RepairArgs { adopt: true, .. } => Repair::Adopt,
            RepairArgs { from_end: true, .. } => Repair::FromEnd,
            _ => Repair::FromStart,
        }
    }
}

/// `-c FILE`.
#[derive(Debug, clap::Args)]
pub struct ConfigArg {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = "/etc/shipper/shipper.toml")]
    pub config: PathBuf,
}

/// What `acl` takes.
#[derive(Debug, clap::Args)]
pub struct AclArgs {
    /// As whom the broker knows us, where the configuration does not tell
    #[arg(long, value_name = "User:NAME")]
    pub principal: Option<String>,
    /// Configuration file
    #[command(flatten)]
    pub config: ConfigArg,
}

/// What `status` takes.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Print all that is known, as JSON
    #[arg(long)]
    pub json: bool,
    /// Where the state directory is
    #[command(flatten)]
    pub config: ConfigArg,
}

/// What `explain` takes.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// Logs; `-`, or none, for the standard input
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Print one line of JSON for each event
    #[arg(long, conflicts_with = "summary")]
    pub json: bool,
    /// Print only how many events take which route
    #[arg(long)]
    pub summary: bool,
    /// Leave out events whose layout is known
    #[arg(long)]
    pub unknown: bool,
    /// The path that the log is taken for: it decides which input's rules hold
    #[arg(long)]
    pub path: Option<PathBuf>,
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
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

/// Makes control characters visible: names, and answers of servers, are data, and none of them
/// reaches a terminal.
pub fn plain(text: &str) -> String {
    let visible = |char: char| {
        let escape = char.is_control().then(|| char.escape_default());
        let plain = escape.is_none().then_some(char);
        escape.into_iter().flatten().chain(plain)
    };
    text.chars().flat_map(visible).collect()
}
