/** The OpenAPI document: whole in itself, and the same as what the server does. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { ControlStage } from "../support/control-stage.ts";
import { TableDashboard } from "../support/table-dashboard.ts";
import { TableHost } from "../support/table-host.ts";

type Json = Readonly<Record<string, unknown>>;

interface Parameter {
  readonly name: string;
  readonly in: string;
  readonly required: boolean;
  readonly schema: Json;
}

interface Operation {
  readonly operationId: string;
  readonly summary: string;
  readonly parameters?: readonly Parameter[];
  readonly requestBody?: { readonly required: boolean; readonly content: Json };
  readonly responses: Readonly<
    Record<string, { readonly description: string; readonly content: Json }>
  >;
}

interface Document {
  readonly openapi: string;
  readonly info: Json;
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, Json>> };
}

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/** What JSON Schema 2020-12 calls what we use of it; a misspelt keyword would mean nothing. */
const KEYWORDS = new Set(
  (
    "$ref type properties required additionalProperties propertyNames items prefixItems enum " +
    "const anyOf minimum maximum minLength maxLength minItems maxItems minProperties " +
    "maxProperties pattern format description"
  ).split(" "),
);

let stage: ControlStage;
let document: Document;

before(async () => {
  const metrics = (): string => "a 1\n";
  const dashboard = new TableDashboard();
  stage = await ControlStage.start({ service: new TableHost(), metrics, dashboard });
  document = (await stage.client.openApi()) as Document;
});
after(async () => await stage[Symbol.asyncDispose]());

function operations(): [path: string, method: string, operation: Operation][] {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]): [string, string, Operation] => [
      path,
      method,
      operation,
    ]),
  );
}

/** Every object below a value, with the way to it. */
function* objectsIn(value: unknown, at = "#"): Generator<[at: string, object: Json]> {
  if (typeof value !== "object" || value === null) return;
  if (!Array.isArray(value)) yield [at, value as Json];
  for (const [key, each] of Object.entries(value)) yield* objectsIn(each, `${at}/${key}`);
}

/** Schemas, and not the lists of properties in them. */
function* schemasIn(schema: Json, at: string): Generator<[at: string, schema: Json]> {
  yield [at, schema];
  const named = (schema.properties ?? {}) as Readonly<Record<string, Json>>;
  const inner: [string, unknown][] = [
    ...Object.entries(named),
    ["items", schema.items],
    ["propertyNames", schema.propertyNames],
    ["additionalProperties", schema.additionalProperties],
    ...((schema.anyOf ?? []) as Json[]).map((each, index): [string, Json] => [`any${index}`, each]),
  ];
  for (const [name, each] of inner) {
    if (typeof each === "object") yield* schemasIn(each as Json, `${at}/${name}`);
  }
}

