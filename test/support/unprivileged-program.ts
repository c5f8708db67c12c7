/** Run as a user without rights: prints, as JSON, what the kernel refused and what it allowed. */
import { FaultlineError } from "../../src/base/errors.ts";
import { killByPidfd, openPidfd } from "../../src/linux/process.ts";
import { Userfaultfd, type UserfaultfdOptions } from "../../src/uffd/userfaultfd.ts";
import { PAGE, Stage } from "./stage.ts";

export interface Refusal {
  readonly code: string;
  readonly message: string;
}

export interface UnprivilegedReport {
  readonly refusals: Readonly<Record<"device" | "syscall" | "auto" | "eventFork", Refusal | null>>;
  /** What a thread read from a page that was served through a userModeOnly descriptor. */
  readonly servedByte: number;
  readonly killOfInit: string;
}

function refusal(options: UserfaultfdOptions): Refusal | null {
  try {
    Userfaultfd.create(options).close();
    return null;
  } catch (error) {
    if (!(error instanceof FaultlineError)) throw error;
    return { code: error.code, message: error.message };
  }
}

async function serveOneByte(): Promise<number> {
  await using stage = new Stage({ userModeOnly: true });
  const touch = stage.toucher().read(stage.page(0));
  await stage.drained();
  stage.uffd.copy(stage.page(0), stage.source(0x42) + 0x41 * PAGE, PAGE);
  return await touch.done();
}

const init = openPidfd(1);
const report: UnprivilegedReport = {
  refusals: {
    device: refusal({ via: "device" }),
    syscall: refusal({ via: "syscall" }),
    auto: refusal({}),
    eventFork: refusal({ userModeOnly: true, features: ["eventFork"] }),
  },
  servedByte: await serveOneByte(),
  killOfInit: killByPidfd(init.fd),
};
init.close();
process.stdout.write(JSON.stringify(report));
