//! `numavisor run`: plans and runs a VM, and maps the way it ended to an exit status.

use crate::args::RunArgs;
use crate::claims::ClaimsAt;
use crate::exit::{Failure, Status};
use crate::http::app::App;
use crate::http::server::Server;
use crate::http::socket::{Socket, SocketError, SocketSpec};
use crate::progress::PrefaultBar;
use crate::socket_cleanup;
use crate::start::{StartOptions, prepare};
use resources::{Diagnosis, ErrorKind, VmSpec};
use std::process::ExitCode;

/// Runs a VM to its end.
pub fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    let spec = args.vm.spec()?;
    vmm::block_terminal_stops().map_err(|error| Failure::new(Status::Host, error))?;
    let progress = PrefaultBar::for_terminal().map(|bar| Box::new(bar) as Box<dyn vmm::Progress>);
    let (claims, cleanup) = (ClaimsAt::try_from(&args.claims)?, socket_cleanup::of_this_program());
    let (shutdown_timeout, force_host) = (args.stop.timeout(), args.host.force_host);
    let options =
        StartOptions { progress, claims, cleanup, shutdown_timeout, force_host, ..StartOptions::default() };
    match args.socket.spec() {
        Some(socket) => ended(&served(spec, options, &socket)?),
        None => ended(&prepare(spec, options)?.run()),
    }
}

/// Runs it, and answers HTTP meanwhile.
fn served(
    spec: VmSpec,
    options: StartOptions,
    socket: &SocketSpec,
) -> Result<Result<vmm::Exit, vmm::Error>, Failure> {
    let socket = Socket::open(socket, &options.cleanup).map_err(refused)?;
    let app = App::new(options.claims.clone(), options.cleanup.clone(), options.force_host);
    let vm = prepare(spec.clone(), StartOptions { observer: Some(app.commands.observer()), ..options })?;
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
    let found = match &error {
        SocketError::File(error) => error.diagnosis().at("--api-socket"),
        SocketError::NoSuchGroup(_) => {
            Diagnosis::new(ErrorKind::Invalid, "no_such_group").at("--api-socket-group")
        }
        SocketError::NotPassed(_) => {
            Diagnosis::new(ErrorKind::Invalid, "socket_not_passed").at("--api-socket")
        }
    };
    Failure::of(found, error)
}

fn ended(result: &Result<vmm::Exit, vmm::Error>) -> Result<ExitCode, Failure> {
    match result {
        Ok(vmm::Exit::PowerOff | vmm::Exit::Quit) => Ok(Status::Done.into()),
        Ok(vmm::Exit::Reset) => Ok(Status::Reset.into()),
        Ok(vmm::Exit::Killed) => Ok(Status::Killed.into()),
        Ok(exit @ vmm::Exit::TripleFault { .. }) => {
            Err(Failure::new(Status::Crash, exit.crash().unwrap_or_default()))
        }
        Err(error) => Err(Failure::of(error.diagnosis(), error)),
    }
}
