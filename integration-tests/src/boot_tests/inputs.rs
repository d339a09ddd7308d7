//! Bad input: one line that names field, value and rule, status 2 or 3, and never a panic.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Output, Stdio};

use anyhow::{Context, Result, ensure};

use super::{BootTest, Ctx};
use crate::runner::host::Needs;
use crate::runner::payload::GuestKernel;
use crate::runner::vm::Start;

const ANY: Needs =
    Needs { nodes: 1, mib: 0, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "input_bad_flags_end_with_2_and_name_the_rule", needs: ANY, run: bad_flags },
    BootTest { name: "input_bad_files_are_refused_in_one_line", needs: ANY, run: bad_files },
    BootTest { name: "input_a_pnode_that_is_not_there", needs: ANY, run: no_such_pnode },
    BootTest { name: "input_no_permission_on_kvm", needs: Needs { root: true, ..ANY }, run: no_permission },
    BootTest { name: "input_a_config_file_says_the_same_as_flags", needs: ANY, run: config_file },
    BootTest { name: "input_many_vcpus_and_vnodes_are_planned", needs: ANY, run: many },
];

/// Flags after `plan`, and words the refusal must have.
const BAD: &[(&[&str], &[&str])] = &[
    (&["--numa", "id=0,memory=128M,vcpus=[0],colour=red"], &["colour"]),
    (&["--numa", "id=0,memory=128M,vcpus=[0-1]", "--numa", "id=1,memory=128M,vcpus=[1]"], &["1"]),
    (&["--numa", "id=0,memory=128M,vcpus=[0]", "--numa", "id=1,memory=128M,vcpus=[2]"], &["1"]),
    (&["--numa", "id=0,memory=128M,vcpus=[0]", "--numa", "id=0,memory=128M,vcpus=[1]"], &["0"]),
    (&["--numa", "id=0,memory=128M,vcpus=[0]", "--numa", "id=2,memory=128M,vcpus=[1]"], &["2"]),
    (&["--numa", "id=0,memory=fish,vcpus=[0]"], &["memory", "fish"]),
    (&["--numa", "id=0,memory=1049601,vcpus=[0]"], &["memory"]),
    (&["--numa", "id=0,memory=99999999999999999999G,vcpus=[0]"], &["memory"]),
    (&["--numa", "id=0,memory=128M,vcpus=[3-1]"], &["vcpus"]),
    (&["--numa", "id=0,memory=128M,vcpus=[0],policy=random"], &["policy", "random"]),
    (&["--numa", "id=0,memory=128M,vcpus=[0],pages=3M"], &["pages", "3M"]),
    (
        &[
            "--numa",
            "id=0,memory=128M,vcpus=[0]",
            "--numa",
            "id=1,memory=128M,vcpus=[1]",
            "--distance",
            "0:1=9",
        ],
        &["9", "distance"],
    ),
    (
        &[
            "--numa",
            "id=0,memory=128M,vcpus=[0]",
            "--numa",
            "id=1,memory=128M,vcpus=[1]",
            "--distance",
            "0:1=10",
        ],
        &["10", "distance"],
    ),
    (
        &[
            "--numa",
            "id=0,memory=128M,vcpus=[0]",
            "--numa",
            "id=1,memory=128M,vcpus=[1]",
            "--distance",
            "0:1=256",
        ],
        &["256", "distance"],
    ),
    (
        &[
            "--numa",
            "id=0,memory=128M,vcpus=[0]",
            "--numa",
            "id=1,memory=128M,vcpus=[1]",
            "--distance",
            "0:0=20",
        ],
        &["20", "distance"],
    ),
    (&["--numa", "id=0,memory=128M,vcpus=[0]", "--distance", "0:7=20"], &["7"]),
    (&["--vcpus", "0"], &["vcpus"]),
    (&["--no-such-flag"], &["no-such-flag"]),
];

fn refusal(ctx: &Ctx, arguments: &[&str], codes: &[i32]) -> Result<String> {
    let output = ctx.numavisor(arguments)?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code();
    ensure!(
        code.is_some_and(|code| codes.contains(&code)),
        "{arguments:?} ended with {}, not {codes:?}: {text}",
        output.status
    );
    ensure!(!text.contains("panicked"), "{arguments:?}: {text}");
    Ok(text)
}

