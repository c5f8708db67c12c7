/** `faultline image …`: snapshots as images in a store. One file for each subcommand. */
import { Command } from "commander";
import { diffCommand } from "./image-diff.ts";
import { extractCommand } from "./image-extract.ts";
import { gcCommand } from "./image-gc.ts";
import { inspectCommand, lsCommand } from "./image-inspect.ts";
import { packCommand } from "./image-pack.ts";
import { pullCommand, pushCommand } from "./image-transfer.ts";
import { verifyCommand } from "./image-verify.ts";

export function imageCommand(): Command {
  const command = new Command("image")
    .description("keep snapshots as deduplicated, compressed, verified images")
    .addHelpText(
      "after",
      "\nA STORE is a folder (PATH or dir:PATH), a web server (https://HOST/FOLDER, read only),\n" +
        "or in S3 (s3://BUCKET/PREFIX). An IMAGE is NAME, in the store of --store or of\n" +
        "$FAULTLINE_STORE, or STORE/NAME. casync and desync read the same stores.\n" +
        "\nExample:\n  faultline image pack vm.mem --name web-1 --store /var/lib/images\n" +
        "  faultline image extract web-1 copy.mem --store /var/lib/images\n",
    );
  for (const create of [
    packCommand,
    lsCommand,
    inspectCommand,
    verifyCommand,
    extractCommand,
    diffCommand,
    pushCommand,
    pullCommand,
    gcCommand,
  ]) {
    command.addCommand(create());
  }
  return command;
}
