/** What doctor concludes from made-up machines: every fix is the exact command. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { type Finding, findingsOf, mayServe } from "../../src/cli/doctor-report.ts";
import type { FeatureReport, KernelReport } from "../../src/uffd/probe.ts";

const features = (isSupported: boolean | null): FeatureReport[] => [
  { name: "minorShmem", since: "5.14", isSupported },
  { name: "poison", since: "6.6", isSupported },
  { name: "wpAsync", since: "6.7", isSupported },
];

/** A machine on which all is well, and alice is not root. */
const goodReport: KernelReport = {
  kernel: { release: "6.18.44-fc-v669", architecture: "x64", pageSizeBytes: 4096 },
  user: {
    uid: 1000,
    outerUid: 1000,
    name: "alice",
    hasCapSysPtrace: false,
    hasCapSysResource: false,
    hasCapKill: true,
    hasCapChown: true,
    runFolder: { path: "/run/user/1000/faultline", isWritable: true },
  },
  confinement: { container: null, seccompMode: 0, isInitialUserNamespace: true },
  userfaultfd: {
    device: "ok",
    syscall: "EPERM",
    userModeOnly: "ok",
    unprivilegedSysctl: 0,
    features: features(true),
  },
  kvm: {
    device: "ok",
    group: "kvm",
    module: "kvm_intel",
    apiVersion: 12,
    capabilities: {
      KVM_CAP_USER_MEMORY2: 1,
      KVM_CAP_MEMORY_FAULT_INFO: 1,
      KVM_CAP_GUEST_MEMFD: 1,
      KVM_CAP_USERFAULT: 1,
    },
    userfault: { kind: "userfault", hasMemfdWrite: true, hasAsyncFaults: true, hasRings: true },
  },
  hugePages: { total: 512, free: 512, reserved: 0, surplus: 0, overcommit: 0 },
  transparentHugePages: "madvise",
  limits: {
    openFilesSoft: 65_536,
    openFilesHard: 65_536,
    maxMapCount: 65_530,
    overcommitMemory: 0,
    freeBytes: 2 ** 33,
    availableBytes: 2 ** 33,
  },
  processes: { pidfdOpen: "ok", peerPidfd: "ok", pagemapScan: "ok" },
};

type Changes = { readonly [Key in keyof KernelReport]?: Partial<KernelReport[Key]> };

/** The good machine with some facts changed, one level deep. */
function reportWith(changes: Changes): KernelReport {
  const merged: Record<string, unknown> = { ...goodReport };
  for (const [key, change] of Object.entries(changes)) {
    const before = merged[key];
    const isPlain = typeof before === "object" && typeof change === "object" && change !== null;
    merged[key] = isPlain ? { ...before, ...change } : change;
  }
  return merged as unknown as KernelReport;
}

function find(changes: Changes, name: string): Finding {
  const finding = findingsOf(reportWith(changes)).find((candidate) => candidate.name === name);
  assert.ok(finding, `there is no finding ${name}`);
  return finding;
}

function expectFix(changes: Changes, name: string, status: Finding["status"], fix?: string): void {
  const finding = find(changes, name);
  assert.equal(finding.status, status, finding.detail);
  assert.equal(finding.fix, fix);
  assert.equal(mayServe(findingsOf(reportWith(changes))), status !== "missing");
}

const root = { uid: 0, outerUid: 0, name: "root", hasCapSysResource: true };
const noUffd = { device: "ENOENT", syscall: "EPERM", userModeOnly: "ok" } as const;

describe("doctor: a good machine", () => {
  test("everything is ok, and nothing has a fix", () => {
    for (const finding of findingsOf(goodReport)) {
      assert.equal(finding.status, "ok", finding.name);
      assert.equal(finding.fix, undefined, finding.name);
    }
  });

  test("names are unique, and a report survives JSON", () => {
    const names = findingsOf(goodReport).map((finding) => finding.name);
    assert.equal(new Set(names).size, names.length);
    assert.deepEqual(findingsOf(JSON.parse(JSON.stringify(goodReport))), findingsOf(goodReport));
  });
});

