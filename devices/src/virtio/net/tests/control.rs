//! Features, configuration, commands, several pairs, the datapath in the kernel, reset.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use virtio_queue::QueueT;

use super::{Bench, FakeTap, frame};
use crate::Figures;
use crate::virtio::net::{Datapath, Net, NetConfig, NetQueues, Offloads, bits};
use crate::virtio::test_driver::{
    BUFFERS, ReadConfig, TestInterrupt, TestMemory, TestQueue, activation, memory,
};
use crate::virtio::{ActivationError, KernelDatapath, KernelQueue, VirtioDevice};

/// Sends a command; the answer.
pub(super) fn command(bench: &mut Bench, bytes: &[u8]) -> Option<u8> {
    let control = bench.queues.len() - 1;
    bench.write(BUFFERS, bytes);
    bench.write(BUFFERS + 0x1000, &[0xee]);
    let length = u32::try_from(bytes.len()).unwrap();
    bench.queues[control].add(&[(BUFFERS, length, false), (BUFFERS + 0x1000, 1, true)]).unwrap();
    bench.worker().ready(u32::MAX);
    bench.queues[control].used().filter(|(_, written)| *written == 1)?;
    bench.read(BUFFERS + 0x1000, 1).first().copied()
}

/// What a datapath in the kernel was asked.
#[derive(Default)]
struct KernelLog {
    calls: Mutex<Vec<&'static str>>,
    fails: bool,
}

struct FakeKernel(Arc<KernelLog>);

