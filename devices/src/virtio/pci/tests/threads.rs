//! Workers in threads of their own, while several vCPUs do what they like with the function: nobody waits for ever.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::test_echo::QUEUES;
use super::super::test_machine::{Machine, VERSION_1, message};
use crate::pci::{OnFailure, WorkerHandle, WorkerSpawner};
use crate::virtio::Worker;
use crate::virtio::test_driver::BUFFERS;

const STOP: u64 = u64::MAX;
const ROUNDS: u16 = 300;

pub(super) struct Threads;

struct Handle {
    stop: Arc<EventFd>,
    thread: JoinHandle<Box<dyn Worker>>,
}

impl WorkerSpawner for Threads {
    fn spawn(&self, _: &str, mut worker: Box<dyn Worker>, _: OnFailure) -> io::Result<Box<dyn WorkerHandle>> {
        let stop = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let epoll = Epoll::new().unwrap();
            let add = |fd, token| {
                epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token)).unwrap();
            };
            add(stopped.as_raw_fd(), STOP);
            worker.sources().iter().for_each(|source| add(source.fd, u64::from(source.token)));
            worker.start();
            loop {
                let mut events = [EpollEvent::default(); 4];
                let count = epoll.wait(-1, &mut events).unwrap_or(0);
                for event in &events[..count] {
                    let Ok(token) = u32::try_from(event.data()) else {
                        worker.stop(&AtomicBool::new(false));
                        return worker;
                    };
                    worker.ready(token);
                }
            }
        });
        Ok(Box::new(Handle { stop, thread }))
    }
}

impl WorkerHandle for Handle {
    fn request_stop(&self) {
        self.stop.write(1).unwrap();
    }

    fn has_stopped(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits, as the request cannot be withdrawn.
    fn resume(&self) -> bool {
        while !self.has_stopped() {
            std::thread::yield_now();
        }
        false
    }

    fn cancel(&self) {}

    fn stop(self: Box<Self>) -> Option<Box<dyn Worker>> {
        self.stop.write(1).unwrap();
        self.thread.join().ok()
    }
}

/// One vCPU drives the device and resets it, one moves interrupts about, one moves BARs and stops bus mastering.
#[test]
fn vcpus_that_reset_mask_and_move_at_once_do_not_wait_for_ever() {
    let machine = Machine::with_spawner(Arc::new(Threads));
    machine.enable_interrupts();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for vector in 0..=QUEUES {
                    machine.program(vector, message(vector));
                    machine.set_msix(true, true);
                    machine.set_msix(true, false);
                }
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                machine.move_bar(2, 0x80_0008_0000);
                machine.set_command(true, false);
                machine.set_command(true, true);
            }
        });
        for round in 0..ROUNDS {
            let mut queues = machine.bring_up(VERSION_1);
            for (index, queue) in (0..).zip(&mut queues) {
                for _ in 0..round % 8 {
                    queue.add(&[(BUFFERS, 64, false), (BUFFERS + 64, 64, true)]);
                    machine.notify(index);
                }
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    // And still works: the last state is bus mastering on.
    machine.enable_interrupts();
    let mut queues = machine.bring_up(VERSION_1);
    machine.vectors.take();
    let head = queues[1].add(&[(BUFFERS, 4, false), (BUFFERS + 64, 4, true)]).unwrap();
    machine.notify(1);
    let start = std::time::Instant::now();
    while queues[1].is_idle() && start.elapsed().as_secs() < 10 {
        std::thread::yield_now();
    }
    assert_eq!(queues[1].used(), Some((head, 4)));
    machine.segment.reset();
    assert_eq!(machine.interrupts(), [2]);
    assert_eq!((machine.counters.queue_faults.get(), machine.counters.failed_activations.get()), (0, 0));
}
