/** The store of plain web servers, before nginx. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { HttpStore } from "../../src/source/http-store.ts";
import { PolicyStore } from "../../src/source/store-policy.ts";
import { Nginx } from "../support/nginx.ts";
import {
  assertBytes,
  chunkName,
  objectStoreSuite,
  type Place,
} from "../support/object-store-suite.ts";
import { requires } from "../support/requires.ts";
import { type FaultStage, readFaultSuite, tierFaultSuite } from "../support/store-fault-suite.ts";

const never = new AbortController().signal;

describe("a web server", requires("nginx"), () => {
  let nginx: Nginx;
  let places = 0;
  before(async () => {
    nginx = await Nginx.start();
  });
  after(async () => {
    await nginx[Symbol.asyncDispose]();
  });

  /** A folder of its own for each test. */
  const open = async (): Promise<Place & { store: HttpStore }> => {
    const folder = `place-${places++}`;
    return {
      store: new HttpStore(`${nginx.location}/${folder}`),
      plant: (name, bytes) => nginx.plant(`${folder}/${name}`, bytes),
    };
  };

  objectStoreSuite("the bare store", open, { isReadOnly: true });
  objectStoreSuite(
    "the store under the request policy",
    async () => {
      const place = await open();
      return { ...place, store: new PolicyStore(place.store) };
    },
    { isReadOnly: true },
  );

  describe("on a bad network", () => {
    const stage: FaultStage = {
      port: () => nginx.port,
      open: async (port) => new HttpStore(`http://127.0.0.1:${port}/images/faults`),
      plant: async (name, bytes) => nginx.plant(`faults/${name}`, bytes),
    };
    readFaultSuite(stage);
    tierFaultSuite(stage);
  });

  const refusal = (pattern: RegExp) => (error: unknown) => {
    assert.ok(error instanceof FaultlineError);
    assert.equal(error.code, "store-refused");
    assert.match(error.message, pattern);
    return true;
  };

  test("follows a redirect, but not for ever", async () => {
    nginx.plant("here/a", Buffer.from("found"));
    const moved = new HttpStore(`${nginx.location.replace("images", "moved")}/here`);
    assertBytes(await moved.read("a", never), Buffer.from("found"));
    assert.equal(await moved.exists("a", never), true);
    const loop = new HttpStore(nginx.location.replace("images", "loop"));
    await assert.rejects(loop.read("a", never), refusal(/redirects more than 5 times/));
    await Promise.all([moved.close(), loop.close()]);
  });

  test("says what to change where reading is forbidden", async () => {
    const store = new HttpStore(nginx.location.replace("images", "forbidden"));
    await assert.rejects(store.read("a", never), refusal(/answers 403\. Allow it to be read/));
    await store.close();
  });

  test("refuses what the server compressed", async () => {
    nginx.plant("page", Buffer.from("text ".repeat(100)));
    const store = new HttpStore(nginx.location.replace("images", "packed"));
    await assert.rejects(store.read("page", never), refusal(/sends it as .*gzip/));
    await store.close();
  });

  test("refuses a chunk that is larger than any can be", async () => {
    const { store, plant } = await open();
    plant!(chunkName(1), Buffer.alloc(5 * 2 ** 20));
    await assert.rejects(store.read(chunkName(1), never), refusal(/5242880 bytes, 4259840 are/));
    await store.close();
  });
});
