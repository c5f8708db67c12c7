/** Firecracker's handshake as every release sends it, and everything else that may come instead. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { HUGE_PAGE_BYTES, SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { isCompleteHandshake, parseHandshake } from "../../src/protocol/handshake.ts";

const HOST_PAGE = SMALL_PAGE_BYTES;
const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
const parse = (text: string, hostPage = HOST_PAGE) => parseHandshake(bytesOf(text), hostPage);

/** One region with whatever fields a test is about. */
const one = (fields: object): string =>
  JSON.stringify([{ base_host_virt_addr: 0x4000_0000, size: 0x80_0000, offset: 0, ...fields }]);

/** A 4 GiB VM on x86-64: two mappings around the MMIO hole, the second below the first. */
const bases = [0x7f8d_8800_0000, 0x7f3d_0460_0000] as const;
const v1_1 =
  `[{"base_host_virt_addr":${bases[0]},"size":3221225472,"offset":0},` +
  `{"base_host_virt_addr":${bases[1]},"size":1073741824,"offset":3221225472}]`;
const v1_7 = v1_1.replaceAll("}", ',"page_size_kib":4096}');
const v1_12 = v1_1.replaceAll("}", ',"page_size":4096,"page_size_kib":4096}');
const v2_0 = v1_1.replaceAll("}", ',"page_size":4096}');
const huge = v1_12.replaceAll(":4096", ":2097152");

describe("every release's handshake", () => {
  const releases: readonly (readonly [string, string, number])[] = [
    ["v1.1 to v1.6, without a page size", v1_1, 4096],
    ["v1.7 to v1.11, bytes in page_size_kib", v1_7, 4096],
    ["v1.12 and on, both fields", v1_12, 4096],
    ["without the deprecated field", v2_0, 4096],
    ["with 2 MiB pages", huge, HUGE_PAGE_BYTES],
  ];
  for (const [name, text, pageSize] of releases) {
    test(name, () => {
      const map = parse(text);
      assert.equal(map.pageSizeBytes, pageSize);
      assert.deepEqual(map.regions, [
        { baseHostAddress: bases[0], sizeBytes: 3_221_225_472, imageOffset: 0 },
        { baseHostAddress: bases[1], sizeBytes: 1_073_741_824, imageOffset: 3_221_225_472 },
      ]);
      assert.equal(map.totalBytes, 2 ** 32);
    });
  }

  test("keys that we do not know are passed over", () => {
    const map = parse(one({ gpa: 4096, name: "ram", tags: ["a", { b: null }] }));
    assert.deepEqual(Object.keys(map.regions[0]!).sort(), [
      "baseHostAddress",
      "imageOffset",
      "sizeBytes",
    ]);
  });

  test("white space around and inside of it does not matter", () => {
    const pretty = JSON.stringify(JSON.parse(v1_12), null, 2);
    assert.deepEqual(parse(`\n ${pretty}\r\n`).regions, parse(v1_12).regions);
  });
});

describe("page size", () => {
  test("page_size counts if page_size_kib says something else", () => {
    const map = parse(one({ page_size: HUGE_PAGE_BYTES, page_size_kib: 2048 }));
    assert.equal(map.pageSizeBytes, HUGE_PAGE_BYTES);
  });

  test("is never below the host's, whatever the VMM says", () => {
    assert.equal(parse(one({ page_size: 4096 }), 65_536).pageSizeBytes, 65_536);
    assert.equal(parse(one({}), 16_384).pageSizeBytes, 16_384);
    assert.equal(parse(one({ page_size: HUGE_PAGE_BYTES }), 65_536).pageSizeBytes, HUGE_PAGE_BYTES);
  });

  test("powers of two from 4 KiB to 2 MiB are taken", () => {
    for (let size = 4096; size <= HUGE_PAGE_BYTES; size *= 2) {
      assert.equal(parse(one({ page_size: size })).pageSizeBytes, size);
    }
  });

  for (const size of [0, 1, 4, 2048, 4095, 6144, 12_288, 2 ** 22, 2 ** 30]) {
    test(`${size} is refused`, () => {
      for (const field of ["page_size", "page_size_kib"]) {
        assert.throws(() => parse(one({ [field]: size })), {
          code: "handshake",
          message: new RegExp(`^The page size ${size} is no power of two from 4096 to 2097152`),
        });
      }
    });
  }

  test("must be the same for all regions", () => {
    const second = JSON.parse(v1_12);
    second[1].page_size = HUGE_PAGE_BYTES;
    assert.throws(() => parse(JSON.stringify(second)), /differ in page size \(4096, 2097152\)/);
    delete second[1].page_size;
    delete second[1].page_size_kib;
    assert.throws(() => parse(JSON.stringify(second)), /differ in page size \(4096, none\)/);
  });
});