describe("the document by itself", () => {
  test("says what it is", () => {
    assert.match(document.openapi, /^3\.1\.\d$/);
    assert.ok(typeof document.info.title === "string" && typeof document.info.version === "string");
  });

  test("every reference leads somewhere, and every schema is referred to", () => {
    const used = new Set<string>();
    for (const [at, { $ref }] of objectsIn(document)) {
      if ($ref === undefined) continue;
      const name = /^#\/components\/schemas\/(\w+)$/.exec(String($ref))?.[1];
      assert.ok(name !== undefined && name in document.components.schemas, `${at}: ${$ref}`);
      used.add(name);
    }
    // Parameters are spelt out.
    const queries = ["Session", "Metrics", "Trace", "Map", "Report", "Restore"];
    for (const query of queries) used.add(`${query}Query`);
    const unused = Object.keys(document.components.schemas).filter((name) => !used.has(name));
    assert.deepEqual(unused, []);
  });

  test("every parameter of a path is declared, required, and once", () => {
    for (const [path, method, { parameters = [] }] of operations()) {
      const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      const declared = parameters.filter((each) => each.in === "path");
      assert.deepEqual(
        declared.map(({ name }) => name),
        inPath,
        `${method} ${path}`,
      );
      assert.ok(declared.every(({ required }) => required));
      const names = parameters.map((each) => `${each.in} ${each.name}`);
      assert.equal(new Set(names).size, names.length);
    }
  });

  test("operations have names of their own, a summary, answers; GET has no body", () => {
    const names = operations().map(([, , { operationId }]) => operationId);
    assert.equal(new Set(names).size, names.length);
    for (const [path, method, { summary, responses, requestBody }] of operations()) {
      const where = `${method} ${path}`;
      assert.match(summary, /^[A-Z0-9].*\.$/, where);
      const statuses = Object.keys(responses);
      assert.ok(
        statuses.some((status) => status.startsWith("2")),
        where,
      );
      for (const [status, { description, content }] of Object.entries(responses)) {
        assert.match(status, /^[2345]\d\d$/, where);
        assert.notEqual(description, "", where);
        const type = status.startsWith("2")
          ? /json|text|octet-stream/
          : /^application\/problem\+json$/;
        for (const each of Object.keys(content)) assert.match(each, type, where);
      }
      if (method !== "post") assert.equal(requestBody, undefined, where);
    }
  });

  test("schemas use JSON Schema's words, their patterns compile, what is required exists", () => {
    for (const [name, root] of Object.entries(document.components.schemas)) {
      for (const [at, schema] of schemasIn(root, name)) {
        for (const word of Object.keys(schema)) assert.ok(KEYWORDS.has(word), `${at}: ${word}`);
        if (schema.pattern !== undefined) new RegExp(String(schema.pattern), "u");
        for (const each of (schema.required ?? []) as string[]) {
          assert.ok(Object.hasOwn(schema.properties as object, each), `${at}: ${each}`);
        }
      }
    }
  });

  test("requests are strict, and answers are not", () => {
    const { SessionSpec, SessionView } = document.components.schemas;
    assert.equal(SessionSpec?.additionalProperties, false);
    assert.equal(SessionView?.additionalProperties, undefined);
    assert.deepEqual(SessionSpec?.required, ["memory"]);
  });
});

describe("the document and the server", () => {
  const filled = (path: string): string => path.replace("{id}", "nobody").replace("{page}", "0");

  test("the server has every operation of the document", async () => {
    for (const [path, method] of operations()) {
      if (path === "/v1/reload") continue;
      // Of a stream there is no end.
      const asked = path.endsWith("/watch") ? "HEAD" : method.toUpperCase();
      const answer = await stage.ask(asked, filled(path));
      assert.ok(answer.status !== 405, `${method} ${path}`);
      const isUnknown = answer.status === 404 && answer.json.code !== "no-session";
      assert.ok(!isUnknown, `${method} ${path}`);
    }
  });

  test("the document has every method that the server takes on its paths", async () => {
    for (const [path, methods] of Object.entries(document.paths)) {
      const known = Object.keys(methods).map((method) => method.toUpperCase());
      const taken = new Set(known.includes("GET") ? [...known, "HEAD"] : known);
      for (const method of METHODS.filter((each) => !taken.has(each))) {
        const { status, headers } = await stage.ask(method, filled(path));
        assert.equal(status, 405, `${method} ${path}`);
        assert.deepEqual(new Set(String(headers.allow).split(", ")), taken);
      }
    }
  });

  test("answers with the statuses and types that it says", async () => {
    const { ask } = { ask: stage.ask.bind(stage) };
    const cases: [method: string, path: string, body?: unknown][] = [
      ["POST", "/v1/sessions", { id: "one", memory: "/a" }],
      ["POST", "/v1/sessions", { id: "one", memory: "/a" }],
      ["POST", "/v1/sessions", {}],
      ["GET", "/v1/sessions"],
      ["GET", "/v1/health"],
      ["GET", "/metrics"],
      ["POST", "/v1/drain", { draining: false }],
      ["POST", "/v1/reload"],
      ["POST", "/v1/images/prefetch", { memory: "a" }],
    ];
    for (const [method, path, body] of cases) {
      const { status, headers } = await ask(method, path, body);
      const { responses } = document.paths[path]![method.toLowerCase()]!;
      const types = Object.keys(responses[status]?.content ?? {});
      assert.deepEqual(types, [headers["content-type"]], `${method} ${path} → ${status}`);
    }
  });
});
