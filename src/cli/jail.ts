/**
 * Firecracker's jailer: where a VM's files are for us, and where for a Firecracker that has been
 * locked into `BASE/EXEC/ID/root`.
 */
import { constants, copyFileSync, lchownSync, mkdirSync, rmSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { FaultlineError } from "../base/errors.ts";
import type { SocketOwner } from "../daemon/socket-file.ts";

/** The jailer's own default. */
export const DEFAULT_CHROOT_BASE = "/srv/jailer";
/** What the jailer takes for an id. */
const JAIL_ID = /^[A-Za-z0-9-]{1,64}$/;
/** Where Firecracker listens in a jail unless told otherwise; the jailer creates the folder. */
const API_SOCKET = "/run/firecracker.socket";
const SOCKET = "/faultline.sock";
const STATE = "/vm.state";
const FOLDER_MODE = 0o755;

export interface JailOptions {
  readonly id: string;
  readonly chrootBase: string;
  /** The Firecracker binary: its name is part of the path. */
  readonly firecracker: string;
  readonly owner: SocketOwner;
}

export class Jail {
  /** Firecracker's paths of the socket for its memory, and of the VM's state. */
  readonly socketInside = SOCKET;
  readonly stateInside = STATE;
  readonly owner: SocketOwner;
  readonly #options: JailOptions;
  readonly #root: string;

  /** @throws FaultlineError `bad-option` */
  constructor(options: JailOptions) {
    const { id, chrootBase, firecracker, owner } = options;
    if (!JAIL_ID.test(id)) {
      throw new FaultlineError(
        "bad-option",
        `--jail-id ${id} cannot be used: give letters, digits and \`-\`, at most 64.`,
      );
    }
    this.#options = options;
    this.#root = join(resolve(chrootBase), basename(firecracker), id, "root");
    this.owner = owner;
  }

  /** The same socket for the daemon. */
  get socketPath(): string {
    return join(this.#root, SOCKET);
  }

  get apiSocket(): string {
    return join(this.#root, API_SOCKET);
  }

  /** Files have to be there before the jailer is started: it takes a folder that exists. */
  prepare(): void {
    try {
      mkdirSync(this.#root, { recursive: true, mode: FOLDER_MODE });
    } catch (cause) {
      const message = `The jail's folder ${this.#root} cannot be created. Run as root`;
      throw new FaultlineError("socket-path", message, { cause });
    }
  }

  /**
   * Copies the state: a link would change the owner of the original, too. Whatever an earlier VM of
   * this jail has left in its place is not followed.
   */
  addState(state: string): void {
    const target = join(this.#root, STATE);
    try {
      rmSync(target, { force: true });
      copyFileSync(state, target, constants.COPYFILE_EXCL);
      lchownSync(target, this.owner.uid, this.owner.gid);
    } catch (cause) {
      const message = `The state file ${state} cannot be copied into the jail`;
      throw new FaultlineError("bad-option", message, { cause });
    }
  }

  /** How to start Firecracker in it. */
  command(jailer: string): readonly string[] {
    const { id, chrootBase, firecracker, owner } = this.#options;
    const user = ["--uid", String(owner.uid), "--gid", String(owner.gid)];
    const place = ["--chroot-base-dir", resolve(chrootBase)];
    return [jailer, "--id", id, "--exec-file", resolve(firecracker), ...user, ...place];
  }
}
