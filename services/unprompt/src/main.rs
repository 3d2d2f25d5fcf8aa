//! The one binary: hosts the services, and talks to them.

mod answers;
mod cli;
mod commands;
mod config;
mod context;
mod demo;
mod endpoints;
mod hosted;
mod index_access;
mod output;
mod registry;
mod services;
mod stack;

use std::process::ExitCode;

use clap::Parser;
use tikv_jemallocator::Jemalloc;

/// Answers over gRPC are made of thousands of small pieces, which took glibc's allocator much longer.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    // tonic brings ring, the broker aws-lc-rs: rustls wants to be told which.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("a TLS provider is installed already; going on with it");
    }
    let cli = cli::Cli::parse();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod testing;
