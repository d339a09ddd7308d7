//! Default MAC addresses: the host identity they are derived from. The derivation is in `resources`.

use crate::files;
use resources::VmSpec;
use resources::devices::Mac;
use std::fs;
use std::path::Path;

/// Most bytes of a file that names a host.
const MAX_ID: u64 = 4096;

/// The same VM with an address for each interface that has a tap and no address.
pub fn given(spec: VmSpec) -> VmSpec {
    given_on(spec, Path::new("/"))
}

fn given_on(mut spec: VmSpec, root: &Path) -> VmSpec {
    if !spec.nets.iter().any(|net| net.mac.is_none() && net.tap.is_some()) {
        return spec;
    }
    let host = host(root);
    let host: Vec<&str> = host.iter().map(String::as_str).collect();
    for net in spec.nets.iter_mut().filter(|net| net.mac.is_none()) {
        net.mac = net.tap.as_ref().map(|tap| Mac::of_tap(&host, tap).to_string());
    }
    spec
}

/// What tells this host from others and stays: its machine id, else that of this boot; and the network namespace where
/// that is known to be another than the host's, as a tap's name is one namespace's.
fn host(root: &Path) -> Vec<String> {
    let first = |path: &str| {
        let text = files::read(&root.join(path), MAX_ID).ok()?;
        let id = text.trim();
        (id.len() >= 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'))
            .then(|| id.to_owned())
    };
    let machine = first("etc/machine-id").or_else(|| {
        tracing::warn!(
            "/etc/machine-id has no id: default MAC addresses will change at the next boot of the host"
        );
        first("proc/sys/kernel/random/boot_id")
    });
    let namespace = |process: &str| fs::read_link(root.join("proc").join(process).join("ns/net")).ok();
    let apart = namespace("1").zip(namespace("self")).filter(|(host, own)| host != own);
    let apart = apart.map(|(_, own)| own.to_string_lossy().into_owned());
    machine.into_iter().chain(apart).collect()
}

#[cfg(test)]
mod tests {
    use super::given_on;
    use resources::VmSpec;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use tempfile::TempDir;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The address of `tap`, on a host with these files.
    fn address(tap: &str, files: &[(&str, &str)], namespaces: Option<[&str; 2]>) -> String {
        let root = TempDir::new().unwrap();
        files.iter().for_each(|(path, text)| write(root.path(), path, text));
        for (process, namespace) in ["1", "self"].iter().zip(namespaces.into_iter().flatten()) {
            let directory = root.path().join("proc").join(process).join("ns");
            fs::create_dir_all(&directory).unwrap();
            symlink(format!("net:[{namespace}]"), directory.join("net")).unwrap();
        }
        let spec = format!(
            r#"{{"nets": [{{"fd": 3}}, {{"tap": "{tap}"}}, {{"tap": "b", "mac": "52:54:00:00:00:01"}}]}}"#
        );
        let spec: VmSpec = serde_json::from_str(&spec).unwrap();
        let nets = given_on(spec, root.path()).nets;
        assert_eq!((nets[0].mac.as_deref(), nets[2].mac.as_deref()), (None, Some("52:54:00:00:00:01")));
        nets[1].mac.clone().unwrap()
    }

    #[test]
    fn an_address_is_that_of_the_host_and_the_tap_and_stays() {
        let machine = [("etc/machine-id", "0123456789abcdef0123456789abcdef\n")];
        let other = [("etc/machine-id", "1123456789abcdef0123456789abcdef\n")];
        let here = address("tap0", &machine, None);
        assert_eq!(here, resources::devices::Mac::of_tap(&[ID], "tap0").to_string());
        assert_eq!(address("tap0", &machine, Some(["1", "1"])), here, "the host's own network namespace");
        let rebooted =
            [machine[0], ("proc/sys/kernel/random/boot_id", "22345678-9abc-def0-1234-56789abcdef0\n")];
        assert_eq!(address("tap0", &rebooted, None), here);
        for another in [
            address("tap1", &machine, None),
            address("tap0", &other, None),
            address("tap0", &machine, Some(["1", "2"])),
        ] {
            assert_ne!(another, here);
        }
    }

    #[test]
    fn a_host_without_a_machine_id_has_addresses_of_this_boot() {
        let boot = |id: &str, machine: &str| {
            address("tap0", &[("etc/machine-id", machine), ("proc/sys/kernel/random/boot_id", id)], None)
        };
        let (one, two) = ("12345678-9abc-def0-1234-56789abcdef0\n", "22345678-9abc-def0-1234-56789abcdef0\n");
        for machine in ["", "uninitialized\n"] {
            assert_eq!(boot(one, machine), boot(one, machine));
            assert_ne!(boot(one, machine), boot(two, machine));
        }
        address("tap0", &[], None);
    }
}