fn bad_flags(ctx: &Ctx) -> Result<()> {
    let mut wrong = Vec::new();
    for (flags, words) in BAD {
        let arguments: Vec<&str> = ["plan"].iter().chain(*flags).copied().collect();
        match refusal(ctx, &arguments, &[2]) {
            Err(error) => wrong.push(format!("{error:#}")),
            Ok(text) => {
                if text.trim_end().lines().count() != 1 {
                    wrong.push(format!("{flags:?}: not one line:\n{text}"));
                }
                wrong.extend(
                    words
                        .iter()
                        .filter(|word| !text.contains(**word))
                        .map(|word| format!("{flags:?}: no '{word}' in: {text}")),
                );
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn bad_files(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (text, empty) = (directory.path().join("text"), directory.path().join("empty"));
    fs::write(&text, "not a kernel\n".repeat(1000))?;
    fs::write(&empty, "")?;
    let cut = directory.path().join("cut");
    let kernel = fs::read(ctx.payload.kernel(GuestKernel::StockBzImage))?;
    fs::write(&cut, kernel.get(..100_000).context("a short kernel")?)?;
    let missing = directory.path().join("missing");
    let mut wrong = Vec::new();
    for file in [&text, &empty, &cut, &missing, &directory.path().to_owned()] {
        let name = file.to_string_lossy();
        match refusal(ctx, &["run", "--kernel", &name], &[2, 3]) {
            Err(error) => wrong.push(format!("{error:#}")),
            Ok(text) if !text.contains(&*name) => wrong.push(format!("{name} is not named: {text}")),
            Ok(_) => {}
        }
    }
    // An initramfs larger than the guest.
    let huge = directory.path().join("huge");
    fs::File::create(&huge)?.set_len(256 << 20)?;
    let start = Start::default();
    let (kernel, huge) = (ctx.payload.kernel(start.kernel), huge.to_string_lossy().into_owned());
    let kernel = kernel.to_string_lossy();
    if let Err(error) =
        refusal(ctx, &["run", "--kernel", &kernel, "--initramfs", &huge, "--memory", "128M"], &[2, 3])
    {
        wrong.push(format!("{error:#}"));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn no_such_pnode(ctx: &Ctx) -> Result<()> {
    let text = refusal(ctx, &["plan", "--numa", "id=0,memory=128M,vcpus=[0],pnode=1000"], &[2, 3])?;
    ensure!(text.contains("1000"), "the refusal does not name the node: {text}");
    Ok(())
}

/// The user `nobody`.
const NOBODY: u32 = 65534;

fn no_permission(ctx: &Ctx) -> Result<()> {
    let mut command = Start::default().command(ctx.payload);
    let output =
        command.uid(NOBODY).gid(NOBODY).stdin(Stdio::null()).output().context("starting numavisor")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(3), "ended with {}, not with 3: {text}", output.status);
    ensure!(
        text.contains("/dev/kvm") && text.trim_end().lines().count() == 1,
        "no line about /dev/kvm: {text}"
    );
    Ok(())
}

fn config_file(ctx: &Ctx) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let pnode = ctx.pnode(0);
    let config = serde_json::json!({
        "numa": [
            { "id": 0, "memory": "128M", "vcpus": "0", "pnode": pnode.to_string() },
            { "id": 1, "memory": "64M", "vcpus": "1", "pnode": pnode.to_string(), "policy": "preferred" },
        ],
        "distances": [{ "from": 0, "to": 1, "value": 31 }],
    });
    fs::write(file.path(), config.to_string())?;
    let path = file.path().to_string_lossy().into_owned();
    let (zero, one) = (
        format!("id=0,memory=128M,vcpus=[0],pnode={pnode}"),
        format!("id=1,memory=64M,vcpus=[1],pnode={pnode},policy=preferred"),
    );
    let by_file = ctx.numavisor(&["plan", "--json", "--config", &path])?;
    let by_flags =
        ctx.numavisor(&["plan", "--json", "--numa", &zero, "--numa", &one, "--distance", "0:1=31"])?;
    for output in [&by_file, &by_flags] {
        ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    // Free memory may differ from one moment to the next; the guest may not.
    let guest = |output: &Output| -> Result<serde_json::Value> {
        let mut plan: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let vnodes = plan.get_mut("vnodes").and_then(serde_json::Value::as_array_mut).context("no vnodes")?;
        for vnode in vnodes {
            vnode.as_object_mut().context("a vnode is no object")?.remove("why");
        }
        Ok(plan)
    };
    ensure!(guest(&by_file)? == guest(&by_flags)?, "the file and the flags give different plans");
    Ok(())
}

fn many(ctx: &Ctx) -> Result<()> {
    let pnode = ctx.pnode(0);
    let mut arguments = vec!["plan".to_owned(), "--json".to_owned()];
    for id in 0..64 {
        let (first, last) = (id * 4, id * 4 + 3);
        arguments.push("--numa".to_owned());
        arguments.push(format!("id={id},memory=2M,vcpus=[{first}-{last}],pnode={pnode}"));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = ctx.numavisor(&arguments)?;
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).context("plan --json")?;
    ensure!(plan.is_object(), "plan --json is no object: {plan}");
    Ok(())
}
