//! One claim, two claims, and files that are not what they should be.

use crate::claims::{Claims, Living, NumaStat, Survey, Touched};
use crate::ofd_lock::WriteLock;
use resources::{Bytes, Claim, NodeClaim, PnodeId};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use tempfile::TempDir;

fn claims() -> (TempDir, Claims) {
    let root = tempfile::tempdir().unwrap();
    let claims = Claims::open(&root.path().join("claims"), None).unwrap();
    (root, claims)
}

fn claim(pnode: u32, memory: Bytes, vcpus: u64) -> Claim {
    Claim { pnodes: [(PnodeId(pnode), NodeClaim { memory, vcpus, ..NodeClaim::default() })].into() }
}

fn book(claims: &Claims) -> crate::claims::Book {
    claims.lock(&claims.survey().unwrap()).unwrap()
}

#[test]
fn a_claim_is_seen_as_long_as_it_is_held() {
    let (_root, claims) = claims();
    let held = book(&claims).claim(&claim(1, Bytes::gib(1), 2)).unwrap();
    let second = book(&claims).claim(&claim(0, Bytes::gib(2), 1)).unwrap();
    let living = claims.living().unwrap();
    assert_eq!(living.len(), 2);
    assert!(living.iter().all(|vm| vm.pid == std::process::id()));
    let ledger = book(&claims).ledger();
    assert_eq!((ledger.untouched_memory(PnodeId(1)), ledger.vcpus(PnodeId(1))), (Bytes::gib(1), 2));
    assert_eq!(Living::ledger_without(&claims.living().unwrap(), &second).vcpus(PnodeId(0)), 0);
    drop(held);
    assert_eq!(claims.living().unwrap().len(), 1);
    drop(second);
    let left: Vec<_> = fs::read_dir(claims.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["claims.lock"]);
}

#[test]
fn a_claim_can_be_changed_while_it_is_held() {
    let (_root, claims) = claims();
    let mut held = book(&claims).claim(&claim(1, Bytes::gib(1), 2)).unwrap();
    for size in [7, 123_456_789, 1] {
        book(&claims).replace(&mut held, &claim(3, Bytes(size), 1), &Claim::default()).unwrap();
        let living = claims.living().unwrap();
        assert_eq!(living.iter().map(|vm| vm.claim.clone()).collect::<Vec<_>>(), [claim(3, Bytes(size), 1)]);
    }
}

