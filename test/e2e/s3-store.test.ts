/** The store in S3, before a real server that is not AWS's. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import type { S3Credentials } from "../../src/source/s3-settings.ts";
import { S3Store } from "../../src/source/s3-store.ts";
import { PolicyStore } from "../../src/source/store-policy.ts";
import {
  assertBytes,
  chunkName,
  objectStoreSuite,
  type Place,
} from "../support/object-store-suite.ts";
import { credentials, RadosGateway } from "../support/radosgw.ts";
import { requires } from "../support/requires.ts";
import { type FaultStage, readFaultSuite, writeFaultSuite } from "../support/store-fault-suite.ts";

const never = new AbortController().signal;
const BUCKET = "images";

describe("an S3 server", requires("radosgw"), () => {
  let gateway: RadosGateway;
  let places = 0;
  before(async () => {
    gateway = await RadosGateway.start();
    await gateway.makeBucket(BUCKET);
  });
  after(async () => {
    await gateway?.[Symbol.asyncDispose]();
  });

  const openAt = async (
    prefix: string,
    given: S3Credentials = credentials,
    endpoint = gateway.endpoint,
  ): Promise<S3Store> =>
    await S3Store.open(
      `s3://${BUCKET}/${prefix}`,
      { bucket: BUCKET, prefix },
      {
        endpoint,
        credentials: given,
      },
    );
  /** A prefix of its own for each test. */
  const open = async (): Promise<Place & { store: S3Store }> => ({
    store: await openAt(`place ${places++}/`),
  });

  objectStoreSuite("the bare store", open);
  objectStoreSuite(
    "the store under the request policy",
    async () => ({
      store: new PolicyStore((await open()).store),
    }),
    { manyObjects: 1100 },
  );

  describe("on a bad network", () => {
    const stage: FaultStage = {
      port: () => gateway.port,
      open: async (port) => await openAt("faults/", credentials, `http://127.0.0.1:${port}`),
      async plant(name, bytes) {
        const store = await openAt("faults/");
        await store.write(name, bytes, never);
        await store.close();
      },
    };
    readFaultSuite(stage);
    writeFaultSuite(stage);
  });

  test("a clock that is off is told, with how much", async (t) => {
    const store = await openAt("");
    t.mock.timers.enable({ apis: ["Date"], now: Date.now() - 40 * 60_000 });
    const told = /RequestTimeTooSkewed.*clock is 40 minutes behind the server's/;
    await assert.rejects(store.read("a", never), refusal(told));
    await store.close();
  });

  const refusal = (pattern: RegExp) => (error: unknown) => {
    assert.ok(error instanceof FaultlineError);
    assert.equal(error.code, "store-refused");
    assert.match(error.message, pattern);
    return true;
  };

  test("refuses a wrong secret and an unknown key, and says which it is", async () => {
    const wrong = await openAt("", { ...credentials, secretAccessKey: "wrong" });
    await assert.rejects(wrong.read("a", never), refusal(/SignatureDoesNotMatch.*AWS_SECRET/));
    const unknown = await openAt("", { ...credentials, accessKeyId: "NOBODY" });
    await assert.rejects(unknown.write("a", Buffer.alloc(9), never), refusal(/does not know this/));
    await assert.rejects(unknown.exists("a", never), refusal(/answers 403/));
    await Promise.all([wrong.close(), unknown.close()]);
  });

  test("a bucket that does not exist is no missing object", async () => {
    const options = { endpoint: gateway.endpoint, credentials };
    const store = await S3Store.open("s3://nowhere", { bucket: "nowhere", prefix: "" }, options);
    await assert.rejects(store.read("a", never), refusal(/There is no such bucket/));
    await assert.rejects(store.remove("a", never), refusal(/There is no such bucket/));
    await store.close();
  });

  test("stores beside each other do not see each other", async () => {
    const [left, right] = [await openAt("left/"), await openAt("left-over/")];
    await left.write(chunkName(1), Buffer.from("left"), never);
    assert.equal(await right.read(chunkName(1), never), null);
    const found: string[] = [];
    for await (const { name } of right.list("", never)) found.push(name);
    assert.deepEqual(found, []);
    assertBytes(await left.read(chunkName(1), never), Buffer.from("left"));
    await Promise.all([left.close(), right.close()]);
  });
});
