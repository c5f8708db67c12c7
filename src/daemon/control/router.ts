/** Finds the route of a request, and checks what came with it against the route's schemas. PURE. */
import * as v from "valibot";
import { FaultlineError } from "../../base/errors.ts";
import { SESSION_ID } from "../host-service.ts";
import { HttpError } from "./problem.ts";
import { type Route, type RouteName, routes } from "./routes.ts";

/** The longest id, and labels to filter by; nothing else is long. */
export const MAX_URL_CHARACTERS = 4096;
/** Of a value that is told back to who sent it. */
const MAX_SHOWN = 100;

export interface Match {
  readonly name: RouteName;
  readonly route: Route;
  /** The session that the path names. */
  readonly id: string | undefined;
  /** The page of its VM that the path names. */
  readonly page: number | undefined;
}

const table = (Object.entries(routes) as [RouteName, Route][]).map(([name, route]) => ({
  name,
  route,
  pattern: patternOf(route.path),
}));

function patternOf(path: string): RegExp {
  const named = path.replaceAll(".", "\\.").replace("{id}", "([^/]+)");
  return new RegExp(`^${named.replace("{page}", "(\\d{1,10})")}$`);
}

/**
 * Paths are compared as they come: nothing in ours needs an escape, so an escape fits nothing.
 * @throws HttpError 404, 405, 414; FaultlineError `no-session`
 */
export function findRoute(method: string, url: string): Match {
  if (url.length > MAX_URL_CHARACTERS) {
    throw new HttpError(414, `The address has more than ${MAX_URL_CHARACTERS} characters.`);
  }
  const path = pathOf(url);
  const found = table.filter(({ pattern }) => pattern.test(path));
  if (found.length === 0) {
    throw new HttpError(
      404,
      `There is no ${show(path)}: GET /v1/openapi.json lists what there is.`,
    );
  }
  const wanted = method === "HEAD" ? "GET" : method;
  const match = found.find(({ route }) => route.method === wanted);
  if (match === undefined) throw notAllowed(method, path, found);
  const [, id, digits] = match.pattern.exec(path) ?? [];
  if (id !== undefined && !SESSION_ID.test(id)) {
    throw new FaultlineError(
      "no-session",
      `There is no session ${show(id)}: it is no name of one.`,
    );
  }
  const page = digits === undefined ? undefined : Number(digits);
  return { name: match.name, route: match.route, id, page };
}

/** @throws HttpError 400 */
export function parseQuery(route: Route, url: string): unknown {
  const given: Record<string, string | string[]> = Object.create(null);
  for (const [name, value] of new URLSearchParams(url.slice(pathOf(url).length))) {
    const isRepeated = route.repeated?.includes(name) === true;
    if (name in given && !isRepeated) {
      throw new HttpError(400, `${show(name)} is given more than once.`, { field: name });
    }
    if (isRepeated) given[name] = [...(given[name] ?? []), value];
    else given[name] = value;
  }
  if (route.query !== undefined) return check(route.query, given);
  const [unknown] = Object.keys(given);
  if (unknown === undefined) return undefined;
  throw new HttpError(400, `${show(unknown)} is no parameter of ${route.path}.`);
}

/** @throws HttpError 400 */
export function parseBody(route: Route, text: string | null): unknown {
  if (route.body === undefined) return undefined;
  if (text === null && route.isBodyOptional === true) return check(route.body, {});
  let json: unknown;
  try {
    json = JSON.parse(text ?? "");
  } catch (error) {
    const reason = (error as Error).message.slice(0, MAX_SHOWN);
    throw new HttpError(400, `The body is no JSON: ${reason}`);
  }
  return check(route.body, json);
}

function check(schema: v.GenericSchema, value: unknown): unknown {
  const result = v.safeParse(schema, value);
  if (result.success) {
    refuseListsForObjects(value, result.output);
    return result.output;
  }
  const [issue] = result.issues;
  const field = v.getDotPath(issue)?.slice(0, MAX_SHOWN);
  const what = field ?? "The request";
  const isOfFields = issue.type === "strict_object" && field !== undefined;
  if (isOfFields && issue.expected === "never") {
    throw badField(field, `${what} is no field that is known.`);
  }
  if (isOfFields && issue.input === undefined) throw badField(field, `${what} is missing.`);
  const wanted = issue.kind === "validation" ? issue.message : `expected ${issue.expected}`;
  throw badField(field, `${what} cannot be ${show(issue.input)}: ${wanted.slice(0, MAX_SHOWN)}.`);
}

/** For valibot a list is an object without fields. */
function refuseListsForObjects(value: unknown, output: unknown): void {
  if (Array.isArray(value)) throw badField(undefined, "The request cannot be a list.");
  const outputs = output as Readonly<Record<string, unknown>>;
  for (const [name, each] of Object.entries(value as object)) {
    if (Array.isArray(each) && !Array.isArray(outputs[name])) {
      throw badField(name, `${name} cannot be a list: expected Object.`);
    }
  }
}

function badField(field: string | undefined, message: string): HttpError {
  return new HttpError(400, message, field === undefined ? {} : { field });
}

function pathOf(url: string): string {
  const end = url.indexOf("?");
  return end === -1 ? url : url.slice(0, end);
}

function notAllowed(method: string, path: string, found: readonly { route: Route }[]): HttpError {
  const methods = new Set(found.map(({ route }) => route.method as string));
  if (methods.has("GET")) methods.add("HEAD");
  const allow = [...methods].join(", ");
  const message = `${method} is nothing for ${show(path)}: use ${allow}.`;
  return new HttpError(405, message, { headers: { allow } });
}

/** A value as it came, within bounds. */
function show(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object" && value !== null) return "an object";
  if (value === undefined) return "left out";
  const text = typeof value === "string" ? value.slice(0, MAX_SHOWN + 1) : String(value);
  const bounded = text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}…` : text;
  return typeof value === "string" ? JSON.stringify(bounded) : bounded;
}