describe("what is refused", () => {
  const shapes: readonly (readonly [string, string, RegExp])[] = [
    ["no JSON", "GET / HTTP/1.1\r\n", /^The handshake is no JSON: "GET \/ HTTP\/1.1\\r\\n"/],
    ["half of it", v1_1.slice(0, 40), /is no JSON/],
    ["two of them", v1_1 + v1_1, /is no JSON/],
    ["nothing", "", /is no JSON: ""/],
    ["an object", '{"a":1}', /no list of memory regions/],
    ["a list of numbers", "[1]", /no list of memory regions/],
    ["null", "null", /no list of memory regions/],
    ["an empty list", "[]", /announces 0 memory regions/],
  ];
  for (const [name, text, message] of shapes) {
    test(name, () => assert.throws(() => parse(text), { code: "handshake", message }));
  }

  const values = [-1, 1.5, "4096", null, [], 2 ** 53, 1e300];
  for (const field of ["base_host_virt_addr", "size", "offset", "page_size", "page_size_kib"]) {
    test(`${field} that is no unsigned integer below 2^53`, () => {
      for (const value of values) {
        assert.throws(
          () => parse(one({ [field]: value })),
          (error: { code?: string; message?: string }) =>
            error.code === "handshake" && error.message?.includes(field) === true,
          JSON.stringify(value),
        );
      }
    });
  }

  test("a region without base, size or offset", () => {
    for (const field of ["base_host_virt_addr", "size", "offset"]) {
      assert.throws(() => parse(one({ [field]: undefined })), { code: "handshake" }, field);
    }
  });

  test("a message is one line of bounded length, whatever came", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 2000 }), (bytes) => {
        try {
          parseHandshake(bytes, HOST_PAGE);
        } catch (error) {
          const { code, message } = error as { code: string; message: string };
          assert.equal(code, "handshake");
          assert.ok(message.length < 1000 && !message.includes("\n"), message);
        }
      }),
    );
  });
});

/** Strings with everything in them that could look like an end. */
const trickyText = fc.string({ unit: fc.constantFrom(...'[]{}\\",:] é字🙂\n') });
const anyMessage = fc
  .array(fc.dictionary(trickyText, fc.oneof(trickyText, fc.array(trickyText, { maxLength: 3 }))), {
    minLength: 1,
    maxLength: 3,
  })
  .map((regions) => JSON.stringify(regions));

describe("isCompleteHandshake", () => {
  /** Cut anywhere, even inside of a UTF-8 sequence, only the whole is complete. */
  function checkPrefixes(text: string): void {
    const bytes = bytesOf(text);
    for (let length = 0; length < bytes.length; length++) {
      assert.equal(isCompleteHandshake(bytes.subarray(0, length)), false, text.slice(0, length));
    }
    assert.ok(isCompleteHandshake(bytes), text);
  }

  test("is false for every prefix of every release's handshake", () => {
    for (const text of [v1_1, v1_7, v1_12, v2_0, huge]) checkPrefixes(text);
  });

  test("brackets in strings and nested lists of unknown keys end nothing", () => {
    checkPrefixes(one({ note: "a]", "]": '\\"]', list: [[], ["]"], [{ "[": [] }]] }));
    fc.assert(fc.property(anyMessage, checkPrefixes));
  });

  test("white space after it may still come", () => {
    for (const tail of ["\n", " \r\n\t"]) assert.ok(isCompleteHandshake(bytesOf(v1_1 + tail)));
  });

  test("what is glued to it, or is no list, never completes", () => {
    for (const text of [`${v1_1}x`, `${v1_1}]`, v1_1 + v1_1, "{}", '"]"', "5", "", "]"]) {
      assert.equal(isCompleteHandshake(bytesOf(text)), false, text);
    }
  });

  test("looks at its own part of a larger buffer only", () => {
    const buffer = bytesOf(`[1,${v1_1}garbage`);
    assert.ok(isCompleteHandshake(buffer.subarray(3, 3 + v1_1.length)));
    assert.equal(parseHandshake(buffer.subarray(3, 3 + v1_1.length), HOST_PAGE).regions.length, 2);
  });
});
