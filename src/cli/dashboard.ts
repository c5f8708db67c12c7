/** `faultline dashboard`: where the daemon's dashboard is to be opened. */
import { Command } from "commander";
import { ExitCode } from "../base/errors.ts";
import type { DashboardPlace } from "../daemon/dashboard/protocol.ts";
import { type ControlFlags, openClient, print, withControlOptions } from "./control-options.ts";

const NOT_SERVED =
  "The daemon serves its dashboard on its control socket only, which no browser reaches. " +
  "Start it with --dashboard 127.0.0.1:7433, or set dashboardAddress, and reload it.";
const NOT_YET =
  "The daemon cannot have the dashboard's address for now: somebody else has it, or it is none " +
  "of this host. It tries again each second; its log says more.";

export function dashboardCommand(): Command {
  const command = new Command("dashboard").description(
    "print the address of the daemon's dashboard, with the token that it wants",
  );
  return withControlOptions(command)
    .addHelpText("after", "\nExample:\n  faultline dashboard\n")
    .action(async (flags: ControlFlags) => {
      const place = await openClient(flags).dashboard();
      const url = urlOf(place);
      if (url !== null || flags.json) print(flags, { ...place, url }, `${url}\n`);
      else process.stderr.write(`faultline: ${place.token === null ? NOT_SERVED : NOT_YET}\n`);
      if (url === null) process.exitCode = ExitCode.failed;
    });
}

/** Null: no browser can reach it. The token is in the fragment, which no browser sends. */
export function urlOf({ address, token }: DashboardPlace): string | null {
  return address === null || token === null ? null : `http://${address}/#${token}`;
}
