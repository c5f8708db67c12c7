/** A plain web server: nginx with one folder of files. */

import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { dirname } from "node:path";
import { TestFolder } from "./fixtures.ts";
import { freePorts, ServerProcess } from "./servers.ts";

const START_BUDGET_MS = 10_000;

export class Nginx {
  readonly port: number;
  readonly #folder: TestFolder;
  readonly #server: ServerProcess;

  private constructor(folder: TestFolder, server: ServerProcess, port: number) {
    this.#folder = folder;
    this.#server = server;
    this.port = port;
  }

  static async start(): Promise<Nginx> {
    const [port] = (await freePorts(1)) as [number];
    const folder = new TestFolder();
    mkdirSync(folder.at("files"));
    writeFileSync(folder.at("nginx.conf"), configuration(folder.path, port));
    const argv = ["nginx", "-c", folder.at("nginx.conf"), "-e", "stderr"];
    const nginx = new Nginx(folder, new ServerProcess(argv, folder.at("nginx.out")), port);
    try {
      await nginx.#server.until("nginx listened", () => canConnect(port), START_BUDGET_MS);
      return nginx;
    } catch (error) {
      await nginx[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The folder of its files on the web. */
  get location(): string {
    return `http://127.0.0.1:${this.port}/images`;
  }

  /** Where its files are. */
  get path(): string {
    return this.#folder.at("files");
  }

  plant(name: string, bytes: Uint8Array): void {
    const path = this.#folder.at(`files/images/${name}`);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, bytes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server[Symbol.asyncDispose]();
    this.#folder[Symbol.dispose]();
  }
}

function configuration(folder: string, port: number): string {
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
  return `daemon off;
master_process off;
pid ${folder}/nginx.pid;
events { worker_connections 256; }
http {
  access_log off;
  default_type application/octet-stream;
${temporary.map((name) => `  ${name}_temp_path ${folder}/${name};`).join("\n")}
  server {
    listen 127.0.0.1:${port};
    root ${folder}/files;
    location /forbidden/ { deny all; }
    location /moved/ { rewrite ^/moved/(.*)$ /images/$1 redirect; }
    location /loop/ { rewrite ^(.*)$ $1 redirect; }
    location /packed/ { alias ${folder}/files/images/; add_header Content-Encoding gzip; }
  }
}
`;
}

async function canConnect(port: number): Promise<boolean> {
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  socket.destroy();
  return true;
}
