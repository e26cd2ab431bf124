//! `naru status`: what serves, what waits and why, on one screen.

use std::io::{IsTerminal, Write, stdout};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use naru_controller::kubernetes::{
    Choice, ConnectError, Overview, Scope, Style, Way, connect_by, look, screen,
};
use naru_controller::wall_clock;
use tokio::time::sleep;

use crate::failure::{Failure, then_try};
use crate::signals::Signals;

/// Between two looks.
const WATCH: Duration = Duration::from_secs(2);
/// Clears a terminal, from its upper left corner.
const CLEAR: &str = "\x1b[H\x1b[2J";

const EXAMPLES: &str = "\
Examples:
  naru status                      what serves and what waits, in the namespace of the kubeconfig
  naru status -A --watch           in all namespaces, looked at again every two seconds
  naru status md/solar -n serving  one model deployment: conditions, replicas, scaling
  naru status -A -o json           for programs

Rights: to list modeldeployments, powerbudgets, statefulsets, pods and nodes (the ClusterRole
naru-viewer, and view for what runs). What may not be looked at is left out, with a line that says
so. RUNNING and WAITING are read from the replicas themselves, with the right to get pods/proxy.

Environment:
  KUBECONFIG  how to reach the API server (default: ~/.kube/config, then as the pod it runs in)
  NO_COLOR    no colours, when it is set to anything

Exit codes: 0 shown, whatever it says; 1 failed; 2 bad usage.";

/// What `naru status` is told.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// One model deployment: md/NAME, or NAME; default: all
    #[arg(value_name = "md/NAME", value_parser = deployment)]
    name: Option<String>,
    /// The namespace to look at; default: that of the kubeconfig's context
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Look at all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "name"])]
    all_namespaces: bool,
    /// How it is written
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
    /// Look again every two seconds, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// The kubeconfig; default: that of KUBECONFIG
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context in the kubeconfig; default: its current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// One screen for people
    Table,
    /// More columns, and nothing cut
    Wide,
    /// For programs
    Json,
    /// For programs, and people too
    Yaml,
}

/// Looks, once or until a signal.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting the runtime").map_err(Failure::Failed)?;
    runtime.block_on(async {
        let signals = Signals::new().context("listening for signals");
        let mut signals = signals.map_err(Failure::Failed)?;
        tokio::select! {
            result = show(arguments) => result,
            () = signals.next() => Ok(()),
        }
    })
}

async fn show(arguments: Arguments) -> Result<(), Failure> {
    let flags = arguments.flags();
    let choice = Choice { kubeconfig: arguments.kubeconfig, context: arguments.context };
    let way = connect_by(&choice).await.map_err(unreachable)?;
    let namespace = arguments.namespace.unwrap_or_else(|| way.namespace.clone());
    let scope = match arguments.name {
        _ if arguments.all_namespaces => Scope::Everywhere,
        Some(name) => Scope::One { namespace, name },
        None => Scope::Namespace(namespace),
    };
    let is_terminal = stdout().is_terminal();
    loop {
        let text = match looked(&way, &scope, &flags).await {
            Ok(overview) => written(&overview, &scope, arguments.output, is_terminal),
            // Whoever watches sees it come back.
            Err(error) if arguments.watch && is_terminal => format!("naru: {error:#}\n"),
            Err(error) => return Err(Failure::Failed(error)),
        };
        let clear = if arguments.watch && is_terminal { CLEAR } else { "" };
        let mut out = stdout().lock();
        if write!(out, "{clear}{text}").and_then(|()| out.flush()).is_err() {
            return Ok(()); // whoever read it has gone
        }
        drop(out);
        if !arguments.watch {
            return Ok(());
        }
        sleep(WATCH).await;
    }
}

impl Arguments {
    /// What leads kubectl to the same cluster.
    fn flags(&self) -> String {
        let file = self.kubeconfig.as_ref().map(|file| format!(" --kubeconfig {}", file.display()));
        let context = self.context.as_ref().map(|context| format!(" --context {context}"));
        file.into_iter().chain(context).collect()
    }
}

async fn looked(way: &Way, scope: &Scope, flags: &str) -> anyhow::Result<Overview> {
    look(&way.client, scope).await.map_err(|error| {
        let next = error.next(scope);
        let next = if next.starts_with("helm") { next } else { next + flags };
        let Way { server, from, .. } = way;
        then_try(anyhow!("{error} (asked {server}, by {from})"), &next)
    })
}

/// What to do about a cluster that cannot even be asked.
fn unreachable(error: ConnectError) -> Failure {
    let next = match &error {
        ConnectError::Kubeconfig { .. } => "kubectl config get-contexts",
        _ => "naru status --kubeconfig FILE",
    };
    Failure::BadUsage(then_try(error.into(), next))
}

fn written(overview: &Overview, scope: &Scope, output: Output, is_terminal: bool) -> String {
    let style = Style {
        width: if is_terminal { width() } else { None },
        has_colours: is_terminal && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty()),
        is_wide: output == Output::Wide,
    };
    match output {
        Output::Table | Output::Wide => screen(overview, scope, style, wall_clock()),
        Output::Json => overview.to_json(),
        Output::Yaml => format!("---\n{}", overview.to_yaml()),
    }
}

/// The width of the terminal that standard output is.
fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// A name, with or without its kind before it.
fn deployment(text: &str) -> Result<String, String> {
    let kinds = ["md", "modeldeployment", "modeldeployments"];
    let name = match text.split_once('/') {
        Some((kind, name)) if kinds.contains(&kind) => name,
        Some((kind, _)) => {
            return Err(format!("{kind} is not shown; a model deployment is md/NAME"));
        }
        None => text,
    };
    let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err("a name is of a-z 0-9 -".to_owned());
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(deployment("md/solar").as_deref(), Ok("solar"));
        assert_eq!(deployment("solar").as_deref(), Ok("solar"));
        let wrong = "pod is not shown; a model deployment is md/NAME";
        assert_eq!(deployment("pod/solar").unwrap_err(), wrong);
        assert!(deployment("md/").is_err() && deployment("md/a b").is_err());
    }
}
