//! How the processes of a group agree on a secret before they can talk: process 0 hands it out over TCP.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

/// How long to wait for the others.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// What a process says before its number.
const HELLO: [u8; 4] = *b"bttt";

/// Gives every process of a group what `own` makes in process 0, which listens at `address` for the others.
///
/// # Errors
/// The address cannot be used, or the others do not come within two minutes.
pub fn share<const N: usize>(
    address: &str,
    (rank, size): (usize, usize),
    own: impl FnOnce() -> anyhow::Result<[u8; N]>,
) -> anyhow::Result<[u8; N]> {
    let deadline = Instant::now() + PATIENCE;
    if rank == 0 {
        let secret = own()?;
        hand_out(address, size, &secret, deadline)?;
        return Ok(secret);
    }
    loop {
        match ask(address, rank, deadline) {
            Ok(secret) => return Ok(secret),
            Err(fault) if Instant::now() >= deadline => {
                return Err(fault)
                    .with_context(|| format!("process 0 does not answer at {address}"));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn hand_out(address: &str, size: usize, secret: &[u8], deadline: Instant) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .with_context(|| format!("cannot listen at {address} (MASTER_ADDR, MASTER_PORT)"))?;
    listener.set_nonblocking(true)?;
    let mut served = BTreeSet::new();
    while served.len() + 1 < size {
        ensure!(
            Instant::now() < deadline,
            "{} of {size} processes came to {address} within {} seconds; launch all of them",
            served.len() + 1,
            PATIENCE.as_secs()
        );
        match listener.accept() {
            // Somebody else, or a process that died: the next one.
            Ok((stream, _)) => served.extend(serve(stream, size, secret).ok()),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
    Ok(())
}

/// The number of the process that was served.
fn serve(mut stream: TcpStream, size: usize, secret: &[u8]) -> anyhow::Result<usize> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut hello = [0; 8];
    stream.read_exact(&mut hello)?;
    let (word, rank) = hello.split_at(4);
    let rank = u32::from_le_bytes(rank.try_into()?) as usize;
    ensure!(word == HELLO && (1..size).contains(&rank), "not one of us");
    stream.write_all(secret)?;
    Ok(rank)
}

fn ask<const N: usize>(address: &str, rank: usize, deadline: Instant) -> anyhow::Result<[u8; N]> {
    let mut stream = TcpStream::connect(address)?;
    let left = deadline.saturating_duration_since(Instant::now());
    stream.set_read_timeout(Some(left.max(PAUSE)))?;
    stream.write_all(&HELLO)?;
    stream.write_all(&(rank as u32).to_le_bytes())?;
    let mut secret = [0; N];
    stream.read_exact(&mut secret)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_process_gets_what_process_0_has_and_strangers_get_nothing() {
        // A port that was free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let secrets: Vec<[u8; 3]> = std::thread::scope(|scope| {
            let start = |rank| {
                let address = &address;
                scope.spawn(move || share(address, (rank, 3), || Ok([7, 8, 9])).unwrap())
            };
            let first = start(0);
            let mut stranger = loop {
                if let Ok(stream) = TcpStream::connect(&address) {
                    break stream;
                }
            };
            stranger.write_all(b"GET / HTTP/1.1\r\n").unwrap();
            let mut got = Vec::new();
            let _ = stranger.read_to_end(&mut got);
            assert!(got.is_empty());
            let others = [start(1), start(2)];
            let all = [first].into_iter().chain(others);
            all.map(|process| process.join().unwrap()).collect()
        });
        assert_eq!(secrets, [[7, 8, 9]; 3]);
    }
}
