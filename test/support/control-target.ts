/**
 * What commands that need VMs are tested against: something with a control socket that serves
 * memory to VMs. Here it is a `HostService` with a `Server` for each session.
 */
import { join } from "node:path";
import type { SessionSpec, SessionView } from "../../src/daemon/host-service.ts";
import { createLogger } from "../../src/daemon/log.ts";
import { Server } from "../../src/daemon/server.ts";
import { ControlStage } from "./control-stage.ts";
import { TableHost } from "./table-host.ts";

export interface ControlTarget extends AsyncDisposable {
  readonly controlPath: string;
  /** For whatever a test needs. */
  readonly folder: string;
  readonly client: ControlStage["client"];
}

export async function startControlTarget(): Promise<ControlTarget> {
  const host = new ServingHost();
  const stage = await ControlStage.start({ service: host });
  host.folder = stage.folder;
  return {
    controlPath: stage.socketPath,
    folder: stage.folder,
    client: stage.client,
    [Symbol.asyncDispose]: async () => {
      await host.close();
      await stage[Symbol.asyncDispose]();
    },
  };
}

class ServingHost extends TableHost {
  folder = "";
  readonly #servers = new Map<string, Server>();

  override async createSession(spec: SessionSpec): Promise<SessionView> {
    const id = spec.id ?? `s${this.#servers.size}`;
    const socketPath = spec.socketPath ?? join(this.folder, `${id}.sock`);
    const server = await Server.start({
      memory: spec.memory,
      socketPath,
      once: true,
      workers: 1,
      logger: createLogger("silent", "json"),
      ...(spec.owner === undefined ? {} : { owner: spec.owner }),
    });
    this.#servers.set(id, server);
    server.onSession = (session) => {
      this.attach(id, session.pid);
      void session.ended.then(() => this.end(id, "exited"));
    };
    return await super.createSession({ ...spec, id, socketPath });
  }

  override async killSession(id: string): Promise<SessionView> {
    const { state, vm } = this.session(id);
    if (state === "attached" && vm !== null) process.kill(vm.pid, "SIGKILL");
    else await this.#servers.get(id)?.close();
    return await super.killSession(id);
  }

  async close(): Promise<void> {
    await Promise.all([...this.#servers.values()].map((server) => server.close()));
  }
}
