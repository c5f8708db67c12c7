/**
 * Which endpoint, region and credentials an S3 store uses: found as AWS's own tools find them
 * (environment, then the profile in ~/.aws), with AWS's own code. Loading it takes longer than
 * starting to serve, so nothing imports this but a store in S3 that is opened.
 */
import { FaultlineError } from "../base/errors.ts";

/** Whoever is not on EC2 or ECS waits this long, twice, to find that out. */
const METADATA_TIMEOUT_MS = 1000;
const METADATA_RETRIES = 1;
/** What servers other than AWS's are content with. */
const DEFAULT_REGION = "us-east-1";

export interface S3Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

/** What is not given comes from the environment or the profile. */
export interface S3Options {
  /** `https://HOST[:PORT]`; AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, `endpoint_url`. */
  readonly endpoint?: string;
  /** AWS_REGION, AWS_DEFAULT_REGION, `region`. */
  readonly region?: string;
  /** The bucket in the path instead of the host's name; FAULTLINE_S3_PATH_STYLE=0 or 1. */
  readonly isPathStyle?: boolean;
  /** The usual chain: environment, web identity, SSO, profile, process, container, instance. */
  readonly credentials?: S3Credentials | (() => Promise<S3Credentials>);
  /** A connection on which nothing happens for so long is given up. */
  readonly idleTimeoutMs?: number;
}

export interface S3Settings {
  /** Scheme, host and port to talk to. */
  readonly origin: URL;
  /** What stands before an object's key in the path: `/bucket/`, or `/`. */
  readonly basePath: string;
  readonly region: string;
  readonly credentials: () => Promise<S3Credentials>;
}

/** @throws FaultlineError `bad-option` */
export async function findSettings(bucket: string, options: S3Options): Promise<S3Settings> {
  const endpoint = options.endpoint ?? (await fromProfile("endpoint_url", endpointVariables));
  const region = await findRegion(options.region, endpoint !== null);
  const credentials = await credentialsOf(options.credentials);
  if (endpoint === null) {
    const domain = region.startsWith("cn-") ? "amazonaws.com.cn" : "amazonaws.com";
    // A certificate for *.s3.… does not fit a bucket with dots.
    const isPathStyle = options.isPathStyle ?? pathStyleVariable() ?? bucket.includes(".");
    return {
      ...addressOf(`https://s3.${region}.${domain}`, bucket, isPathStyle),
      region,
      credentials,
    };
  }
  // Other servers rarely have a host name for each bucket.
  const isPathStyle = options.isPathStyle ?? pathStyleVariable() ?? true;
  return { ...addressOf(endpoint, bucket, isPathStyle), region, credentials };
}

function addressOf(
  endpoint: string,
  bucket: string,
  isPathStyle: boolean,
): Pick<S3Settings, "origin" | "basePath"> {
  if (!URL.canParse(endpoint)) throw badEndpoint("It is no URL.");
  const url = new URL(endpoint);
  if (url.username !== "" || url.password !== "") {
    throw badEndpoint("It holds a user name or password, which would be logged.");
  }
  if (url.protocol !== "http:" && url.protocol !== "https:")
    throw badEndpoint("It is no web server.");
  if (url.search !== "" || url.hash !== "") throw badEndpoint("It has a part after ? or #.");
  const folder = url.pathname.replace(/\/*$/, "/");
  if (isPathStyle) return { origin: new URL(url.origin), basePath: `${folder}${bucket}/` };
  return { origin: new URL(`${url.protocol}//${bucket}.${url.host}`), basePath: folder };
}

function badEndpoint(why: string): FaultlineError {
  const text = "The endpoint for S3 cannot be used.";
  return new FaultlineError("bad-option", `${text} ${why} Write https://HOST[:PORT].`);
}

async function findRegion(given: string | undefined, hasEndpoint: boolean): Promise<string> {
  const region = given ?? (await fromProfile("region", regionVariables));
  if (region === null && hasEndpoint) return DEFAULT_REGION;
  if (region === null || !/^[a-z0-9-]{1,64}$/i.test(region)) {
    const what = region === null ? "No region is set" : `The region ${region} cannot be one`;
    const cure = "Set AWS_REGION, or `region` of the profile in ~/.aws/config.";
    throw new FaultlineError("bad-option", `${what} for S3. ${cure}`);
  }
  return region;
}

const endpointVariables = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
const regionVariables = ["AWS_REGION", "AWS_DEFAULT_REGION"];

/** From the first variable that is set, else from the profile that AWS_PROFILE names. */
async function fromProfile(key: string, variables: readonly string[]): Promise<string | null> {
  for (const variable of variables) {
    const value = process.env[variable];
    if (value !== undefined && value !== "") return value;
  }
  const { loadConfig } = await import("@smithy/core/config");
  const load = loadConfig<string>({
    environmentVariableSelector: () => undefined,
    configFileSelector: (profile) => profile[key],
    default: "",
  });
  return (await load()) || null;
}

function pathStyleVariable(): boolean | undefined {
  const value = process.env.FAULTLINE_S3_PATH_STYLE ?? "";
  if (value === "") return undefined;
  if (value !== "0" && value !== "1") {
    throw new FaultlineError("bad-option", `FAULTLINE_S3_PATH_STYLE is ${value}: write 0 or 1.`);
  }
  return value === "1";
}

async function credentialsOf(given: S3Options["credentials"]): Promise<S3Settings["credentials"]> {
  if (typeof given === "function") return given;
  if (given !== undefined) return async () => given;
  const { defaultProvider } = await import("@aws-sdk/credential-provider-node");
  // It remembers what it found, and renews it some minutes before it expires.
  return defaultProvider({ timeout: METADATA_TIMEOUT_MS, maxRetries: METADATA_RETRIES });
}
