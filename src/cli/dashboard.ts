/** `faultline dashboard`: where the daemon's dashboard is to be opened. */
import { Command } from "commander";
import type { DashboardPlace } from "../daemon/dashboard/protocol.ts";
import { type ControlFlags, openClient, print, withControlOptions } from "./control-options.ts";

export function dashboardCommand(): Command {
  const command = new Command("dashboard").description(
    "print the address of the daemon's dashboard, with the token that it wants",
  );
  return withControlOptions(command).action(async (flags: ControlFlags) => {
    const place = await openClient(flags).dashboard();
    print(flags, { ...place, url: urlOf(place) }, describe(place));
  });
}

/** Null: no browser can reach it. The token is in the fragment, which no browser sends. */
export function urlOf({ address, token }: DashboardPlace): string | null {
  return address === null || token === null ? null : `http://${address}/#${token}`;
}

function describe(place: DashboardPlace): string {
  const url = urlOf(place);
  if (url !== null) return `${url}\n`;
  return (
    "The daemon serves its dashboard on its control socket only, where no browser comes.\n" +
    "Start it with --dashboard 127.0.0.1:7433, or set dashboardAddress, and reload it.\n"
  );
}
