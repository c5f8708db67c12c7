/**
 * One request that is signed for S3, for what a store does not do: making buckets, odd requests.
 */
import { once } from "node:events";
import { type IncomingMessage, request } from "node:http";
import { text } from "node:stream/consumers";
import { SignatureV4 } from "@smithy/signature-v4";
import type { S3Credentials } from "../../src/source/s3-settings.ts";
import { Sha256 } from "../../src/source/sha256.ts";

export async function signedRequest(
  endpoint: string,
  method: string,
  path: string,
  credentials: S3Credentials,
): Promise<{ status: number; text: string }> {
  const { protocol, hostname, host } = new URL(endpoint);
  const signer = new SignatureV4({
    service: "s3",
    region: "us-east-1",
    credentials,
    sha256: Sha256,
    uriEscapePath: false,
  });
  const signed = await signer.sign({ method, protocol, hostname, path, headers: { host } });
  const sent = request(endpoint + path, { method, headers: signed.headers, agent: false });
  sent.end();
  const [response] = (await once(sent, "response")) as [IncomingMessage];
  return { status: response.statusCode!, text: await text(response) };
}
