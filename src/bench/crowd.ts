/**
 * Many VMs at rest, as a handler has them on a busy host: all at one process, or one process each,
 * whichever way the handler works. Disposal ends the VMs, and the processes that came with them.
 */
import type { HandlerCommand } from "../kit/handler-command.ts";
import { HandlerProcess } from "../kit/handler-process.ts";
import { waitFor } from "../kit/wait.ts";
import { ManyVms } from "./guests.ts";
import type { Workspace } from "./workspace.ts";

/** Pages that each VM touches before it sleeps. */
export const TOUCHED_PAGES = 16;
const LET_GO_MS = 2000;

export class Crowd {
  /** One for each VM, or none if they are at a handler that was there before. */
  readonly handlers: HandlerProcess[] = [];
  #vms: ManyVms | null = null;

  private constructor() {}

  /** All at one handler. */
  static async at(workspace: Workspace, handler: HandlerProcess, count: number): Promise<Crowd> {
    return await Crowd.#fill(async (crowd) => {
      crowd.#vms = new ManyVms(workspace, handler, TOUCHED_PAGES);
      await crowd.#vms.hold(count);
    });
  }

  /** Each with a handler of its own. */
  static async each(
    workspace: Workspace,
    command: HandlerCommand,
    memoryPath: string,
    count: number,
  ): Promise<Crowd> {
    return await Crowd.#fill(async (crowd) => {
      for (let index = 0; index < count; index++) {
        const socketPath = workspace.newPath("sock");
        const handler = await HandlerProcess.start(command, { socketPath, memoryPath });
        crowd.handlers.push(handler);
        if (crowd.#vms === null) crowd.#vms = new ManyVms(workspace, handler, TOUCHED_PAGES);
        else await crowd.#vms.moveTo(handler);
        await crowd.#vms.hold(1);
      }
    });
  }

  /** The VMs end, and their handlers; or the one that had them all has let go of each. */
  async disperse(handler: HandlerProcess | null): Promise<void> {
    await this.#vms?.release();
    await this[Symbol.asyncDispose]();
    if (handler === null) return;
    const isFree = (): boolean => handler.heldUserfaultfds() === 0;
    // One that never lets go is measured with what it holds.
    await waitFor("it let go of all VMs", isFree, LET_GO_MS).catch(() => undefined);
  }

  static async #fill(fill: (crowd: Crowd) => Promise<void>): Promise<Crowd> {
    const crowd = new Crowd();
    try {
      await fill(crowd);
      return crowd;
    } catch (error) {
      await crowd[Symbol.asyncDispose]();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#vms?.[Symbol.asyncDispose]();
    await Promise.all(this.handlers.map((handler) => handler[Symbol.asyncDispose]()));
  }
}
