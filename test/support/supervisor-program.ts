/** Run as a process: a supervisor with the options of its only argument, and its exit code. */
import { FaultlineError } from "../../src/base/errors.ts";
import { createLog } from "../../src/supervisor/log.ts";
import { Supervisor, type SupervisorOptions } from "../../src/supervisor/supervisor.ts";

const options = JSON.parse(process.argv[2]!) as Omit<SupervisorOptions, "log">;
try {
  process.exitCode = await Supervisor.run({
    ...options,
    log: createLog("debug"),
  });
} catch (error) {
  if (!(error instanceof FaultlineError)) throw error;
  process.stderr.write(`${error.code}: ${error.message}\n`);
  process.exitCode = error.exitCode;
}
