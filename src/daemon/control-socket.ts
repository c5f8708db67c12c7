/** The control socket: created once, and handed from pager to pager, so that nobody is refused. */
import type { OwnedFd } from "../linux/fd.ts";
import type { Keeper } from "./keeper.ts";
import { controlPathIn, type DaemonSettings } from "./settings.ts";
import { SocketFile } from "./socket-file.ts";

const BACKLOG = 128;

/** @throws FaultlineError `socket-in-use`, `socket-failed`, `socket-path` */
export function openControlSocket(
  { runFolder, controlOwner, controlMode }: DaemonSettings,
  kept: OwnedFd | null,
  keeper: Keeper,
): SocketFile {
  const path = controlPathIn(runFolder);
  if (kept !== null) return SocketFile.adopt(path, kept);
  const mode = Number.parseInt(controlMode, 8);
  const socket = SocketFile.listen(path, BACKLOG, { owner: controlOwner ?? null, mode });
  keeper.keep("control", [socket.listener.fd]);
  return socket;
}
