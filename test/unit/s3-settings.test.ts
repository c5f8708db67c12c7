/** Endpoint, region and credentials are found where AWS's own tools find them. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { after, beforeEach, describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { findSettings } from "../../src/source/s3-settings.ts";
import { S3Store } from "../../src/source/s3-store.ts";
import { TestFolder } from "../support/fixtures.ts";

const folder = new TestFolder();
after(() => folder[Symbol.dispose]());
const never = new AbortController().signal;
let files = 0;

/** No variable, no profile and no metadata of the machine that the tests run on. */
beforeEach(() => {
  for (const name of Object.keys(process.env)) {
    if (/^(?:AWS|FAULTLINE_S3)_/.test(name)) delete process.env[name];
  }
  process.env.AWS_EC2_METADATA_DISABLED = "true";
  profile("", "");
});

/** Each test has its own files: AWS's code remembers what it has read. */
function profile(config: string, secrets: string): void {
  process.env.AWS_CONFIG_FILE = folder.at(`config-${++files}`);
  process.env.AWS_SHARED_CREDENTIALS_FILE = folder.at(`credentials-${files}`);
  writeFileSync(process.env.AWS_CONFIG_FILE, config);
  writeFileSync(process.env.AWS_SHARED_CREDENTIALS_FILE, secrets);
}

async function place(bucket = "bucket", options = {}): Promise<string> {
  const { origin, basePath } = await findSettings(bucket, options);
  return origin.origin + basePath;
}

describe("the endpoint", () => {
  test("of AWS has the bucket in its name, but for buckets with dots", async () => {
    process.env.AWS_REGION = "eu-west-1";
    assert.equal(await place(), "https://bucket.s3.eu-west-1.amazonaws.com/");
    assert.equal(await place("a.b"), "https://s3.eu-west-1.amazonaws.com/a.b/");
    assert.equal(
      await place("b", { region: "cn-north-1" }),
      "https://b.s3.cn-north-1.amazonaws.com.cn/",
    );
  });

  test("of others has the bucket in its path, if nobody says otherwise", async () => {
    process.env.AWS_ENDPOINT_URL = "http://general:1/";
    assert.equal(await place(), "http://general:1/bucket/");
    process.env.AWS_ENDPOINT_URL_S3 = "http://special:2/folder";
    assert.equal(await place(), "http://special:2/folder/bucket/");
    process.env.FAULTLINE_S3_PATH_STYLE = "0";
    assert.equal(await place(), "http://bucket.special:2/folder/");
    assert.equal(await place("bucket", { isPathStyle: true }), "http://special:2/folder/bucket/");
    assert.equal(await place("bucket", { endpoint: "https://given" }), "https://bucket.given/");
  });

  test("stands in the profile too", async () => {
    profile("[profile other]\nendpoint_url = http://profile:3\nregion = eu-north-1\n", "");
    process.env.AWS_PROFILE = "other";
    assert.equal(await place(), "http://profile:3/bucket/");
    assert.equal((await findSettings("bucket", {})).region, "eu-north-1");
  });

  const bad: [variable: string, value: string][] = [
    ["AWS_ENDPOINT_URL", "nonsense"],
    ["AWS_ENDPOINT_URL", "http://user:secret@host"],
    ["AWS_ENDPOINT_URL", "ftp://host"],
    ["AWS_ENDPOINT_URL", "http://host?secret"],
    ["AWS_REGION", "no region"],
    ["FAULTLINE_S3_PATH_STYLE", "yes"],
    ["AWS_PROFILE", ""],
  ];
  for (const [variable, value] of bad) {
    test(`${variable}=${value} is refused`, async () => {
      process.env[variable] = value;
      await assert.rejects(findSettings("bucket", {}), (error) => {
        assert.ok(error instanceof FaultlineError, String(error));
        assert.doesNotMatch(error.message, /secret/);
        return error.code === "bad-option";
      });
    });
  }
});

describe("credentials", () => {
  const find = async (): Promise<unknown> => {
    const settings = await findSettings("bucket", { endpoint: "http://127.0.0.1:1" });
    const { accessKeyId, secretAccessKey, sessionToken } = await settings.credentials();
    return [accessKeyId, secretAccessKey, sessionToken];
  };

  test("stand in the environment, with a session token", async () => {
    process.env.AWS_ACCESS_KEY_ID = "key";
    process.env.AWS_SECRET_ACCESS_KEY = "secret";
    process.env.AWS_SESSION_TOKEN = "token";
    assert.deepEqual(await find(), ["key", "secret", "token"]);
  });

  test("stand in a profile", async () => {
    const secrets = "[other]\naws_access_key_id = key\naws_secret_access_key = secret\n";
    profile("", secrets);
    process.env.AWS_PROFILE = "other";
    assert.deepEqual(await find(), ["key", "secret", undefined]);
  });

  test("come from a program that a profile names", async () => {
    const answer = { Version: 1, AccessKeyId: "key", SecretAccessKey: "secret" };
    profile(`[default]\ncredential_process = echo '${JSON.stringify(answer)}'\n`, "");
    assert.deepEqual(await find(), ["key", "secret", undefined]);
  });

  test("come from the container's metadata", async () => {
    const Expiration = new Date(Date.now() + 3_600_000).toISOString();
    const answer = { AccessKeyId: "key", SecretAccessKey: "secret", Token: "token", Expiration };
    const server = createServer((_, response) => response.end(JSON.stringify(answer)));
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    process.env.AWS_CONTAINER_CREDENTIALS_FULL_URI = `http://127.0.0.1:${port}/`;
    assert.deepEqual(await find(), ["key", "secret", "token"]);
    server.closeAllConnections();
    server.close();
  });

  test("where there are none, a read is refused, with how to give them", async () => {
    const options = { endpoint: "http://127.0.0.1:1" };
    const store = await S3Store.open("s3://bucket", { bucket: "bucket", prefix: "" }, options);
    await assert.rejects(store.read("a", never), (error) => {
      assert.ok(error instanceof FaultlineError);
      assert.equal(error.code, "store-refused");
      assert.match(error.message, /no credentials were found.*Set AWS_ACCESS_KEY_ID/);
      return true;
    });
    await store.close();
  });

  test("that cannot be renewed may be there later", async () => {
    let isGone = false;
    const credentials = async (): Promise<{ accessKeyId: string; secretAccessKey: string }> => {
      if (isGone) throw new Error("no metadata");
      isGone = true;
      return { accessKeyId: "key", secretAccessKey: "secret" };
    };
    const options = { endpoint: "http://127.0.0.1:1", credentials };
    const store = await S3Store.open("s3://bucket", { bucket: "bucket", prefix: "" }, options);
    const says = [/no answer from 127.0.0.1:1/, /credentials could not be renewed/];
    for (const pattern of says) {
      await assert.rejects(store.read("a", never), (error) => {
        assert.ok(error instanceof FaultlineError);
        assert.equal(error.code, "store-failed");
        assert.match(error.message, pattern);
        return true;
      });
    }
    await store.close();
  });
});
