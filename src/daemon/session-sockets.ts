/**
 * The files that the VMM of one session connects to: the session's socket and, with `asyncFaults`,
 * `apf.socket` beside it, which a VMM looks for by this name. So a session with both has a folder
 * of its own, unless it was told a path.
 */
import { mkdirSync, realpathSync, rmdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { FaultlineError } from "../base/errors.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { ASYNC_FAULT_SOCKET } from "./async-fault-socket.ts";
import type { SessionRecord } from "./session-record.ts";
import { SocketFile } from "./socket-file.ts";

/** VMs that connect to one session's socket at the same time: there is only one. */
const BACKLOG = 8;
/** In a session's own folder. */
const NAME = "vm.sock";
/** Others get through to what they know the name of; the sockets have owners. */
const FOLDER_MODE = 0o711;

type Place = Pick<SessionRecord, "id" | "socketPath" | "owner" | "asyncFaults">;

export class SessionSockets {
  /** Null: an earlier process had not got so far. */
  readonly listener: SocketFile | null;
  /** Null: without asynchronous faults. */
  readonly asyncFaults: SocketFile | null;
  /** The folder of this session alone; null: others are in it, too. */
  readonly #ownFolder: string | null;

  private constructor(
    listener: SocketFile | null,
    asyncFaults: SocketFile | null,
    ownFolder: string | null,
  ) {
    this.listener = listener;
    this.asyncFaults = asyncFaults;
    this.#ownFolder = ownFolder;
  }

  /**
   * `folder`: where sockets lie that nobody wants elsewhere.
   * @throws FaultlineError `socket-path`, `socket-in-use`, `socket-failed`
   */
  static listen(place: Place, folder: string): SessionSockets {
    const { socketPath, owner } = place;
    const ownFolder = ownFolderOf(place, folder);
    const isOurs = ownFolder !== null || dirname(socketPath) === realpathSync(folder);
    const listen = isOurs ? SocketFile.listen : SocketFile.listenAmongOthers;
    let asyncFaults: SocketFile | null = null;
    try {
      // First: a VMM connects there before it does to the session's socket.
      if (place.asyncFaults) asyncFaults = listen(asyncPathOf(socketPath), BACKLOG, { owner });
      return new SessionSockets(listen(socketPath, BACKLOG, { owner }), asyncFaults, ownFolder);
    } catch (error) {
      asyncFaults?.close();
      if (ownFolder !== null) removeFolder(ownFolder);
      throw error;
    }
  }

  /** What an earlier process of ours has bound. */
  static adopt(
    place: Place,
    listener: OwnedFd | undefined,
    asyncFaults: OwnedFd | undefined,
    folder: string,
  ): SessionSockets {
    const adopted = (path: string, fd: OwnedFd | undefined): SocketFile | null =>
      fd === undefined ? null : SocketFile.adopt(path, fd);
    return new SessionSockets(
      adopted(place.socketPath, listener),
      adopted(asyncPathOf(place.socketPath), asyncFaults),
      ownFolderOf(place, folder),
    );
  }

  /** Stops listening; nothing is left of it. */
  close(): void {
    this.listener?.close();
    this.asyncFaults?.close();
    if (this.#ownFolder !== null) removeFolder(this.#ownFolder);
  }
}

/** Makes the folder of a session, if that is to have one, and says where its socket is to be. */
export function defaultSocketPath(folder: string, id: string, asyncFaults: boolean): string {
  if (!asyncFaults) return join(folder, `${id}.sock`);
  const own = join(folder, id);
  try {
    mkdirSync(own, { recursive: true, mode: FOLDER_MODE });
  } catch (cause) {
    const message = `The folder ${own} of a session's sockets cannot be created`;
    throw new FaultlineError("socket-failed", message, { cause });
  }
  return join(own, NAME);
}

function asyncPathOf(socketPath: string): string {
  return join(dirname(socketPath), ASYNC_FAULT_SOCKET);
}

function ownFolderOf({ id, socketPath, asyncFaults }: Place, folder: string): string | null {
  const own = join(realpathSync(folder), id);
  return asyncFaults && socketPath === join(own, NAME) ? own : null;
}

function removeFolder(folder: string): void {
  try {
    rmdirSync(folder);
  } catch {
    // Somebody has put something there, or has removed it.
  }
}
