//! `import`, `export` and `--from-*` from outside: whole descriptions and what is printed for them. UPDATE_GOLDEN=1 writes
//! the expected outputs anew; read the difference.
#![expect(clippy::unwrap_used, reason = "a test may stop")]

use resources::test_host::HostShape;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn numavisor(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_numavisor"))
        .args(args)
        .current_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/formats"))
        .output()
        .unwrap()
}

fn golden(name: &str, actual: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "{name} differs; UPDATE_GOLDEN=1 writes it anew");
}

/// Standard output, and standard error behind it.
fn all_of(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    text(&output.stdout) + &text(&output.stderr)
}

const FORMATS: [(&str, &str); 3] = [("libvirt", "guest.xml"), ("xl", "guest.cfg"), ("qemu", "guest.sh")];

#[test]
fn descriptions_are_read_and_written_as_recorded() {
    for (from, file) in FORMATS {
        let output = numavisor(&["import", "--from", from, file]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        golden(&format!("import-{from}.txt"), &all_of(&output));
        for (to, _) in FORMATS {
            let output = numavisor(&["export", "--to", to, &format!("--from-{from}={file}"), "--log=error"]);
            assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{output:?}");
            golden(&format!("export-{from}-{to}.txt"), &all_of(&output));
        }
    }
    golden("help-import.txt", &all_of(&numavisor(&["import", "--help"])));
}

#[test]
fn plans_take_descriptions_as_they_take_configurations_and_flags_win() {
    let root = tempfile::tempdir().unwrap();
    HostShape::new(4).pool(1, resources::Bytes::mib(2), 4096, 4096).write(root.path()).unwrap();
    let sysfs = format!("--sysfs={}", root.path().display());
    for (from, file) in FORMATS {
        let config = root.path().join(format!("{from}.json"));
        let out = format!("--out={}", config.display());
        let imported = numavisor(&["import", "--from", from, file, &out, "--log=error"]);
        assert_eq!((imported.status.code(), all_of(&imported)), (Some(0), String::new()));
        let plan = |flag: &str| all_of(&numavisor(&["plan", &sysfs, flag, "--log=error"]));
        let planned = plan(&format!("--from-{from}={file}"));
        assert_eq!(planned, plan(&format!("--config={}", config.display())));
        assert!(planned.starts_with("2 vnodes, 4 vCPUs, 2G memory\n"), "{planned}");
    }
    let one = numavisor(&[
        "plan",
        &sysfs,
        "--from-xl=guest.cfg",
        "--numa=id=0,memory=64M",
        "--vcpus=1",
        "--distance=0:0=10",
        "--pin=0=1",
        "--log=error",
    ]);
    assert!(all_of(&one).starts_with("1 vnode, 1 vCPU, 64M memory\n"), "{one:?}");
}

#[test]
fn standard_input_is_a_file_like_any_other() {
    let from_input = |args: &[&str], text: &[u8]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_numavisor"));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A reader that has read enough goes away.
        let _ = child.stdin.take().unwrap().write_all(text);
        let output = child.wait_with_output().unwrap();
        (output.status.code(), all_of(&output))
    };
    let import = |format: &str, text: &[u8]| from_input(&["import", "--from", format, "-"], text);
    let (status, text) = import("xl", b"memory=64\nvif=[]\n");
    assert_eq!(status, Some(0));
    assert!(text.ends_with("}\nnumavisor: warn: standard input: line 2: `vif` is ignored\n"), "{text}");
    let refused = |why: &str| (Some(2), format!("numavisor: FILE: standard input: {why}\n"));
    for format in ["libvirt", "xl", "qemu"] {
        assert_eq!(import(format, b"\xff"), refused("must be UTF-8 text"));
        assert_eq!(import(format, &vec![b' '; 10 << 20]), refused("must not be larger than 1048576 bytes"));
    }
    assert_eq!(import("xl", b"vcpus=0"), refused("line 1: vcpus: 0 vCPUs, must be 1 to 4096"));
}

