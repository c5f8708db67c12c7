/**
 * A real S3 server that is not AWS's: Ceph's RADOS gateway, with one monitor and one OSD that keeps
 * everything in memory. Unprivileged, on loopback, in one folder; ready after about a second.
 *
 * Its users are checked as in production: a wrong secret, a wrong hash of a body, or a clock that
 * is off are refused. Cephx, with which its parts would trust each other, is switched off.
 */
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { TestFolder } from "./fixtures.ts";
import { freePorts, ServerProcess } from "./servers.ts";
import { signedRequest } from "./signed-request.ts";

const START_BUDGET_MS = 60_000;

/** What its one user signs with. */
export const credentials = { accessKeyId: "TESTACCESSKEY", secretAccessKey: "test/secret+key" };

export class RadosGateway {
  readonly port: number;
  readonly #folder: TestFolder;
  readonly #servers: ServerProcess[] = [];

  private constructor(folder: TestFolder, port: number) {
    this.#folder = folder;
    this.port = port;
  }

  static async start(): Promise<RadosGateway> {
    const [monitorPort, port] = (await freePorts(2)) as [number, number];
    const gateway = new RadosGateway(new TestFolder(), port);
    try {
      await gateway.#start(monitorPort);
      return gateway;
    } catch (error) {
      await gateway[Symbol.asyncDispose]();
      throw error;
    }
  }

  get endpoint(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  async makeBucket(bucket: string): Promise<void> {
    const answer = await signedRequest(this.endpoint, "PUT", `/${bucket}`, credentials);
    if (answer.status !== 200) throw new Error(`No bucket: ${answer.status} ${answer.text}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // In memory only: there is nothing to shut down in order.
    for (const server of this.#servers.reverse()) await server[Symbol.asyncDispose]();
    this.#folder[Symbol.dispose]();
  }

  async #start(monitorPort: number): Promise<void> {
    const fsid = randomUUID();
    const osd = randomUUID();
    const at = (name: string): string => this.#folder.at(name);
    for (const name of ["mon", "osd", "run"]) mkdirSync(at(name));
    writeFileSync(at("keyring"), "");
    writeFileSync(at("ceph.conf"), configuration(this.#folder.path, fsid, monitorPort, this.port));
    const monitorAddress = `[v2:127.0.0.1:${monitorPort}]`;
    const map = ["--create", "--fsid", fsid, "--addv", "a", monitorAddress, at("monmap")];
    await this.#run("monmaptool", ...map);
    const mkfs = ["--mkfs", "--monmap", at("monmap"), "--keyring", at("keyring")];
    await this.#run("ceph-mon", ...this.#conf, "--id", "a", ...mkfs);
    this.#serve("ceph-mon", ...this.#conf, "--id", "a", "-f");
    await this.#run("ceph", ...this.#conf, "osd", "new", osd);
    await this.#run("ceph-osd", ...this.#conf, "--id", "0", "--mkfs", "--osd-uuid", osd);
    this.#serve("ceph-osd", ...this.#conf, "--id", "0", "-f");
    const server = this.#serve("radosgw", ...this.#conf, "--name", "client.rgw", "-f");
    const isUp = async (): Promise<boolean> => (await statusOf(this.endpoint)) === 200;
    await server.until("the S3 server answered", isUp, START_BUDGET_MS);
    const { accessKeyId, secretAccessKey } = credentials;
    const keys = [`--access-key=${accessKeyId}`, `--secret-key=${secretAccessKey}`];
    const user = ["user", "create", "--uid=test", "--display-name=test", ...keys];
    await this.#run("radosgw-admin", ...this.#conf, ...user);
  }

  get #conf(): string[] {
    return ["-c", this.#folder.at("ceph.conf")];
  }

  #serve(...argv: string[]): ServerProcess {
    const server = new ServerProcess(argv, this.#folder.at(`run/${argv[0]}.out`));
    this.#servers.push(server);
    return server;
  }

  async #run(...argv: string[]): Promise<void> {
    await this.#serve(...argv).finish(START_BUDGET_MS);
  }
}

function configuration(folder: string, fsid: string, monitorPort: number, port: number): string {
  return `[global]
fsid = ${fsid}
mon_host = [v2:127.0.0.1:${monitorPort}]
ms_bind_ipv6 = false
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
run_dir = ${folder}/run
admin_socket = ${folder}/run/$name.sock
log_file = ${folder}/run/$name.log
pid_file =
mon_data = ${folder}/mon
osd_data = ${folder}/osd
rgw_data = ${folder}/run
keyring = ${folder}/keyring
# No cephx; and then no encryption between the parts, or radosgw waits for it for 300 s.
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
ms_mon_cluster_mode = crc
ms_mon_service_mode = crc
ms_cluster_mode = crc
ms_service_mode = crc
ms_client_mode = crc
# One OSD, in memory, no copies.
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
# The disk of the test machine may be nearly full.
mon_data_avail_crit = 1
mon_data_avail_warn = 1
# The monitor gathers changes for a second: with ten pools to make, that is the whole start.
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
rgw_frontends = beast endpoint=127.0.0.1:${port}
rgw_enable_gc_threads = false
rgw_enable_lc_threads = false
rgw_enable_quota_threads = false
rgw_run_sync_thread = false
rgw_dynamic_resharding = false
rgw_override_bucket_index_max_shards = 1
rgw_thread_pool_size = 64
`;
}

async function statusOf(url: string): Promise<number> {
  const sent = request(url, { agent: false });
  sent.end();
  const [response] = await once(sent, "response");
  response.resume();
  return response.statusCode;
}