#[test]
fn files_that_nobody_locks_are_ignored_and_removed_by_the_next_that_claims() {
    let (_root, claims) = claims();
    let file = |name: &str, content: &[u8]| fs::write(claims.path().join(name), content).unwrap();
    file("1-1-1.claim", br#"{"version":1,"pid":1,"started":1,"claim":{"0":{"memory":1}}}"#);
    file("garbage.claim", b"\xff\x00{{{");
    file("empty.claim", b"");
    file("half.claim.new", b"{");
    file("somebody's notes", b"stay");
    assert_eq!(claims.living().unwrap(), []);
    assert_eq!(fs::read_dir(claims.path()).unwrap().count(), 5);
    assert_eq!(book(&claims).living, []);
    let mut left: Vec<_> = fs::read_dir(claims.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["claims.lock", "somebody's notes"]);
}

/// A file as a process leaves it that locks and then writes nonsense.
fn locked(claims: &Claims, name: &str, content: &[u8]) -> WriteLock {
    let path = claims.path().join(name);
    fs::write(&path, content).unwrap();
    WriteLock::attempt(File::options().write(true).open(path).unwrap()).unwrap().unwrap()
}

#[test]
fn locked_files_that_cannot_be_read_are_ignored_and_stay() {
    let (_root, claims) = claims();
    let held = book(&claims).claim(&claim(1, Bytes::gib(1), 2)).unwrap();
    let deep = [b"{\"version\":1,\"claim\":".as_slice(), &b"[".repeat(100_000)].concat();
    let contents: [&[u8]; 8] = [
        b"",
        b"\xff\xfe",
        b"{}",
        b"[1,2]",
        br#"{"version":2,"pid":1,"started":1,"claim":{}}"#,
        br#"{"version":1,"pid":1,"started":1,"claim":{"0":{"memory":-1}}}"#,
        br#"{"version":1,"pid":1,"started":1,"claim":{"x":{}}}"#,
        &deep,
    ];
    let locks: Vec<_> = contents
        .iter()
        .enumerate()
        .map(|(n, content)| locked(&claims, &format!("{n}.claim"), content))
        .collect();
    let large = locked(&claims, "large.claim", &vec![b' '; (1 << 20) + 1]);
    assert_eq!(book(&claims).living.len(), 1);
    assert_eq!(fs::read_dir(claims.path()).unwrap().count(), 2 + 9);
    drop((locks, large, held));
}

#[test]
fn pipes_links_and_directories_block_nobody() {
    let (root, claims) = claims();
    nix::unistd::mkfifo(&claims.path().join("pipe.claim"), nix::sys::stat::Mode::from_bits_truncate(0o600))
        .unwrap();
    fs::create_dir(claims.path().join("directory.claim")).unwrap();
    fs::write(root.path().join("target"), b"precious").unwrap();
    symlink(root.path().join("target"), claims.path().join("link.claim")).unwrap();
    symlink("/nowhere", claims.path().join("dangling.claim")).unwrap();
    let held = book(&claims).claim(&claim(0, Bytes::gib(1), 1)).unwrap();
    assert_eq!(claims.living().unwrap().len(), 1);
    assert_eq!(fs::read(root.path().join("target")).unwrap(), b"precious");
    drop(held);
}

#[test]
fn amounts_of_any_size_add_up_without_harm() {
    let (_root, claims) = claims();
    let content = format!(
        r#"{{"version":1,"pid":1,"started":1,"claim":{{"0":{{"memory":{0},"vcpus":{0}}}}}}}"#,
        u64::MAX
    );
    let locks =
        [locked(&claims, "a.claim", content.as_bytes()), locked(&claims, "b.claim", content.as_bytes())];
    let ledger = book(&claims).ledger();
    assert_eq!((ledger.untouched_memory(PnodeId(0)), ledger.vcpus(PnodeId(0))), (Bytes(u64::MAX), u64::MAX));
    drop(locks);
}

#[test]
fn totals_over_all_vms_say_what_lies_where_it_was_wanted() {
    let vm = |touched: Option<&[(u32, u64, u64)]>| crate::claims::Living {
        released: Claim::default(),
        name: String::new(),
        pid: 1,
        started: 1,
        claim: Claim::default(),
        touched: touched.map(|all| Touched {
            stat: all
                .iter()
                .map(|&(pnode, hit, miss)| {
                    let stat = NumaStat { hit: Bytes(hit), miss: Bytes(miss), ..NumaStat::default() };
                    (PnodeId(pnode), stat)
                })
                .collect(),
            ..Touched::default()
        }),
    };
    let living = [vm(Some(&[(0, 60, 30), (1, 5, 0)])), vm(Some(&[(0, 100, 7)])), vm(None)];
    let of = |pnode| crate::claims::Living::stat(&living, PnodeId(pnode));
    assert_eq!((of(0).hit, of(0).miss), (Bytes(160), Bytes(37)));
    assert_eq!(of(1), NumaStat { hit: Bytes(5), ..NumaStat::default() });
    assert_eq!(of(2), NumaStat::default());
}

#[test]
fn what_this_process_has_touched_is_found_by_its_number_and_start() {
    let (_root, claims) = claims();
    let held = book(&claims).claim(&claim(0, Bytes::gib(1), 1)).unwrap();
    let survey: Survey = claims.survey().unwrap();
    // A process may look at itself; it has no memory with a policy.
    let touched: Vec<_> = survey.living.iter().map(|vm| vm.touched.clone()).collect();
    assert_eq!(touched, [Some(Touched::default())]);
    drop(held);
}
