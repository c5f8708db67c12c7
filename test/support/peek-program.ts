/** Peeks at the handshake on descriptor 3 and prints it, with the inode of what came with it. */
import { fstatSync } from "node:fs";
import { OwnedFd } from "../../src/linux/fd.ts";
import { receiveHandshake } from "../../src/protocol/receive.ts";

using connection = new OwnedFd(3);
const {
  body,
  descriptors: [descriptor],
} = await receiveHandshake(connection, { isPeeked: true });
process.stdout.write(JSON.stringify([Buffer.from(body).toString(), fstatSync(descriptor.fd).ino]));
descriptor.close();
