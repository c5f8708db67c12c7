/** What S3 says, and what we make of it: answers that a server on loopback does not give. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { parseListing, s3Failure } from "../../src/source/s3-answers.ts";

const asked = { bucket: "images", region: "us-east-1" };
const error = (code: string, more = ""): string =>
  `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code>${more}</Error>`;

function failure(
  status: number,
  text = "",
  headers: Record<string, string> = {},
): { code: string; message: string } {
  return s3Failure("Cannot read a", { status, headers, body: Buffer.from(text) }, asked);
}

describe("errors", () => {
  const transient: [status: number, text: string][] = [
    [503, error("SlowDown")],
    [500, error("InternalError")],
    [500, "<html>some proxy's page"],
    [502, ""],
    [429, ""],
    [400, error("RequestTimeout")],
    [400, error("XAmzContentSHA256Mismatch")],
    [307, error("TemporaryRedirect")],
  ];
  for (const [status, text] of transient) {
    test(`${status} ${text.slice(39, 80)} may pass`, () => {
      const { code, message } = failure(status, text);
      assert.equal(code, "store-failed");
      assert.match(message, new RegExp(`^Cannot read a: the server answers ${status}`));
    });
  }

  const region = { "x-amz-bucket-region": "eu-west-1" };
  const final: [what: string, given: Parameters<typeof failure>, says: RegExp][] = [
    ["another region, by header", [301, "", region], /images is in eu-west-1: set AWS_REGION=eu-w/],
    [
      "another region, by the error",
      [400, error("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>")],
      /images is in eu-west-1/,
    ],
    ["another region, for a new bucket", [307, "", region], /images is in eu-west-1/],
    ["a redirect without a region", [301, error("PermanentRedirect")], /Set AWS_REGION/],
    ["a clock", [403, error("RequestTimeTooSkewed")], /clocks of this machine and the server/],
    ["a missing bucket", [404, error("NoSuchBucket")], /no such bucket/],
    ["an unknown key", [403, error("InvalidAccessKeyId")], /does not know this access key/],
    ["a wrong secret", [403, error("SignatureDoesNotMatch")], /does not belong to the access key/],
    ["an old token", [400, error("ExpiredToken")], /sign in again/],
    ["no rights", [403, error("AccessDenied")], /may list the bucket \(s3:ListBucket on images\)/],
    ["no rights, told without a body", [403], /s3:ListBucket/],
    ["what is not implemented", [501, error("NotImplemented")], /does not take this request/],
  ];
  for (const [what, given, says] of final) {
    test(`${what} does not pass, and the cure is told`, () => {
      const { code, message } = failure(...given);
      assert.equal(code, "store-refused");
      assert.match(message, says);
    });
  }

  test("a region that is none is not repeated", () => {
    const { message } = failure(301, "", { "x-amz-bucket-region": "x; rm -rf" });
    assert.doesNotMatch(message, /rm/);
  });
});

describe("listings", () => {
  const listing = (text: string): string =>
    `<ListBucketResult><EncodingType>url</EncodingType>${text}</ListBucketResult>`;
  const entry = (key: string): string =>
    `<Contents><Key>${key}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>` +
    "<Size>7</Size></Contents>";
  const parse = (text: string): ReturnType<typeof parseListing> =>
    parseListing("Cannot list it", Buffer.from(text));

  test("no entry, one, and two", () => {
    const modifiedMs = Date.UTC(2026, 0, 2, 3, 4, 5);
    const of = (name: string): object => ({ name, sizeBytes: 7, modifiedMs });
    assert.deepEqual(parse(listing("")).objects, []);
    assert.deepEqual(parse(listing(entry("a"))).objects, [of("a")]);
    const two = parse(listing(entry("a+b%2Bc") + entry("%25&amp;")));
    assert.deepEqual(two.objects, [of("a b+c"), of("%&")]);
  });

  test("a key that looks like a number stays as it is", () => {
    assert.equal(parse(listing(entry("007"))).objects[0]!.name, "007");
  });

  test("the next page is there only if this one is not the last", () => {
    const token = "<NextContinuationToken>t</NextContinuationToken>";
    assert.equal(parse(listing(`<IsTruncated>true</IsTruncated>${token}`)).cursor, "t");
    assert.equal(parse(listing(`<IsTruncated>false</IsTruncated>${token}`)).cursor, null);
  });

  const broken = [
    "",
    "<html></html>",
    listing(entry("a")).slice(0, -5),
    listing("<Contents><Key>a</Key></Contents>"),
    listing("<IsTruncated>true</IsTruncated>"),
  ];
  for (const text of broken) {
    test(`${text.slice(0, 90)} is none`, () => {
      assert.throws(
        () => parse(text),
        (thrown) => {
          assert.ok(thrown instanceof FaultlineError);
          return thrown.code === "store-failed";
        },
      );
    });
  }
});
