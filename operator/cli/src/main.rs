//! The one control binary: it only wires.

mod bench;
mod completions;
mod entrance;
mod failure;
mod gateway;
mod key;
mod logs;
mod operator;
mod process;
mod setup;
mod signals;
mod status;
mod traces;
mod trust;
mod up;
mod weights;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::failure::Failure;

/// Something went wrong while running.
const FAILED: u8 = 1;
/// Bad usage or bad configuration; clap uses the same number.
const BAD_USAGE: u8 = 2;

/// naru serves large language models to many tenants from one pool of machines.
#[derive(Parser)]
#[command(name = "naru", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve what YAML files describe, on this machine, until Ctrl-C or SIGTERM
    Up(up::Arguments),
    /// Run the control loop of a Kubernetes cluster, until SIGTERM
    Operator(operator::Arguments),
    /// Serve the OpenAI API for a fleet, following an operator
    Gateway(gateway::Arguments),
    /// Show what a Kubernetes cluster serves, what waits and why
    Status(status::Arguments),
    /// Make keys for tenants
    Key(key::Arguments),
    /// Measure this machine
    Bench(bench::Arguments),
    /// Print the custom resource definitions, ready for `kubectl apply -f -`
    Crds,
    /// Print completions for a shell
    Completions(completions::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Up(arguments) => up::run(arguments),
        Command::Operator(arguments) => operator::run(&arguments),
        Command::Gateway(arguments) => gateway::run(arguments),
        Command::Status(arguments) => status::run(arguments),
        Command::Key(arguments) => key::run(arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments, Arguments::command()),
        Command::Crds => print_crds().map_err(Failure::Failed),
    };
    let (code, error) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::BadUsage(error)) => (BAD_USAGE, error),
        Err(Failure::Failed(error)) => (FAILED, error),
    };
    // Whoever started naru reads this line, whatever the logs are set to.
    let _ = writeln!(std::io::stderr(), "naru: {error:#}");
    ExitCode::from(code)
}

fn print_crds() -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    for crd in naru_api::crds() {
        write!(stdout, "---\n{}", naru_api::to_yaml(&crd))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
