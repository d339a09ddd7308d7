//! The serial port's thread with a UART and readers of all kinds, without a guest.

use super::{SerialLink, SerialPort};
use crate::inbox::{Inbox, Notifier};
use crate::serial::input::Input;
use crate::serial::stream::Stream;
use devices::{BusDevice, InterruptError, InterruptLine, Serial};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex};

const DATA: u64 = 0;
const LINE_STATUS: u64 = 5;

struct NoLine;

impl InterruptLine for NoLine {
    fn trigger(&self) -> Result<(), InterruptError> {
        Ok(())
    }
}

struct Bench {
    port: SerialPort,
    serial: Arc<Mutex<Serial>>,
    _inbox: Inbox,
    notifier: Notifier,
}

impl Bench {
    fn new(output: Stream, input: Option<Input>) -> Self {
        let port = SerialPort::serve(output, input, Arc::default()).unwrap();
        let link: &Arc<SerialLink> = port.link();
        let host = Arc::clone(link);
        let serial = Serial::new(Arc::new(NoLine), link.sink(), host, Arc::default());
        let serial = Arc::new(Mutex::new(serial));
        let (_inbox, notifier) = Inbox::new().unwrap();
        link.connect(Arc::clone(&serial), notifier.clone());
        Self { port, serial, _inbox, notifier }
    }
}

fn print(serial: &Mutex<Serial>, text: &[u8]) {
    text.iter().for_each(|byte| serial.lock().unwrap().write(DATA, &[*byte]));
}

fn register(serial: &Mutex<Serial>, offset: u64) -> u8 {
    let mut data = [0];
    serial.lock().unwrap().read(offset, &mut data);
    data[0]
}

#[test]
fn a_line_is_about_one_write_and_nothing_is_lost() {
    let (reader, writer) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty()).unwrap();
    let bench = Bench::new(Stream::output(writer.as_fd()).unwrap(), None);
    let line = [&[b'l'; 59][..], b"\n"].concat();
    (0..100).for_each(|_| print(&bench.serial, &line));
    drop((bench, writer));
    let (mut writes, mut text) = (0, Vec::new());
    loop {
        let mut bytes = [0; 8192];
        match recv(reader.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap() {
            0 => break,
            count => text.extend_from_slice(&bytes[..count]),
        }
        writes += 1;
    }
    assert_eq!(text, line.repeat(100));
    assert!(writes <= 150, "{writes} writes of 100 lines");
}

#[test]
fn a_prompt_shows_though_its_line_does_not_end() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let bench = Bench::new(Stream::output(writer.as_fd()).unwrap(), None);
    print(&bench.serial, b"login: ");
    let mut shown = [0; 7];
    reader.read_exact(&mut shown).unwrap();
    assert_eq!(&shown, b"login: ");
}

#[test]
fn a_vcpu_that_waits_for_a_reader_goes_on_when_the_reader_does_or_the_guest_ends() {
    for reads in [true, false] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let output = Stream::output(writer.as_fd()).unwrap();
        let bench = Bench::new(output, None);
        let serial = Arc::clone(&bench.serial);
        // More than the pipe and what waits here hold.
        let line = [&[b'l'; 99][..], b"\n"].concat();
        let text = line.repeat(3000);
        let printed = text.clone();
        let vcpu = std::thread::spawn(move || print(&serial, &printed));
        // It has the port, and keeps it.
        while bench.port.link.backlog.has_room() {
            std::thread::yield_now();
        }
        drop(writer);
        if reads {
            let seen = std::thread::spawn(move || {
                let mut seen = Vec::new();
                reader.read_to_end(&mut seen).unwrap();
                seen
            });
            vcpu.join().unwrap();
            drop(bench);
            assert_eq!(seen.join().unwrap(), text);
        } else {
            bench.port.link().disconnect();
            vcpu.join().unwrap();
            // The reader still does not read, and the port ends.
            drop(bench);
        }
    }
}

#[test]
fn a_reader_that_is_gone_costs_the_output_and_nothing_else() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let bench = Bench::new(Stream::output(writer.as_fd()).unwrap(), None);
    print(&bench.serial, &b"nobody reads this line\n".repeat(10_000));
    let _ = bench.notifier;
}

#[test]
fn all_of_what_is_typed_reaches_the_guest() {
    let (typed, mut keys) = std::io::pipe().unwrap();
    let (_reader, writer) = std::io::pipe().unwrap();
    keys.write_all(&(0..6000).map(|n: u32| n.to_le_bytes()[0]).collect::<Vec<u8>>()).unwrap();
    let input = Input::of(Stream::input(typed.as_fd()).unwrap());
    let bench = Bench::new(Stream::output(writer.as_fd()).unwrap(), Some(input));
    for n in 0..6000_u32 {
        while register(&bench.serial, LINE_STATUS) & 1 == 0 {
            std::thread::yield_now();
        }
        assert_eq!(register(&bench.serial, DATA), n.to_le_bytes()[0]);
    }
    // More comes, and then the end of it.
    keys.write_all(b"x").unwrap();
    while register(&bench.serial, LINE_STATUS) & 1 == 0 {
        std::thread::yield_now();
    }
    assert_eq!(register(&bench.serial, DATA), b'x');
}