describe("doctor: what every VM needs", () => {
  test("a kernel before 5.10 is too old; 5.10 and 6.1 are not", () => {
    expectFix({ kernel: { release: "5.4.0-150-generic" } }, "kernel", "missing");
    expectFix({ kernel: { release: "4.19.0" } }, "kernel", "missing");
    expectFix({ kernel: { release: "5.10.0-8-amd64" } }, "kernel", "ok");
    expectFix({ kernel: { release: "6.1" } }, "kernel", "ok");
  });

  test("an architecture without an ABI table is missing; arm64 says that it is untested", () => {
    expectFix({ kernel: { architecture: "riscv64" } }, "architecture", "missing");
    expectFix({ kernel: { architecture: "arm64" } }, "architecture", "ok");
    assert.match(
      find({ kernel: { architecture: "arm64" } }, "architecture").detail,
      /never tested/,
    );
  });

  test("a kernel with 64 KiB pages cannot serve 4 KiB guests", () => {
    expectFix({ kernel: { pageSizeBytes: 65_536 } }, "page-size", "missing");
  });

  test("a kernel built without userfaultfd is no use", () => {
    const absent = { device: "ENOENT", syscall: "ENOSYS", userModeOnly: "ENOSYS" } as const;
    const userfaultfd = { ...absent, unprivilegedSysctl: null, features: features(null) };
    expectFix({ userfaultfd }, "userfaultfd", "missing");
  });

  test("no pidfd", () => {
    expectFix({ processes: { pidfdOpen: "ENOSYS" } }, "pidfd", "missing");
    assert.match(find({ processes: { pidfdOpen: "EPERM" } }, "pidfd").detail, /seccomp/);
  });
});

describe("doctor: open files", () => {
  test("too few for ten VMs is missing, too few for a busy host is optional", () => {
    const fix = "sudo prlimit --pid $$ --nofile=65536:65536";
    const limits = (openFilesSoft: number) => ({ limits: { openFilesSoft, openFilesHard: 1024 } });
    expectFix(limits(93), "open-files", "missing", fix);
    expectFix(limits(1024), "open-files", "optional", fix);
    expectFix(limits(4096), "open-files", "ok");
  });

  test("a shell may raise its own limit up to the hard one, and root beyond it", () => {
    const limits = { openFilesSoft: 64, openFilesHard: 1_048_576 };
    expectFix({ limits }, "open-files", "missing", "ulimit -n 65536");
    const low = { openFilesSoft: 64, openFilesHard: 64 };
    expectFix({ limits: low, user: root }, "open-files", "missing", "ulimit -n 65536");
  });

  test("root without CAP_SYS_RESOURCE, as in containers, cannot: the container's start can", () => {
    const limits = { openFilesSoft: 64, openFilesHard: 64 };
    const user = { ...root, hasCapSysResource: false };
    const confinement = { container: "docker" } as const;
    const fix = "docker run --ulimit nofile=65536:65536 IMAGE";
    expectFix({ limits, user, confinement }, "open-files", "missing", fix);
    expectFix({ limits, user }, "open-files", "missing");
  });
});

