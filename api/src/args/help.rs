//! What `--help` says beyond the list of flags: rules, units, examples, exit statuses. Lines fit 80 columns.

/// One line on what this is.
pub const ABOUT: &str = "A KVM virtual machine monitor whose whole point is virtual NUMA";

/// The end of `-h`.
pub const SHORT: &str = "See --help for rules, examples and exit statuses.";

/// The end of `--help`.
pub const LONG: &str = "\
A VM has vnodes: what the guest sees as NUMA nodes. Each lies on one or more
pnodes: nodes of this host. `numavisor host` shows the pnodes, `numavisor plan`
what a VM would get of them, and `numavisor run` starts it.

Examples:
  numavisor host
  numavisor run --kernel vmlinuz --initramfs initrd.img \\
      --vcpus 4 --memory 2G --vnodes 2
  numavisor plan --numa id=0,memory=1G,vcpus=[0-1],pnode=0 \\
                 --numa id=1,memory=1G,vcpus=[2-3],pnode=1
  numavisor run --help          the rules of the VM flags

Exit statuses:
    0  the guest powered off, or was quit with Ctrl-A x;
       or the command did what it was asked
    1  internal error
    2  bad input, or a file that is missing or in use: one line names the field,
       the value and the rule
    3  the host refused: one line names what was asked, where, and why not
    4  the guest reset itself (--on-reset exit)
    5  the guest crashed: a vCPU shut down after a triple fault
    6  ctl: there is no VM, or it is not in a state for what was asked
  143  a second SIGTERM, SIGINT or SIGHUP, or the end of --shutdown-timeout,
       ended the VM at once (the first presses the guest's power button)";

/// The end of `run --help` and `plan --help`.
pub const VM: &str = "\
Sizes are bytes with an optional K, M, G or T, powers of 1024. Lists are Linux
lists; in --numa they stand in brackets if they have commas: vcpus=[0-3,8].

Vnodes (--numa, once per vnode; all keys but id may be left out):
  id         0, 1, 2 ... in any order, without holes
  memory     a multiple of 2M, of 1G with pages=1G; 0 for a vnode with vCPUs
             only; default: an even share of what the others leave of --memory
  vcpus      a list, [] for a vnode with memory only; default: an even share of
             the vCPUs that no vnode names
  pnode      a list of host nodes; default: chosen by --placement
  policy     bind        on its pnodes and nowhere else; what does not fit does
                         not start (default)
             preferred   on its pnodes while there is room
             interleave  page by page in turn over its pnodes
  affinity   soft        vCPUs run on the CPUs of its pnodes (default)
             hard        on one CPU each, while there are enough
             none        anywhere
  pages      thp (transparent huge pages, default), 4K, or 2M or 1G from the
             pools of its pnodes
  prefault   on or off: take all memory at start (default: off, but on with
             pages=2M and 1G)
  shared     on or off: memory is a memfd that other processes may map, and an
             upgrade hands over, instead of private memory (default: off)
  latency    nanoseconds the guest is told for its memory (HMAT): 90 or 90ns
  bandwidth  bytes per second the guest is told, given together with latency;
             vCPUs of other vnodes are told figures scaled by distance
  initiator  of a vnode with memory only: the vnode it is attached to (HMAT)

Without --numa there are --vnodes vnodes of equal size, with --vcpus vCPUs and
--memory in all. `--vnodes auto` makes as many as the VM needs pnodes.

Placement, for vnodes without pnode:
  auto       all of them on the fewest pnodes that have room for each vnode and
             an unclaimed CPU for each vCPU; of these on the nearest to each
             other, then the least claimed, then those with the most memory free
  first-fit  each on the first pnode that has room
  best-fit   each on the fullest that has room, worst-fit on the emptiest
With --fit strict nothing starts that does not fit so. With --fit prefer vnodes
are spread over several pnodes, and CPUs shared, and `plan` says so; memory that
the host does not have is refused all the same.

Distances: 10 to itself, 11 to 254 to another vnode, 255 for no way. F:T=V holds
for T:F too unless that is given; what nobody gives is 20. `--distances host`
takes distances and HMAT figures from the pnodes (11 if two vnodes share one),
`--attributes host` the figures alone.

HMAT, pair by pair: `--attribute 0:1,latency=90ns,bandwidth=20G`, or read-latency,
write-latency, read-bandwidth, write-bandwidth. Caches in front of memory:
`--memory-cache vnode=0,size=1G,level=1,associativity=none|direct|complex,
policy=none|write-back|write-through,line=64`.

Pins: `--pin 0-1=4-7,^5 --pin 2=node:1` beats affinity; lists of host CPUs may
have all, node:N, nodes:N-M, and ^ in front of what is taken out again.

--config FILE has the same fields as JSON; flags win, and replace whole lists:
  {\"kernel\": \"vmlinuz\", \"initramfs\": \"initrd.img\",
   \"numa\": [{\"id\": 0, \"memory\": \"1G\", \"vcpus\": \"0-1\", \"pnode\": 0},
            {\"id\": 1, \"memory\": \"1G\", \"vcpus\": [2, 3], \"pnode\": 1}],
   \"distances\": [{\"from\": 0, \"to\": 1, \"value\": 21}],
   \"serial\": \"stdio\", \"on_reset\": \"reboot\"}

The serial port on a terminal: Ctrl-A x quits, Ctrl-A Ctrl-A sends one Ctrl-A.

Examples:
  numavisor run --kernel vmlinuz --initramfs initrd.img \\
      --numa id=0,memory=2G,vcpus=[0-1],pnode=0,affinity=hard \\
      --numa id=1,memory=2G,vcpus=[2-3],pnode=1,affinity=hard
  numavisor plan --numa id=0,memory=1G,vcpus=0 \\
      --numa id=1,memory=4G,vcpus=[],latency=250ns,bandwidth=10G \\
      --distance 0:1=24 --acpi-dir tables

Exit statuses: see numavisor --help.";

/// The end of `import --help`.
pub const IMPORT: &str = "\
What the description has and a configuration has not is left out with one
warning each; what would be a broken guest is refused with its line. At most
1 MiB is read. docs/formats.md lists what is understood.

`run`, `plan` and `export` read descriptions as well: --from-libvirt, --from-xl
and --from-qemu, with other flags winning over them as over --config.

Examples:
  virsh dumpxml guest | numavisor import --from libvirt - --out guest.json
  numavisor plan --from-xl guest.cfg
  numavisor import --from qemu /proc/1234/cmdline
  numavisor export --to libvirt --from-xl guest.cfg";

/// The end of `serve --help`.
pub const SERVE: &str = "\
One VM at a time: PUT /v1/vm defines it, POST /v1/vm/boot starts it, DELETE
/v1/vm ends it and forgets it. `numavisor ctl` does all of it, and
GET /v1/openapi.json describes it.

SIGTERM, SIGINT and SIGHUP press the power button of a running VM, and end the
server when it is off; a second one ends everything at once (status 143).";

/// The end of `ctl --help`.
pub const CTL: &str = "\
Everything goes over the HTTP API of docs/api.md; curl does as well:
  curl --unix-socket vm.sock http://localhost/v1/vnodes

Examples:
  numavisor serve --api-socket vm.sock &
  export NUMAVISOR_SOCKET=vm.sock
  numavisor ctl define --kernel vmlinuz --vnodes 2
  numavisor ctl boot
  numavisor ctl move 1 --pnode 0
  numavisor ctl events --json | jq .
  numavisor ctl shutdown --timeout 60
  numavisor help ctl reclaim

Exit statuses: 0 done, 2 bad input, 3 the host refused or nobody listens,
6 there is no VM, or it is not in a state for it.";

/// The end of `host --help`.
pub const HOST: &str = "\
Online nodes, and their CPUs that are online and that this process may use (its
cpuset, from /proc/self/status; with another --sysfs, all of them).

A kernel without NUMA is one pnode, number 0.

AVAILABLE is what a VM can have: free memory and page cache, less what the
kernel keeps free (its watermarks, in /proc/zoneinfo). Huge pages are free/total
of each pool. Latency and bandwidth are those that the nearest CPUs see, where
the firmware has an HMAT; read/write where they differ.";
