/** What commands that need VMs are tested against: a daemon, in a folder of its own. */
import type { ControlClient } from "../../src/daemon/control/client.ts";
import { DaemonProcess } from "./daemon-process.ts";
import { TestFolder } from "./fixtures.ts";

export interface ControlTarget extends AsyncDisposable {
  readonly controlPath: string;
  /** For whatever a test needs: memory, sockets. */
  readonly folder: string;
  readonly client: ControlClient;
}

export async function startControlTarget(): Promise<ControlTarget> {
  const folder = new TestFolder();
  const daemon = await DaemonProcess.start(folder, ["--socket-folder", folder.path]);
  return {
    controlPath: daemon.controlPath,
    folder: folder.path,
    client: daemon.client,
    [Symbol.asyncDispose]: async () => {
      await daemon[Symbol.asyncDispose]();
      folder[Symbol.dispose]();
    },
  };
}
