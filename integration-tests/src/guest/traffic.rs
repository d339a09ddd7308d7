//! Work for a guest's devices, timed inside the guest: reads and writes of a disk past the page cache, a stream and
//! questions by TCP.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// What direct I/O asks of memory.
const ALIGNMENT: usize = 4096;
/// What is sent by one call.
const CHUNK: usize = 64 << 10;
/// What is asked, and answered.
pub(crate) const QUESTION: usize = 64;

/// `count` requests of `size` bytes one after the other, from the start on or anywhere.
pub(crate) fn disk(path: &str, how: &str, size: usize, count: u64) -> Result<Value> {
    let (write, anywhere) = match how {
        "read" => (false, false),
        "write" => (true, false),
        "random-read" => (false, true),
        "random-write" => (true, true),
        _ => bail!("'{how}' is no way to use a disk"),
    };
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .with_context(|| path.to_owned())?;
    let name = path.rsplit('/').next().unwrap_or_default();
    let sectors: u64 = std::fs::read_to_string(format!("/sys/block/{name}/size"))?.trim().parse()?;
    let places = sectors * 512 / size as u64;
    ensure!(places > 0, "{path} is smaller than a request");
    let mut memory = vec![0x5au8; size + ALIGNMENT];
    let skip = memory.as_ptr().align_offset(ALIGNMENT);
    let buffer = memory.get_mut(skip..skip + size).context("a buffer")?;
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let began = Instant::now();
    for number in 0..count {
        let place = if anywhere { next(&mut random) % places } else { number % places };
        let offset = place * size as u64;
        if write { file.write_all_at(buffer, offset)? } else { file.read_exact_at(buffer, offset)? }
    }
    Ok(json!({ "seconds": began.elapsed().as_secs_f64() }))
}

/// Marsaglia's xorshift: the same places each time.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Sends `mib` MiB to `address` and waits for a byte that says that all came.
pub(crate) fn stream(address: &str, mib: usize) -> Result<Value> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"s")?;
    let chunk = vec![0x5au8; CHUNK];
    let began = Instant::now();
    for _ in 0..(mib << 20) / CHUNK {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    Ok(json!({ "seconds": began.elapsed().as_secs_f64() }))
}

/// Takes `mib` MiB from `address`.
pub(crate) fn take(address: &str, mib: u32) -> Result<Value> {
    let mut stream = TcpStream::connect(address)?;
    let mut chunk = vec![0; CHUNK];
    let began = Instant::now();
    stream.write_all(b"t")?;
    stream.write_all(&mib.to_le_bytes())?;
    let mut taken = 0;
    loop {
        match stream.read(&mut chunk)? {
            0 => break,
            bytes => taken += bytes as u64,
        }
    }
    ensure!(taken == u64::from(mib) << 20, "{taken} bytes came");
    Ok(json!({ "seconds": began.elapsed().as_secs_f64() }))
}

/// Asks `count` questions at `address`, one after the other.
pub(crate) fn questions(address: &str, count: u64) -> Result<Value> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.write_all(b"q")?;
    let mut bytes = [0u8; QUESTION];
    let began = Instant::now();
    for _ in 0..count {
        stream.write_all(&bytes)?;
        stream.read_exact(&mut bytes)?;
    }
    Ok(json!({ "seconds": began.elapsed().as_secs_f64() }))
}