describe("doctor: creating a userfaultfd", () => {
  const name = "userfaultfd-create";

  test("an unprivileged user gets a right on the device, if there is one", () => {
    const userfaultfd = { ...noUffd, device: "EACCES" } as const;
    const fix = "sudo setfacl -m u:alice:rw /dev/userfaultfd";
    expectFix({ userfaultfd }, name, "optional", fix);
  });

  test("a name from a directory service is quoted", () => {
    const userfaultfd = { ...noUffd, device: "EACCES" } as const;
    const fix = "sudo setfacl -m u:'CORP\\alice':rw /dev/userfaultfd";
    expectFix({ userfaultfd, user: { name: "CORP\\alice" } }, name, "optional", fix);
  });

  test("before Linux 6.1 there is no device: the sysctl", () => {
    const kernel = { release: "5.15.0" };
    const fix = "sudo sysctl -w vm.unprivileged_userfaultfd=1";
    expectFix({ userfaultfd: noUffd, kernel }, name, "optional", fix);
  });

  test("with the sysctl alone, Firecracker still insists on the device", () => {
    const userfaultfd = { device: "EACCES", syscall: "ok", unprivilegedSysctl: 1 } as const;
    const fix = "sudo setfacl -m u:alice:rw /dev/userfaultfd";
    expectFix({ userfaultfd }, name, "optional", fix);
    assert.match(find({ userfaultfd }, name).detail, /Firecracker/);
    expectFix({ userfaultfd: { ...userfaultfd, device: "ENOENT" } }, name, "ok");
  });

  test("root in a container is told to get the device from outside", () => {
    const confinement = { container: "docker", seccompMode: 2 } as const;
    const userfaultfd = { ...noUffd, userModeOnly: "EPERM" } as const;
    const changes = { userfaultfd, confinement, user: root };
    expectFix(changes, name, "optional", "docker run --device /dev/userfaultfd IMAGE");
    assert.match(find(changes, name).detail, /seccomp filter/);
    expectFix(
      { ...changes, kernel: { release: "5.15.0" } },
      name,
      "optional",
      "docker run --security-opt seccomp=unconfined --cap-add SYS_PTRACE IMAGE",
    );
  });

  test("no sysctl is offered against a filter that no sysctl lifts", () => {
    const confinement = { container: null, seccompMode: 2 } as const;
    const userfaultfd = { ...noUffd, userModeOnly: "EPERM" } as const;
    expectFix({ userfaultfd, confinement }, name, "optional");
  });

  test("root of a user namespace is fixed on the host, by the host's number", () => {
    const confinement = { container: "podman", isInitialUserNamespace: false } as const;
    const userfaultfd = { ...noUffd, device: "EACCES" } as const;
    const changes = { userfaultfd, confinement, user: { ...root, outerUid: 1000 } };
    const fix = "sudo setfacl -m u:1000:rw /dev/userfaultfd";
    expectFix(changes, name, "optional", fix);
    assert.match(find(changes, name).detail, /host/);
  });
});

