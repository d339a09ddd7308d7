//! `numavisor serve`: serves HTTP until a signal; clients define and boot the VM. The first signal presses the power
//! button of a running VM, the second one kills everything; without a VM the first one ends the server.

use crate::args::ServeArgs;
use crate::claims::ClaimsAt;
use crate::commands::run::refused;
use crate::exit::{Failure, Status};
use crate::http::app::App;
use crate::http::command_queue::{CommandQueue, Standing};
use crate::http::server::Server;
use crate::http::socket::Socket;
use crate::socket_cleanup;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Serves until a signal.
pub fn run(args: &ServeArgs) -> Result<ExitCode, Failure> {
    vmm::block_terminal_stops().map_err(|error| Failure::new(Status::Host, error))?;
    let failed =
        |call: &str, error: std::io::Error| Failure::new(Status::Host, format_args!("{call}: {error}"));
    let signals = vmm::end_signals();
    // In all threads that are started from here on, so that only the one that waits for them gets them; and before anybody
    // can connect, who may take that for a sign that it is there to be ended.
    signals.thread_block().map_err(|error| failed("pthread_sigmask", error.into()))?;
    let (claims, cleanup) = (ClaimsAt::try_from(&args.claims)?, socket_cleanup::of_this_program());
    let socket = Socket::open(&args.socket.required()?, &cleanup).map_err(refused)?;
    let app = App::new(claims, cleanup, args.host.force_host);
    let server = Server::start(&app, socket).map_err(|error| failed("--api-socket", error))?;
    let asked = Arc::new(AtomicU32::new(0));
    let (commands, count, timeout) = (Arc::clone(&app.commands), Arc::clone(&asked), args.stop.timeout());
    let waiter = move || {
        while signals.wait().is_ok() {
            if count.fetch_add(1, Ordering::Relaxed) == 0 {
                press_power_button(&commands);
                timeout.iter().for_each(|timeout| end_after(*timeout, &commands, &count));
            }
            commands.wake();
        }
    };
    let spawned = std::thread::Builder::new().name("signals".to_owned()).spawn(waiter);
    spawned.map_err(|error| failed("clone", error))?;
    let done = wait(&app.commands, &asked);
    drop(server);
    Ok(done.into())
}

/// Does not wait for the VM: the next signal is to be heard whatever becomes of it.
fn press_power_button(commands: &Arc<CommandQueue>) {
    let commands = Arc::clone(commands);
    let press = move || {
        if commands.press_power_button() {
            tracing::info!("requesting guest power-off; a second signal kills the VM");
        }
    };
    if let Err(error) = std::thread::Builder::new().name("power-button".to_owned()).spawn(press) {
        tracing::error!(%error, "power button");
    }
}

/// As if a second signal came after a while.
fn end_after(timeout: Duration, commands: &Arc<CommandQueue>, asked: &Arc<AtomicU32>) {
    let (commands, asked) = (Arc::clone(commands), Arc::clone(asked));
    let end = move || {
        std::thread::sleep(timeout);
        asked.fetch_add(1, Ordering::Relaxed);
        commands.wake();
    };
    if let Err(error) = std::thread::Builder::new().name("shutdown-timeout".to_owned()).spawn(end) {
        tracing::error!(%error, "shutdown timeout");
    }
}

/// Waits until it is over.
fn wait(commands: &CommandQueue, asked: &AtomicU32) -> Status {
    commands.wait_until(|standing| match (asked.load(Ordering::Relaxed), standing) {
        (0, _) => None,
        (1, Standing::GuestMayAnswer) => None,
        (_, Standing::NoGuest) => Some(Status::Done),
        (_, Standing::GuestMayAnswer) => Some(Status::Killed),
    })
}
