/** Readiness for service managers. See sd_notify(3): one datagram to $NOTIFY_SOCKET. */
import { sendDatagram } from "./socket.ts";

/** Sends `READY=1`, `STOPPING=1`, …; false if no service manager asked for it. */
export function notifyServiceManager(state: string): boolean {
  const path = process.env.NOTIFY_SOCKET;
  if (path === undefined || path === "") return false;
  sendDatagram(path, state);
  return true;
}