impl KernelDatapath<TestMemory> for FakeKernel {
    fn start(&mut self, _: &TestMemory, _: u64, queues: &[KernelQueue<'_>]) -> io::Result<()> {
        assert_eq!(queues.len(), 2);
        self.0.calls.lock().unwrap().push(if queues[0].queue.next_avail() == 0 { "start" } else { "resume" });
        if self.0.fails { Err(io::Error::from_raw_os_error(1)) } else { Ok(()) }
    }

    fn stop(&mut self) -> io::Result<Vec<u16>> {
        self.0.calls.lock().unwrap().push("stop");
        Ok(vec![5, 7])
    }
}

fn queues(count: usize, log: Option<&Arc<KernelLog>>) -> Vec<NetQueues<TestMemory, FakeTap>> {
    let kernel =
        || log.map(|log| Box::new(FakeKernel(Arc::clone(log))) as Box<dyn KernelDatapath<TestMemory>>);
    (0..count).map(|_| NetQueues { tap: FakeTap::new(), kernel: kernel() }).collect()
}

fn enabled(bench: &Bench) -> Vec<Option<bool>> {
    bench.taps.iter().map(|tap| tap.state.lock().unwrap().enabled).collect()
}

#[test]
fn the_tap_is_told_what_the_driver_takes_and_nothing_after_a_reset() {
    let mut bench = Bench::new(bits::GUEST_CSUM | bits::GUEST_TSO4);
    assert_eq!(bench.tap(|tap| tap.offloads), Some(Offloads::CHECKSUM | Offloads::TSO4));
    bench.worker().stop(&AtomicBool::new(false));
    let worker = bench.worker.take();
    bench.device.reset(worker);
    assert_eq!(bench.tap(|tap| tap.offloads), Some(Offloads::NONE));
}

#[test]
fn offloads_can_be_switched_while_it_runs() {
    let features = bits::CTRL_VQ | bits::CTRL_GUEST_OFFLOADS | bits::GUEST_CSUM | bits::GUEST_TSO4;
    let mut bench = Bench::new(features);
    let set = |bits: u64| [&[5, 0], &bits.to_le_bytes()[..]].concat();
    assert_eq!(command(&mut bench, &set(bits::GUEST_CSUM)), Some(0));
    assert_eq!(bench.tap(|tap| tap.offloads), Some(Offloads::CHECKSUM));
    assert_eq!(command(&mut bench, &set(bits::GUEST_TSO6)), Some(1));
    assert_eq!(command(&mut bench, &[9, 9]), Some(1));
    assert_eq!(command(&mut bench, &[0; 600]), Some(1));
    assert_eq!((bench.handle.counters().commands.get(), bench.handle.counters().malformed.get()), (4, 3));
}

#[test]
fn pairs_come_into_use_and_go_out_of_it_as_told() {
    let mut bench = Bench::with(bits::CTRL_VQ | bits::MQ, queues(3, None), 64);
    assert_eq!(enabled(&bench), [Some(true), Some(false), Some(false)]);
    assert_eq!(bench.worker().sources().len(), 3);
    assert_eq!(command(&mut bench, &[4, 0, 3, 0]), Some(0));
    assert_eq!(enabled(&bench), [Some(true); 3]);
    // A frame on the third pair.
    bench.write(BUFFERS, &frame(1, 80));
    bench.queues[5].add(&[(BUFFERS, 92, false)]).unwrap();
    bench.run();
    assert_eq!(bench.taps[2].state.lock().unwrap().sent, [frame(1, 80)]);
    assert_eq!(command(&mut bench, &[4, 0, 2, 0]), Some(0));
    assert_eq!(enabled(&bench), [Some(true), Some(true), Some(false)]);
    assert_eq!(command(&mut bench, &[4, 0, 4, 0]), Some(1));
    assert_eq!(command(&mut bench, &[4, 0, 0, 0]), Some(1));
    bench.run();
}

#[test]
fn a_queue_that_the_host_does_not_enable_stays_out_of_use() {
    let mut bench = Bench::with(bits::CTRL_VQ | bits::MQ, queues(3, None), 64);
    bench.taps[2].state.lock().unwrap().enable_fails = true;
    assert_eq!(command(&mut bench, &[4, 0, 3, 0]), Some(1));
    assert_eq!(enabled(&bench), [Some(true), Some(true), Some(false)]);
    bench.run();
}

#[test]
fn without_multiqueue_the_control_queue_is_the_third() {
    let taps = queues(2, None);
    let config = NetConfig { mac: "52:54:00:12:34:56".parse().unwrap(), mtu: Some(1500) };
    let mut device = Net::new(config, taps).unwrap();
    assert_eq!(device.queue_sizes(), [256, 256, 256, 256, 64]);
    assert_eq!(device.features() & (bits::MQ | bits::MTU), bits::MQ | bits::MTU);
    let memory = memory();
    let rings: Vec<_> = (0..3).map(|index| TestQueue::new(&memory, index, 16)).collect();
    let refs: Vec<_> = rings.iter().collect();
    let interrupt = Arc::<TestInterrupt>::default();
    let worker = device.activate(activation(&memory, bits::CTRL_VQ, &refs, &interrupt)).unwrap();
    assert!(worker.sources().iter().any(|source| source.token == u32::MAX));
    device.reset(Some(worker));
    let error = device.activate(activation(&memory, bits::CTRL_VQ, &refs[..1], &interrupt)).err().unwrap();
    assert!(matches!(error, ActivationError::QueueMissing { device: "net", index: 1 }));
}

#[test]
fn the_kernel_serves_the_pairs_in_use_and_goes_on_where_it_was() {
    let log = Arc::<KernelLog>::default();
    let mut bench = Bench::with(0, queues(1, Some(&log)), 64);
    // Nothing to interrupt with: the first attempt ended here, and frames go through the device.
    assert_eq!(bench.handle.datapath(), Datapath::Own);
    let states = bench.handle.figures().into_iter().filter(|figure| figure.name == "datapath");
    let states: Vec<_> = states.map(|figure| (figure.key(), figure.value)).collect();
    let expected = [("datapath_stopped", 0), ("datapath_own", 1), ("datapath_kernel", 0)];
    assert_eq!(states, expected.map(|(name, value)| (name.to_owned(), value)));
    bench.worker().stop(&AtomicBool::new(false));
    let worker = bench.worker.take();
    bench.device.reset(worker);

    let mut device =
        Net::new(NetConfig { mac: "52:54:00:12:34:56".parse().unwrap(), mtu: None }, queues(2, Some(&log)))
            .unwrap();
    let interrupt = Arc::<TestInterrupt>::default();
    interrupt.has_calls.store(true, std::sync::atomic::Ordering::Relaxed);
    for _ in 0..2 {
        let refs: Vec<_> = bench.queues.iter().collect();
        let mut worker = device.activate(activation(&bench.memory, 0, &refs, &interrupt)).unwrap();
        worker.start();
        assert_eq!(device.handle().datapath(), Datapath::Kernel);
        assert!(worker.sources().is_empty());
        worker.stop(&AtomicBool::new(false));
        worker.start();
        worker.stop(&AtomicBool::new(false));
        assert_eq!(device.handle().datapath(), Datapath::Stopped);
        device.reset(Some(worker));
    }
    assert_eq!(*log.calls.lock().unwrap(), ["start", "stop", "resume", "stop"].repeat(2));
}

#[test]
fn a_kernel_that_refuses_is_asked_again_by_the_next_driver_and_until_then_frames_go_through_the_device() {
    let log = Arc::new(KernelLog { fails: true, ..KernelLog::default() });
    let mut bench = Bench::with(0, queues(1, Some(&log)), 64);
    let worker = bench.worker.take();
    bench.device.reset(worker);
    bench.interrupt.has_calls.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut device =
        Net::new(NetConfig { mac: "52:54:00:12:34:56".parse().unwrap(), mtu: None }, queues(1, Some(&log)))
            .unwrap();
    let refs: Vec<_> = bench.queues.iter().collect();
    for _ in 0..2 {
        let mut worker = device.activate(activation(&bench.memory, 0, &refs, &bench.interrupt)).unwrap();
        worker.start();
        assert_eq!(device.handle().datapath(), Datapath::Own);
        worker.stop(&AtomicBool::new(false));
        device.reset(Some(worker));
    }
    assert_eq!(*log.calls.lock().unwrap(), ["start", "start"]);
}

#[test]
fn the_driver_hears_of_the_link() {
    let mut bench = Bench::new(0);
    let status = |bench: &Bench| {
        let mut data = [0; 2];
        bench.device.read_config(6, &mut data);
        u16::from_le_bytes(data)
    };
    assert_eq!(status(&bench), 1);
    bench.handle.set_link(false);
    bench.handle.set_link(false);
    assert_eq!(status(&bench), 0);
    assert_eq!(bench.interrupt.config.load(std::sync::atomic::Ordering::Relaxed), 1);
    let worker = bench.worker.take();
    bench.device.reset(worker);
    bench.handle.set_link(true);
    assert_eq!(status(&bench), 1);
    assert_eq!(bench.interrupt.config.load(std::sync::atomic::Ordering::Relaxed), 1);
}
