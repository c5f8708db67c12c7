/** Many VMs at rest on both sides: one of our processes for all, one C handler for each. */
import type { Child } from "../../src/kit/child.ts";
import { ManyVms } from "./guests.ts";
import { type HandlerOptions, startReference } from "./handlers.ts";
import type { Workspace } from "./workspace.ts";

/** Pages that each VM touches before it sleeps. */
export const TOUCHED_PAGES = 16;

/** C handlers with a VM each. Disposal ends the VMs, and with them the handlers. */
export class ReferenceCrowd {
  readonly handlers: Child[] = [];
  #vms: ManyVms | null = null;

  static async start(
    workspace: Workspace,
    options: HandlerOptions,
    count: number,
  ): Promise<ReferenceCrowd> {
    const crowd = new ReferenceCrowd();
    try {
      crowd.#vms = new ManyVms(workspace, options, TOUCHED_PAGES);
      for (let index = 0; index < count; index++) {
        crowd.handlers.push((await startReference(workspace, options)).child);
        await crowd.#vms.hold(1);
      }
      return crowd;
    } catch (error) {
      await crowd[Symbol.asyncDispose]();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#vms?.[Symbol.asyncDispose]();
    for (const handler of this.handlers) await handler[Symbol.asyncDispose]();
  }
}
