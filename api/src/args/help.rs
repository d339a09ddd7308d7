//! Long help texts: rules, units, examples, exit statuses. Lines fit 80 columns.

/// The one-line description.
pub const ABOUT: &str = "A KVM virtual machine monitor whose whole point is virtual NUMA";

/// Shown after `-h`.
pub const SHORT: &str = "See --help for rules, examples and exit statuses.";

/// Shown after `--help`.
pub const LONG: &str = "\
A VM has vnodes, the NUMA nodes that the guest sees. Each vnode is placed on one
or more pnodes, the NUMA nodes of the host. `numavisor host` shows the pnodes,
`numavisor plan` shows where a VM would be placed, and `numavisor run` starts it.

Examples:
  numavisor host
  numavisor run --kernel vmlinuz --initramfs initrd.img \\
      --vcpus 4 --memory 2G --vnodes 2
  numavisor plan --numa id=0,memory=1G,vcpus=[0-1],pnode=0 \\
                 --numa id=1,memory=1G,vcpus=[2-3],pnode=1
  numavisor run --help          all VM flags and their rules

Exit statuses:
    0  the guest powered off, or the user quit with Ctrl-A x; for other
       commands: success
    1  internal error
    2  invalid input, or a file that is missing or in use: one line names the
       field, the value and the rule
    3  host error: one line names the operation, the object and the reason
    4  the guest reset itself (--on-reset exit)
    5  the guest crashed: a vCPU shut down after a triple fault
    6  ctl: there is no VM, or the VM is in the wrong state for the command
  143  the VM was killed by a second SIGTERM, SIGINT or SIGHUP, or because
       --shutdown-timeout expired (the first signal presses the power button)";

/// Shown after `run --help` and `plan --help`.
pub const VM: &str = "\
Sizes are in bytes, with an optional K, M, G or T (powers of 1024). Lists use the
Linux format, such as 0-3,8; inside --numa, a list with commas needs brackets:
vcpus=[0-3,8].

Vnodes (--numa, once per vnode; all keys except id are optional):
  id         0, 1, 2 ... in any order, without gaps
  memory     a multiple of 2M, or of 1G with pages=1G; 0 for a vnode with vCPUs
             only; default: an even share of the unassigned part of --memory
  vcpus      a list, [] for a vnode with memory only; default: an even share of
             the unassigned vCPUs
  pnode      a list of host nodes; default: chosen by --placement
  policy     bind        only on its pnodes; fails to start if it does not fit
                         (default)
             preferred   on its pnodes while they have room
             interleave  page by page over its pnodes
  affinity   soft        vCPUs run on the CPUs of its pnodes (default)
             hard        each vCPU runs on one CPU, while there are enough
             none        vCPUs run on any CPU
  pages      thp (transparent huge pages, default), 4K, or 2M or 1G from the
             hugetlb pools of its pnodes
  prefault   on or off: allocate all memory at start (default: off, but on with
             pages=2M and 1G)
  shared     on or off: back memory by a memfd that other processes can map and
             that an upgrade can hand over (default: off)
  latency    latency of its memory in the HMAT, in nanoseconds: 90 or 90ns
  bandwidth  bandwidth of its memory in the HMAT, in bytes per second; requires
             latency. For vCPUs of other vnodes both are scaled by distance
  initiator  for a vnode with memory only: the vnode it is attached to (HMAT)

Without --numa, the VM has --vnodes vnodes of equal size, with --vcpus vCPUs and
--memory in total. `--vnodes auto` creates as many as the VM needs pnodes.

Placement of vnodes without pnode=:
  auto       all of them on the fewest pnodes with room for each vnode and an
             unclaimed CPU for each vCPU; among these, the nearest to each other,
             then the least claimed, then those with the most free memory
  first-fit  each on the first pnode with room
  best-fit   each on the fullest pnode with room
  worst-fit  each on the emptiest pnode with room
With --fit strict, a VM that does not fit fails to start. With --fit prefer, its
vnodes are spread over several pnodes and CPUs are shared, and `plan` reports it;
memory that the host does not have is still an error.

Distances: 10 to itself, 11 to 254 to another vnode, 255 if unreachable. F:T=V
also applies to T:F unless that is given; the default is 20. `--distances host`
takes distances and HMAT values from the pnodes (11 if two vnodes share one),
`--attributes host` only the HMAT values.

HMAT by pair: `--attribute 0:1,latency=90ns,bandwidth=20G`, or read-latency,
write-latency, read-bandwidth, write-bandwidth. Memory-side caches:
`--memory-cache vnode=0,size=1G,level=1,associativity=none|direct|complex,
policy=none|write-back|write-through,line=64`.

Pins: `--pin 0-1=4-7,^5 --pin 2=node:1` overrides affinity. Lists of host CPUs
also accept all, node:N, nodes:N-M, and ^ to exclude CPUs.

--config FILE has the same fields as JSON; flags override fields and replace
whole lists:
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

/// Shown after `import --help`.
pub const IMPORT: &str = "\
Settings without a counterpart are ignored with one warning each. Settings that
would give a broken guest are errors with the line number. At most 1 MiB is read.
docs/formats.md lists the supported settings.

`run`, `plan` and `export` also read these formats directly: --from-libvirt,
--from-xl and --from-qemu. Other flags override them, as with --config.

Examples:
  virsh dumpxml guest | numavisor import --from libvirt - --out guest.json
  numavisor plan --from-xl guest.cfg
  numavisor import --from qemu /proc/1234/cmdline
  numavisor export --to libvirt --from-xl guest.cfg";

/// Shown after `serve --help`.
pub const SERVE: &str = "\
Serves one VM at a time: PUT /v1/vm defines it, POST /v1/vm/boot boots it, DELETE
/v1/vm stops and deletes it. `numavisor ctl` is a client for all operations.
GET /v1/openapi.json returns the OpenAPI document.

SIGTERM, SIGINT and SIGHUP press the power button of a running VM; the server
exits once the VM is off. A second signal kills the VM (status 143).";

/// Shown after `ctl --help`.
pub const CTL: &str = "\
A client for the HTTP API (docs/api.md). curl works too:
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

Exit statuses: 0 success, 2 invalid input, 3 host error or no server on the
socket, 6 no VM, or the VM is in the wrong state.";

/// Shown after `host --help`.
pub const HOST: &str = "\
Shows online nodes with their online CPUs that this process may use (its cpuset,
from /proc/self/status; with --sysfs, all of them).

A kernel without NUMA support has one pnode, number 0.

AVAILABLE is the memory that a VM can use: free memory and page cache, minus what
the kernel keeps free (its watermarks in /proc/zoneinfo). Huge pages are shown as
free/total per pool. Latency and bandwidth are those of the nearest CPUs, if the
firmware has an HMAT; read/write if they differ.";
