/** Run as a process: a supervisor with the options of its only argument, and its exit code. */
import { writeSync } from "node:fs";
import { FaultlineError } from "../../src/base/errors.ts";
import type { Log } from "../../src/supervisor/log.ts";
import { Supervisor, type SupervisorOptions } from "../../src/supervisor/supervisor.ts";

const STDERR = 2;

/** Lines of the same form as the pager's. */
const log: Log = (level, msg, fields = {}) => {
  const line = { level, time: new Date().toISOString(), ...fields, msg };
  try {
    writeSync(STDERR, `${JSON.stringify(line)}\n`);
  } catch {
    // Nobody reads any more.
  }
};

// Asking has an effect that is needed: a pipe that nobody reads does not block any more.
void process.stderr.isTTY;
const options = JSON.parse(process.argv[2]!) as Omit<SupervisorOptions, "log">;
try {
  process.exitCode = await Supervisor.run({ ...options, log });
} catch (error) {
  if (!(error instanceof FaultlineError)) throw error;
  process.stderr.write(`${error.code}: ${error.message}\n`);
  process.exitCode = error.exitCode;
}
