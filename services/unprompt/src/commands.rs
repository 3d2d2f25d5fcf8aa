//! The commands, one module each. Each prints data on stdout and everything else on stderr.

mod dead_letters;
mod doctor;
pub mod evaluate;
mod export;
mod generate;
mod index;
mod models;
mod predict;
pub mod prompts;
pub mod publish;
mod query;
mod schemas;
mod serve;
mod status;
mod topics;
pub mod train;
mod up;

use clap::CommandFactory;
use tokio_util::sync::CancellationToken;
use unprompt_stream::telemetry;

use crate::cli::{Cli, Command};
use crate::config::defaults;
use crate::context::{Context, Hosting};
use crate::demo;
use crate::output;

/// Runs the command on its own runtime. Ctrl-C and SIGTERM ask it to stop.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    if let Command::Completions { shell } = &cli.command {
        clap_complete::generate(*shell, &mut Cli::command(), "unprompt", &mut std::io::stdout());
        return Ok(());
    }
    // Printed before a configuration is read, because a wrong one is a reason to look up the right
    // keys.
    if matches!(cli.command, Command::Config) {
        return output::line(defaults().trim_end());
    }
    let context = load(&cli)?;
    telemetry::init(&context.config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(dispatch(context, cli.command));
    // A blocking thread may still run a model. It holds nothing that is committed, so it can be
    // abandoned.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    done
}

/// Loads the configuration. Commands that do not serve log only warnings and progress, unless a
/// filter is given.
fn load(cli: &Cli) -> anyhow::Result<Context> {
    let hosting = match &cli.command {
        Command::Up(up) => Hosting::of(up),
        Command::Demo(demo) => Hosting::of(&demo.up),
        Command::Serve(serve) => {
            Hosting { http_port: serve.http_port, from: serve.from, ..Hosting::default() }
        }
        _ => Hosting::default(),
    };
    let mut context = Context::load(&cli.global, &hosting)?;
    let serves = matches!(cli.command, Command::Up(_) | Command::Serve(_));
    if !serves && cli.global.log.is_none() && std::env::var_os("UNPROMPT__LOG__FILTER").is_none() {
        context.config.log.filter = "warn,unprompt_jobs::progress=info".into();
    }
    Ok(context)
}

async fn dispatch(context: Context, command: Command) -> anyhow::Result<()> {
    let stop = stop_on_signal()?;
    match command {
        Command::Up(_) => up::run(&context, stop).await,
        Command::Demo(args) => demo::run(context, args, stop).await,
        Command::Serve(args) => serve::run(&context, args.service, stop).await,
        Command::Publish(args) => publish::run(&context, args, stop).await,
        Command::Predict(args) => predict::run(&context, args).await,
        Command::Query(args) => query::run(&context, args, stop).await,
        Command::Index(command) => index::run(&context, command, stop).await,
        Command::Prompts(command) => prompts::run(&context, command, stop).await,
        Command::Generate(args) => generate::run(&context, args, stop).await,
        Command::Models(command) => models::run(&context, command, stop).await,
        Command::Train(args) => train::run(&context, args).await,
        Command::Evaluate(args) => evaluate::run(&context, args).await,
        Command::Topics(command) => topics::run(&context, command, stop).await,
        Command::Status(args) => status::run(&context, args, stop).await,
        Command::DeadLetters(command) => dead_letters::run(&context, command, stop).await,
        Command::Schemas(command) => schemas::run(&context, command),
        Command::Doctor => doctor::run(&context).await,
        Command::Config | Command::Completions { .. } => Ok(()),
    }
}

/// Returns a token that the first Ctrl-C or SIGTERM cancels. A second one aborts the process.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        eprintln!("stopping: finishing work in flight; interrupt again to stop at once");
        stopping.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // Records that are not committed are processed again at the next start.
        std::process::abort();
    });
    Ok(stop)
}