describe("doctor: what some modes need", () => {
  test("an empty huge page pool gets 512 pages, a used-up one 512 more", () => {
    const empty = { total: 0, free: 0, reserved: 0, surplus: 0, overcommit: 0 };
    const fix = "sudo sysctl -w vm.nr_hugepages=512";
    expectFix({ hugePages: empty }, "huge-pages", "optional", fix);
    const used = { ...empty, total: 128, free: 4, reserved: 4 };
    const more = "sudo sysctl -w vm.nr_hugepages=640";
    expectFix({ hugePages: used }, "huge-pages", "optional", more);
    expectFix({ hugePages: { ...empty, overcommit: 64 } }, "huge-pages", "ok");
  });

  test("root needs no sudo", () => {
    const hugePages = { total: 0, free: 0, reserved: 0, surplus: 0, overcommit: 0 };
    const fix = "sysctl -w vm.nr_hugepages=512";
    expectFix({ hugePages, user: root }, "huge-pages", "optional", fix);
  });

  test("kvm: a group, a right on the node, a module, or the firmware", () => {
    const closed = { capabilities: null, apiVersion: null };
    const denied = { ...closed, device: "EACCES" } as const;
    expectFix({ kvm: denied }, "kvm", "optional", "sudo usermod -aG kvm alice");
    const acl = "sudo setfacl -m u:alice:rw /dev/kvm";
    expectFix({ kvm: { ...denied, group: null } }, "kvm", "optional", acl);
    const absent = { ...closed, device: "ENOENT" } as const;
    expectFix({ kvm: absent }, "kvm", "optional", "sudo modprobe kvm_intel");
    expectFix({ kvm: { ...absent, module: null } }, "kvm", "optional");
    assert.match(find({ kvm: { ...absent, module: null } }, "kvm").detail, /firmware/);
  });

  test("kvm-userfault says what a vCPU did, and is never missing", () => {
    const name = "kvm-userfault";
    const reason = "The kernel does not know KVM_MEM_USERFAULT.";
    // The number is there, and does not count.
    const none = { userfault: { kind: "none", reason } } as const;
    expectFix({ kvm: none }, name, "optional");
    assert.match(find({ kvm: none }, name).detail, /KVM_MEM_USERFAULT\. .*feature\/secret-hiding/);
    const closed = { ...none, device: "EACCES" } as const;
    expectFix({ kvm: closed }, name, "optional");
    assert.match(find({ kvm: closed }, name).detail, /Unknown without \/dev\/kvm\.$/);
  });

  test("kvm-userfault tells guests that wait from guests that go on, and how", () => {
    const detailWith = (changes: Record<string, boolean>, status: Finding["status"]): string => {
      const all = { hasMemfdWrite: true, hasAsyncFaults: true, hasRings: true };
      const kvm = { userfault: { kind: "userfault", ...all, ...changes } } as const;
      expectFix({ kvm }, "kvm-userfault", status);
      return find({ kvm }, "kvm-userfault").detail;
    };
    assert.match(detailWith({}, "ok"), /goes on meanwhile .*by rings/);
    assert.match(detailWith({ hasRings: false }, "ok"), /goes on meanwhile .*by exits/);
    assert.match(detailWith({ hasAsyncFaults: false, hasRings: false }, "ok"), /waits for it\.$/);
    assert.match(detailWith({ hasMemfdWrite: false }, "optional"), /no handler .*pwrite\.$/);
  });

  test("a feature that the kernel lacks names the kernel that has it", () => {
    const userfaultfd = { features: features(false) };
    expectFix({ userfaultfd }, "poison", "optional");
    assert.match(find({ userfaultfd }, "poison").detail, /--on-error poison.*6\.6/);
    assert.match(find({ userfaultfd }, "write-tracking").detail, /6\.7/);
    assert.match(find({ userfaultfd }, "minor-faults").detail, /5\.14/);
  });

  test("a feature that could not be asked for is not guessed to be there", () => {
    expectFix({ userfaultfd: { features: features(null) } }, "poison", "optional");
  });

  test("older kernels lack SO_PEERPIDFD and PAGEMAP_SCAN", () => {
    expectFix({ processes: { peerPidfd: "ENOPROTOOPT" } }, "peer-pidfd", "optional");
    expectFix({ processes: { pagemapScan: "ENOTTY" } }, "pagemap-scan", "optional");
  });

  test("settings of the memory subsystem", () => {
    expectFix(
      { transparentHugePages: "never" },
      "transparent-huge-pages",
      "optional",
      "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
    );
    const maps = "sudo sysctl -w vm.max_map_count=65530";
    expectFix({ limits: { maxMapCount: 4096 } }, "max-map-count", "optional", maps);
    const strict = "sudo sysctl -w vm.overcommit_memory=0";
    expectFix({ limits: { overcommitMemory: 2 } }, "overcommit", "optional", strict);
    expectFix({ limits: { availableBytes: 2 ** 20 } }, "memory", "optional");
  });
});

describe("doctor: what the daemon needs beyond serve", () => {
  test("descriptors for its sessions: those of the hard limit, which Node makes its own", () => {
    const few = { openFilesSoft: 4096, openFilesHard: 4096 };
    const fix = "sudo prlimit --pid $$ --nofile=65536:65536";
    expectFix({ limits: few }, "daemon-sessions", "optional", fix);
    assert.match(find({ limits: few }, "daemon-sessions").detail, /room for 661 sessions/);
    expectFix({ limits: { ...few, openFilesHard: 65_536 } }, "daemon-sessions", "ok");
  });

  test("a folder for its sockets", () => {
    const path = "/run/user/1000/faultline";
    const closed = { user: { runFolder: { path, isWritable: false } } };
    expectFix(closed, "daemon-run-folder", "optional", `sudo install -d -o alice ${path}`);
    const none = { user: { runFolder: null } };
    expectFix(none, "daemon-run-folder", "optional");
    assert.match(find(none, "daemon-run-folder").detail, /--run-folder/);
  });

  test("rights over VMs of other users", () => {
    const one = find({ user: { hasCapKill: false } }, "daemon-rights");
    assert.match(one.detail, /^Lacks CAP_KILL: .*killed.* AmbientCapabilities=/);
    assert.doesNotMatch(one.detail, /CAP_CHOWN/);
    expectFix({ user: { hasCapKill: false, hasCapChown: false } }, "daemon-rights", "optional");
  });
});
