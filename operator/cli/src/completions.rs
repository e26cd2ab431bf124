//! `naru completions`: what a shell needs to know to complete command lines.

use std::io::Write;

use anyhow::Context;
use clap_complete::{Shell, generate};

use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  source <(naru completions bash)
  naru completions zsh > \"${fpath[1]}/_naru\"
  naru completions fish > ~/.config/fish/completions/naru.fish";

/// What `naru completions` is told.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Whose completions
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Writes them for `command`, to standard output.
pub(crate) fn run(arguments: &Arguments, mut command: clap::Command) -> Result<(), Failure> {
    let written = std::io::stdout().lock().write_all(&script(arguments.shell, &mut command));
    written.context("writing the completions").map_err(Failure::Failed)
}

fn script(shell: Shell, command: &mut clap::Command) -> Vec<u8> {
    let mut script = Vec::new();
    generate(shell, command, "naru", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_is_in_every_script() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut command = crate::Arguments::command();
            let script = String::from_utf8(script(shell, &mut command)).unwrap();
            for known in command.get_subcommands() {
                assert!(script.contains(known.get_name()), "{shell}: {}", known.get_name());
            }
            assert!(script.contains("all-namespaces"), "{shell}");
        }
    }
}
