//! `numavisor run`: plans, then has it done, and turns the way it ended into a status.

use crate::args::RunArgs;
use crate::claims::ClaimsAt;
use crate::exit::{Failure, Status};
use crate::http::app::App;
use crate::http::server::Server;
use crate::http::socket::{Socket, SocketError, SocketSpec};
use crate::progress::PrefaultBar;
use crate::socket_cleanup;
use crate::start::{Audience, prepare};
use resources::VmSpec;
use std::process::ExitCode;
use vmm::SocketFileError;

/// Runs a VM to its end.
pub fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    let spec = args.vm.spec()?;
    vmm::block_terminal_stops().map_err(|error| Failure::new(Status::Host, error))?;
    let progress = PrefaultBar::for_terminal().map(|bar| Box::new(bar) as Box<dyn vmm::Progress>);
    let (claims, janitor) = (ClaimsAt::try_from(&args.claims)?, socket_cleanup::of_this_program());
    let shutdown_timeout = args.stop.timeout();
    let audience = Audience { progress, claims, janitor, shutdown_timeout, ..Audience::default() };
    match args.socket.spec() {
        Some(socket) => ended(&served(spec, audience, &socket)?),
        None => ended(&prepare(spec, audience)?.run()),
    }
}

/// Runs it, and answers HTTP meanwhile.
fn served(
    spec: VmSpec,
    audience: Audience,
    socket: &SocketSpec,
) -> Result<Result<vmm::Exit, vmm::Error>, Failure> {
    let socket = Socket::open(socket, &audience.janitor).map_err(refused)?;
    let app = App::new(audience.claims.clone(), audience.janitor.clone());
    let vm = prepare(spec.clone(), Audience { observer: Some(app.commands.observer()), ..audience })?;
    app.commands.adopt(spec, vm.handle());
    let server = Server::start(&app, socket)
        .map_err(|error| Failure::new(Status::Host, format_args!("--api-socket: {error}")))?;
    let result = vm.run();
    app.commands.ended(&result);
    drop(server);
    Ok(result)
}

/// Whose fault it is that there is no socket.
pub fn refused(error: SocketError) -> Failure {
    let status = match error {
        SocketError::File(SocketFileError::Host { .. } | SocketFileError::InTheMaking { .. }) => Status::Host,
        SocketError::File(SocketFileError::InUse(_) | SocketFileError::NotASocket(_))
        | SocketError::NoSuchGroup(_)
        | SocketError::NotPassed(_) => Status::Input,
    };
    Failure::new(status, error)
}

fn ended(result: &Result<vmm::Exit, vmm::Error>) -> Result<ExitCode, Failure> {
    match result {
        Ok(vmm::Exit::PowerOff | vmm::Exit::Quit) => Ok(Status::Done.into()),
        Ok(vmm::Exit::Reset) => Ok(Status::Reset.into()),
        Ok(vmm::Exit::Killed) => Ok(Status::Killed.into()),
        Ok(exit @ vmm::Exit::TripleFault { .. }) => {
            Err(Failure::new(Status::Crash, exit.crash().unwrap_or_default()))
        }
        Err(error) if error.is_input() => Err(Failure::input(error)),
        Err(error) => Err(Failure::new(Status::Host, error)),
    }
}
