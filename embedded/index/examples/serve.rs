//! Serves Qdrant's gRPC API over a folder until standard input ends, then stops cleanly.
//!
//! Usage: `serve <folder> [port]`. The first line of output is the address.

use std::io::{Read, Write};

use unprompt_embedded_index::EmbeddedIndex;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("usage: serve <folder> [port]")?;
    let port = args.next().map_or(Ok(0), |port| port.parse())?;
    let index = EmbeddedIndex::start(folder.as_ref(), port).await?;
    writeln!(std::io::stdout(), "{}", index.url())?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    index.stop().await?;
    Ok(())
}
