//! The `unprompt` binary: hosts the services and talks to them.

mod cli;
mod commands;
mod config;
mod context;
mod demo;
mod endpoints;
mod hosted;
mod image_result;
mod index_access;
mod output;
mod registry;
mod service_table;
mod services;
mod stack;

use std::process::ExitCode;

use clap::Parser;
use tikv_jemallocator::Jemalloc;

/// Responses over gRPC consist of thousands of small allocations, on which glibc's allocator spent
/// much more time.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    // tonic depends on ring and the broker on aws-lc-rs, so rustls cannot choose a provider itself.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("a TLS provider is already installed; using it");
    }
    let cli = cli::Cli::parse();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", unprompt_stream::printable::printable(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod testing;
