/** Connects to the socket in argv[2], receives one message and prints what came with it. */
import { connectUnix, receiveWithFds } from "../../src/linux/socket.ts";

using socket = connectUnix(process.argv[2]!);
const { byteCount, fds, isTruncated } = receiveWithFds(socket.fd, Buffer.alloc(64))!;
process.stdout.write(JSON.stringify({ byteCount, fdCount: fds.length, isTruncated }));
