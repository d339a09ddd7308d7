//! Tests of the threads of device workers.

use super::{NodeSpawner, Watched};
use devices::pci::WorkerSpawner;
use devices::virtio::{Interest, QueuePosition, Rest, Source, SourceChange, Worker};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::EpollEvent;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

struct Echo {
    kick: EventFd,
    heard: mpsc::Sender<&'static str>,
}

impl Worker for Echo {
    fn sources(&self) -> Vec<Source> {
        vec![Source { fd: self.kick.as_raw_fd(), token: 7, interest: Interest::Readable }]
    }

    fn start(&mut self) {
        self.heard.send("start").unwrap();
    }

    fn moved(&mut self) {
        self.heard.send("moved").unwrap();
    }

    fn ready(&mut self, token: u32) -> bool {
        assert_eq!((token, self.kick.read().unwrap()), (7, 1));
        self.heard.send("ready").unwrap();
        true
    }

    fn stop(&mut self, _: &AtomicBool) {
        self.heard.send("stop").unwrap();
    }

    fn positions(&self) -> Vec<(u16, QueuePosition)> {
        Vec::new()
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

/// Rests a few times after each kick, and then sleeps.
struct Lazy {
    kick: EventFd,
    rests: u32,
    rest: Rest,
    heard: mpsc::Sender<&'static str>,
}

impl Worker for Lazy {
    fn sources(&self) -> Vec<Source> {
        vec![Source { fd: self.kick.as_raw_fd(), token: 7, interest: Interest::Kick }]
    }

    fn ready(&mut self, _: u32) -> bool {
        self.rests = 2;
        self.heard.send("ready").unwrap();
        false
    }

    fn rest(&self, _: Instant) -> Option<Rest> {
        (self.rests > 0).then_some(self.rest)
    }

    fn look(&mut self, _: Instant) -> bool {
        self.rests = self.rests.saturating_sub(1);
        self.heard.send("look").unwrap();
        false
    }

    fn positions(&self) -> Vec<(u16, QueuePosition)> {
        Vec::new()
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

#[test]
fn a_worker_that_is_held_serves_nothing_and_goes_on_or_ends() {
    let kick = EventFd::new(EFD_NONBLOCK).unwrap();
    let (heard, hears) = mpsc::channel();
    let worker = |kick: &EventFd| Box::new(Echo { kick: kick.try_clone().unwrap(), heard: heard.clone() });
    let spawner = NodeSpawner::new("0".parse().unwrap());
    let held = || {
        spawner.hold();
        while spawner.active() > 0 {
            std::thread::yield_now();
        }
    };
    let handle = spawner.spawn("held", worker(&kick), Box::new(|_| ())).unwrap();
    assert_eq!(hears.recv(), Ok("start"));
    assert_eq!(spawner.active(), 1);
    for _ in 0..3 {
        held();
        assert_eq!(hears.recv(), Ok("stop"));
        kick.write(1).unwrap();
        assert!(hears.recv_timeout(Duration::from_millis(20)).is_err(), "a kick waits");
        spawner.go_on();
        assert_eq!([(); 2].map(|()| hears.recv().unwrap()), ["start", "ready"]);
    }
    held();
    let late = spawner.spawn("late", worker(&kick), Box::new(|_| ())).unwrap();
    assert!(handle.stop().is_some() && late.stop().is_some());
    assert_eq!(hears.try_iter().collect::<Vec<_>>(), ["stop"], "the late one never started");
}

#[test]
fn a_worker_that_rests_looks_by_itself_and_sleeps_when_it_does_not() {
    let kick = EventFd::new(EFD_NONBLOCK).unwrap();
    let (heard, hears) = mpsc::channel();
    let rest = Rest { time: Duration::from_micros(10), alone: true };
    let worker = Box::new(Lazy { kick: kick.try_clone().unwrap(), rests: 1, rest, heard });
    let handle = NodeSpawner::new("0".parse().unwrap()).spawn("lazy", worker, Box::new(|_| ())).unwrap();
    assert_eq!(hears.recv(), Ok("look"));
    kick.write(1).unwrap();
    assert_eq!([(); 3].map(|()| hears.recv().unwrap()), ["ready", "look", "look"]);
    assert!(handle.stop().is_some());
    assert!(hears.recv().is_err(), "it slept");
}

#[test]
fn a_rest_holds_up_neither_other_sources_nor_a_stop() {
    for alone in [false, true] {
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        let (heard, hears) = mpsc::channel();
        let rest = Rest { time: Duration::from_secs(3600), alone };
        let worker = Box::new(Lazy { kick: kick.try_clone().unwrap(), rests: 1, rest, heard });
        let spawner = NodeSpawner::new("0".parse().unwrap());
        let handle = spawner.spawn("lazy", worker, Box::new(|_| ())).unwrap();
        if !alone {
            kick.write(1).unwrap();
            assert_eq!(hears.recv(), Ok("ready"));
        }
        assert!(handle.stop().is_some());
    }
}

fn source(event: &EventFd, token: u32, interest: Interest) -> Source {
    Source { fd: event.as_raw_fd(), token, interest }
}

/// Tokens of the sources that are ready.
fn ready(watched: &Watched) -> Vec<u64> {
    let mut events = [EpollEvent::default(); 4];
    let count = watched.epoll.wait(0, &mut events).unwrap();
    let mut tokens: Vec<u64> = events[..count].iter().map(|event| event.data()).collect();
    tokens.sort_unstable();
    tokens
}

#[test]
fn what_is_watched_follows_what_is_wanted() {
    let [a, b] = [(); 2].map(|()| EventFd::new(EFD_NONBLOCK).unwrap());
    let mut watched = Watched::new().unwrap();
    a.write(1).unwrap();
    watched.replace(&[source(&a, 1, Interest::Readable), source(&b, 2, Interest::Readable)]).unwrap();
    assert_eq!(ready(&watched), [1]);
    watched.replace(&[source(&a, 1, Interest::Readable), source(&b, 2, Interest::Both)]).unwrap();
    assert_eq!(ready(&watched), [1, 2]);
    watched.replace(&[source(&b, 2, Interest::Writable)]).unwrap();
    assert_eq!(ready(&watched), [2]);
    // Mostly gets the same number again.
    drop(b);
    let c = EventFd::new(EFD_NONBLOCK).unwrap();
    watched.replace(&[source(&c, 3, Interest::Writable)]).unwrap();
    assert_eq!(ready(&watched), [3]);
}

#[test]
fn a_change_of_one_source_is_one_call_however_many_there_are() {
    let events: Vec<EventFd> = (0..300).map(|_| EventFd::new(EFD_NONBLOCK).unwrap()).collect();
    let wanted: Vec<Source> =
        (0..).zip(&events).map(|(token, event)| source(event, token, Interest::Readable)).collect();
    let mut watched = Watched::new().unwrap();
    watched.replace(&wanted).unwrap();
    let mut calls = |change| {
        let before = watched.calls;
        watched.change(change).unwrap();
        (watched.calls - before, ready(&watched))
    };
    let seventh = source(&events[7], 7, Interest::Writable);
    assert_eq!(calls(SourceChange::Set(seventh)), (1, vec![7]));
    assert_eq!(calls(SourceChange::Set(seventh)), (0, vec![7]), "it was so already");
    // Of a source that had this number before.
    let (fd, token) = (seventh.fd, 1000);
    assert_eq!(calls(SourceChange::Removed { fd, token }), (0, vec![7]));
    assert_eq!(calls(SourceChange::Removed { fd, token: 7 }), (1, vec![]));
    assert_eq!(calls(SourceChange::Removed { fd, token: 7 }), (0, vec![]));
}

#[test]
fn a_descriptor_that_was_closed_and_came_again_is_watched_for_the_new_one() {
    let mut watched = Watched::new().unwrap();
    let a = EventFd::new(EFD_NONBLOCK).unwrap();
    watched.change(SourceChange::Set(source(&a, 1, Interest::Writable))).unwrap();
    let fd = a.as_raw_fd();
    drop(a);
    let b = EventFd::new(EFD_NONBLOCK).unwrap();
    watched.change(SourceChange::Removed { fd, token: 1 }).unwrap();
    watched.change(SourceChange::Set(source(&b, 2, Interest::Writable))).unwrap();
    assert_eq!(ready(&watched), [2]);
}

/// Has requests in flight that end when the test says so.
struct Slow {
    heard: mpsc::Sender<&'static str>,
    end: mpsc::Receiver<()>,
}

impl Worker for Slow {
    fn sources(&self) -> Vec<Source> {
        Vec::new()
    }

    fn start(&mut self) {
        self.heard.send("start").unwrap();
    }

    fn ready(&mut self, _: u32) -> bool {
        false
    }

    fn stop(&mut self, cancelled: &AtomicBool) {
        self.heard.send("stop").unwrap();
        while !cancelled.load(Ordering::Acquire) && self.end.try_recv().is_err() {
            std::thread::yield_now();
        }
    }

    fn positions(&self) -> Vec<(u16, QueuePosition)> {
        Vec::new()
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

#[test]
fn a_worker_whose_requests_do_not_end_goes_on_or_is_cancelled() {
    let (heard, hears) = mpsc::channel();
    let (ends, end) = mpsc::channel();
    let spawner = NodeSpawner::new("0".parse().unwrap());
    let handle = spawner.spawn("slow", Box::new(Slow { heard, end }), Box::new(|_| ())).unwrap();
    assert_eq!(hears.recv(), Ok("start"));
    assert!(handle.resume(), "nobody asked it to stop");
    handle.request_stop();
    assert_eq!(hears.recv(), Ok("stop"));
    assert!(!handle.has_stopped() && handle.resume());
    ends.send(()).unwrap();
    assert_eq!(hears.recv(), Ok("start"));
    handle.request_stop();
    assert_eq!(hears.recv(), Ok("stop"));
    handle.cancel();
    while !handle.has_stopped() {
        std::thread::yield_now();
    }
    assert!(!handle.resume());
    assert!(handle.stop().is_some());
}

/// Waits for what cannot be waited for.
struct Broken;

impl Worker for Broken {
    fn sources(&self) -> Vec<Source> {
        vec![Source { fd: -1, token: 0, interest: Interest::Readable }]
    }

    fn ready(&mut self, _: u32) -> bool {
        false
    }

    fn positions(&self) -> Vec<(u16, QueuePosition)> {
        Vec::new()
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

#[test]
fn a_worker_that_cannot_be_served_is_told_of_and_comes_back() {
    let (tells, told) = mpsc::channel();
    let on_failure = Box::new(move |why: &str| tells.send(why.to_owned()).unwrap());
    let handle =
        NodeSpawner::new("0".parse().unwrap()).spawn("broken", Box::new(Broken), on_failure).unwrap();
    let why = told.recv().unwrap();
    assert!(why.starts_with("its thread failed: "), "{why}");
    assert!(!handle.has_stopped());
    assert!(handle.stop().is_some());
}

#[test]
fn a_worker_that_dies_has_stopped() {
    let (heard, hears) = mpsc::channel();
    drop(hears);
    let (_ends, end) = mpsc::channel();
    let handle = NodeSpawner::new("0".parse().unwrap())
        .spawn("slow", Box::new(Slow { heard, end }), Box::new(|_| ()))
        .unwrap();
    while !handle.has_stopped() {
        std::thread::yield_now();
    }
    assert!(handle.stop().is_none());
}

#[test]
fn a_worker_hears_its_sources_and_comes_back_when_stopped() {
    let kick = EventFd::new(EFD_NONBLOCK).unwrap();
    let (heard, hears) = mpsc::channel();
    let worker = Box::new(Echo { kick: kick.try_clone().unwrap(), heard });
    let spawner = NodeSpawner::new("0".parse().unwrap());
    let handle = spawner.spawn("echo", worker, Box::new(|_| ())).unwrap();
    assert_eq!(hears.recv(), Ok("start"));
    for _ in 0..3 {
        kick.write(1).unwrap();
        assert_eq!(hears.recv(), Ok("ready"));
    }
    // A CPU that is not there: the kernel refuses, and the worker works where it was.
    let error = spawner.follow(&"1023".parse().unwrap()).unwrap_err();
    assert_eq!((error.call, error.errno()), ("sched_setaffinity", libc::EINVAL));
    assert_eq!(hears.recv(), Ok("moved"));
    kick.write(1).unwrap();
    assert_eq!(hears.recv(), Ok("ready"));
    spawner.follow(&"0".parse().unwrap()).unwrap();
    assert_eq!(hears.recv(), Ok("moved"));
    let worker = handle.stop().unwrap();
    assert_eq!(hears.recv(), Ok("stop"));
    assert!(worker.into_any().downcast::<Echo>().is_ok());
}
