/** The OpenAPI 3.1 document, made of the table of routes and the schemas. */
import { STATUS_CODES } from "node:http";
import { toJsonSchemaDefs } from "@valibot/to-json-schema";
import type * as v from "valibot";
import { SESSION_ID } from "../host-service.ts";
import { PROBLEM_TYPE } from "./problem.ts";
import { type Route, type RouteName, routes } from "./routes.ts";
import { schemas } from "./schemas.ts";

type Json = Readonly<Record<string, unknown>>;

/** What any request can be answered with. */
const COMMON_PROBLEMS = [400, 408, 413, 414, 415, 429, 431, 500];

export function openApiDocument(): Json {
  const paths: Record<string, Record<string, Json>> = {};
  for (const [name, route] of Object.entries(routes) as [RouteName, Route][]) {
    paths[route.path] ??= {};
    paths[route.path]![route.method.toLowerCase()] = operation(name, route);
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "Faultline control API",
      version: "1",
      description:
        "HTTP on the daemon's control socket: curl --unix-socket PATH http://localhost/…",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    servers: [{ url: "http://localhost" }],
    paths,
    components: { schemas: definitions() },
  };
}

const refTo = (name: string): string => `#/components/schemas/${name}`;

function definitions(): Json {
  return toJsonSchemaDefs(schemas, {
    target: "draft-2020-12",
    overrideRef: ({ referenceId }) => refTo(referenceId),
  }) as Json;
}

function operation(name: RouteName, route: Route): Json {
  const parameters = [...pathParameters(route), ...queryParameters(route)];
  const problems = [...new Set([...COMMON_PROBLEMS, ...route.problems])].sort((a, b) => a - b);
  return {
    operationId: name,
    summary: route.summary,
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(route.body === undefined ? {} : { requestBody: requestBody(route, route.body) }),
    responses: {
      [route.status]: { description: "Done.", content: content(route.answer) },
      ...Object.fromEntries(
        problems.map((status) => [
          status,
          {
            description: `${STATUS_CODES[status]}.`,
            content: { [PROBLEM_TYPE]: { schema: { $ref: refTo("Problem") } } },
          },
        ]),
      ),
    },
  };
}

function pathParameters({ path }: Route): Json[] {
  const schemas = {
    id: { type: "string", pattern: SESSION_ID.source },
    page: { type: "integer", minimum: 0 },
  };
  return Object.entries(schemas)
    .filter(([name]) => path.includes(`{${name}}`))
    .map(([name, schema]) => ({ name, in: "path", required: true, schema }));
}

/** The fields of the query's schema, each a parameter. */
function queryParameters({ query }: Route): Json[] {
  if (query === undefined) return [];
  const { properties } = definitions()[nameOf(query)] as {
    properties: Readonly<Record<string, Json>>;
  };
  return Object.entries(properties).map(([name, schema]) => ({
    name,
    in: "query",
    required: false,
    schema,
  }));
}

function requestBody({ isBodyOptional }: Route, body: v.GenericSchema): Json {
  return { required: isBodyOptional !== true, content: content(body) };
}

function content(answer: v.GenericSchema | string): Json {
  if (typeof answer === "string") return { [answer]: {} };
  return { "application/json": { schema: { $ref: refTo(nameOf(answer)) } } };
}

function nameOf(schema: v.GenericSchema): string {
  const [name] = Object.entries(schemas).find(([, each]) => each === schema) ?? [];
  if (name === undefined) throw new Error("A route has a schema without a name in schemas.ts.");
  return name;
}
