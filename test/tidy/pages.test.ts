/** What the files of the repository say to others: the page of errors, and no private places. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { errorCodes } from "../../src/base/errors.ts";
import { daemonCommand } from "../../src/cli/daemon.ts";
import { settingDefaults } from "../../src/daemon/settings.ts";
import { documentedErrors, errorPageViolations } from "../support/errors-page.ts";
import { hostOf, privateWordViolations } from "../support/private-words.ts";
import { assertNone, readRepositoryFile, repositoryFiles } from "../support/tree.ts";

/** `| \`setting\` | \`--option\` | \`default\` | … |` */
const SETTING_ROW = /^\| `([a-z][A-Za-z]+)` \| (?:`(--[a-z-]+)` )?\| ([^|]+) \| [^|]+ \|$/gm;

describe("docs/ERRORS.md", () => {
  const page = readRepositoryFile("docs/ERRORS.md");

  test("has every error code with its exit code and meaning, and no other", () => {
    assertNone(errorPageViolations(page, errorCodes));
  });

  test("has a cure for every code", () => {
    for (const [code, { cure }] of documentedErrors(page)) {
      assert.match(cure, /^[A-Z].*\.$/, code);
    }
  });

  test("a code missing, added, or told otherwise is found", () => {
    const planted =
      "| `a` | 1 | Same. | Do. |\n| `b` | 2 | Same. | Do. |\n| `d` | 1 | Old. | Do. |";
    const table = { a: [1, "Same."], b: [1, "Same."], c: [1, "New."], d: [1, "New."] } as const;
    assert.deepEqual(errorPageViolations(`${planted}\n| \`e\` | 1 | No. | Do. |`, table), [
      "docs/ERRORS.md says exit code 2 for b: it is 1",
      "docs/ERRORS.md lacks c",
      "docs/ERRORS.md and src/base/errors.ts differ in what d means",
      "docs/ERRORS.md has e, which does not exist",
    ]);
  });
});

describe("docs/DAEMON.md", () => {
  const rows = [...readRepositoryFile("docs/DAEMON.md").matchAll(SETTING_ROW)].map(
    ([, name = "", option = "", byDefault = ""]) => ({ name, option, byDefault }),
  );

  test("has every setting of the daemon, and no other", () => {
    const names = rows.map(({ name }) => name).sort();
    assert.deepEqual(names, Object.keys(settingDefaults).sort());
  });

  test("says what holds by default", () => {
    for (const { name, byDefault } of rows) {
      const value = settingDefaults[name];
      // What depends on the machine or the user is told in words.
      if (value === undefined || name === "workers") continue;
      assert.equal(byDefault, `\`${JSON.stringify(value)}\``, name);
    }
  });

  test("names options that there are", () => {
    const known = daemonCommand().options.map(({ long }) => long);
    for (const { name, option } of rows) {
      if (option !== "") assert.ok(known.includes(option), `${name}: ${option}`);
    }
  });
});

describe("private places", () => {
  test("stand in no file of this repository", () => {
    const hosts = hostOf(process.env.npm_config_registry);
    for (const file of repositoryFiles()) {
      const text = readRepositoryFile(file);
      if (!text.includes("\0")) assertNone(privateWordViolations(file, text, hosts));
    }
  });

  const work = ["", "work", ""].join("/");
  const root = ["", "root", ""].join("/");
  const registry = ["registry", "npmjs", "org"].join(".");

  test("are found where a path begins, and by the host's name", () => {
    assert.deepEqual(privateWordViolations("a.md", `see\n\`${work}main\``), [
      `a.md:2 names the folder ${work}`,
    ]);
    assert.deepEqual(privateWordViolations("a.md", `cd ${root}x`), [
      `a.md:1 names the folder ${root}`,
    ]);
    assert.deepEqual(privateWordViolations("a.json", `"https://${registry}/x"`), [
      `a.json:1 names the package registry ${registry}`,
    ]);
    assert.deepEqual(privateWordViolations("a.md", "npm.example.com", ["npm.example.com"]), [
      "a.md:1 names the package registry npm.example.com",
    ]);
  });

  test("are not suspected in the middle of a path", () => {
    assert.deepEqual(privateWordViolations("a.md", `/home/me${work}x ./a${root}b $D${work}c`), []);
  });

  test("the host of a registry comes from its address", () => {
    assert.deepEqual(hostOf("https://npm.example.com:4873/x/"), ["npm.example.com"]);
    assert.deepEqual([hostOf(undefined), hostOf("nonsense")], [[], []]);
  });
});
