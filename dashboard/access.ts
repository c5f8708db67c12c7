/**
 * How the page asks the daemon: always the daemon that it came from, always reading, with the token
 * if there is one. The token comes in the URL behind `#`, which no server sees, and is kept for as
 * long as this tab is open.
 */
import type { StreamSource } from "./live-stream.ts";
import { awake, whenResting } from "./visibility.ts";

const KEY = "faultline-token";

export class Access implements StreamSource {
  readonly awake = awake;
  readonly whenResting = whenResting;
  #token: string | null = sessionStorage.getItem(KEY);

  get hasToken(): boolean {
    return this.#token !== null;
  }

  use(token: string): void {
    this.#token = token;
    sessionStorage.setItem(KEY, token);
  }

  fetch(path: string, signal: AbortSignal): Promise<Response> {
    return fetch(path, {
      signal,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      headers: this.#token === null ? {} : { authorization: `Bearer ${this.#token}` },
    });
  }

  /** @throws Error if there is no answer, or it is none of success */
  async json<Answer>(path: string, signal: AbortSignal): Promise<Answer> {
    const response = await this.fetch(path, signal);
    if (!response.ok) throw new Error(`The daemon answered ${response.status}.`);
    return (await response.json()) as Answer;
  }
}