#[test]
fn files_that_are_not_there_and_formats_that_cannot_are_refused() {
    let refused = |args: &[&str]| {
        let output = numavisor(args);
        assert_eq!(output.status.code(), Some(2));
        all_of(&output)
    };
    let missing = "No such file or directory (os error 2)";
    assert_eq!(refused(&["import", "--from=xl", "none"]), format!("numavisor: FILE: none: {missing}\n"));
    assert_eq!(
        refused(&["plan", "--from-libvirt=none"]),
        format!("numavisor: --from-libvirt: none: {missing}\n")
    );
    assert_eq!(
        refused(&["plan", "--from-libvirt=guest.cfg"]),
        "numavisor: --from-libvirt: guest.cfg: line 1: not XML: unknown token at 1:1\n"
    );
    assert_eq!(
        refused(&["export", "--to=xl", "--vnodes=2"]),
        "numavisor: vnodes[0].pnode: missing, xl needs one for every vnode\n"
    );
    let out = refused(&["export", "--to=qemu", "--out=none/none"]);
    assert_eq!(out, format!("numavisor: --out: none/none: {missing}\n"));
}

#[test]
fn what_another_program_has_no_word_for_is_a_warning_each() {
    let warned = |to: &str, flags: &str| {
        let to = format!("--to={to}");
        let args: Vec<&str> = ["export", &to].into_iter().chain(flags.split(' ')).collect();
        let output = numavisor(&args);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let lines = String::from_utf8(output.stderr).unwrap();
        lines
            .lines()
            .map(|line| line.strip_prefix("numavisor: warn: ").unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let host = "--distances=host --attributes=host --rng";
    let expected = [
        "distances_from is ignored: the distances depend on the host",
        "attributes_from is ignored: the values depend on the host",
        "rng: devices are ignored",
    ];
    assert_eq!(warned("libvirt", host), expected);
    let vnodes = "--numa=id=0,memory=64M,vcpus=[0-1],pnode=[0-1],policy=interleave,affinity=hard,prefault=on \
                  --numa=id=1,memory=64M,vcpus=[],pnode=1,pages=4K,initiator=0 --pin=0=node:0 \
                  --attribute=0:1,latency=90 --memory-cache=vnode=0,size=1M,level=1";
    let expected = [
        "vnodes[0].affinity is ignored: replaced by pins",
        "vnodes[1].initiator is ignored: it is not supported",
        "prefault is ignored: it is the same for all vnodes",
        "pins with all or nodes are ignored: lists have numbers only",
    ];
    assert_eq!(warned("libvirt", vnodes), expected);
    let expected = [
        "vnodes[0].affinity is ignored: replaced by pins",
        "vnodes[0].policy is ignored: memory lies on its pnode",
        "vnodes[0].pnode: only the first is written",
        "vnodes[1].pages is ignored: there is no word for it",
        "vnodes[0].prefault is ignored: there is no word for it",
        "vnodes[1].initiator is ignored: it is not supported",
        "attributes are ignored: HMAT is not supported",
        "caches are ignored: HMAT is not supported",
    ];
    assert_eq!(warned("xl", vnodes), expected);
    let expected = [
        "vnodes[0].affinity is ignored: replaced by pins",
        "vnodes[1].pages is ignored: there is no word for 4K",
        "pins are ignored: there is no word for them",
    ];
    assert_eq!(warned("qemu", vnodes), expected);
    let cpus = "--numa=id=0,memory=64M,vcpus=[],policy=preferred --numa=id=1,memory=0,vcpus=[0],pnode=0";
    let expected = [
        "vnodes[0].policy is ignored: it needs a pnode",
        "vnodes[1].pnode is ignored: it would belong to a memory backend",
    ];
    assert_eq!(warned("qemu", cpus), expected);
}
