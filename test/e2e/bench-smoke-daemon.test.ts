/** Those benchmarks that start daemons, guests of several restores, or a browser still work. */
import { describe, test } from "node:test";
import { assertSmoke, daemonNames } from "../support/bench-smoke.ts";
import { requires } from "../support/requires.ts";

describe("npm run bench", () => {
  test("runs promises of the daemon", requires("userfaultfd", "cc", "chromium"), () =>
    assertSmoke([], daemonNames),
  );
});
