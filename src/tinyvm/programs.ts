/**
 * The guest's program as an assembler's listing: bytes on the left, x86-64 assembly on the right.
 *
 * It runs in long mode at privilege level 3 with IOPL 3 (linux/long-mode.ts), without a stack, so
 * that low memory is never written. `process-guest.ts` does the same in TypeScript; a test compares
 * the memory and the sums of both, and another assembles the right column again.
 *
 *     rdi  address of the RAM        r8 r9 r10   fill walk: count, stride, steps (of runs)
 *     ebx  seed of the fill          r11 r12 r13 working-set walk: count, stride, steps (of pages)
 *     rip  PROGRAM_ADDRESS           r11 r14 r15 dirty walk: count, stride, steps (of pages)
 *
 * What it OUTs, in this order: the sum of the working set, low half first; then (from here on in a
 * restored guest too) HELLO; the sum of the working set; the sum of the dirty pages; and anything
 * to the stop port.
 */

/** Where values come out, 32 bits each. */
export const VALUE_PORT = 0xe9;
/** An OUT here ends the guest. */
export const STOP_PORT = 0xf4;
/** The first value of a restored guest: `"HELO"`. */
export const HELLO = 0x4f4c4548;

/** The sum's multiplier in each 32-bit lane: the FNV prime. */
export const SUM_MULTIPLIER = 0x01000193;

const BYTES_COLUMNS = 24;

const listing = `
                        # Phase 1: fill runs of 64 KiB in the order of the fill walk.
89 d8                     mov eax, ebx             # eax: state of the generator
31 c9                     xor ecx, ecx             # rcx: which run
                        fill_run:
4d 85 d2                  test r10, r10            # r10: runs to go
74 3e                     jz filled
48 89 ce                  mov rsi, rcx
48 c1 e6 10               shl rsi, 16
48 01 fe                  add rsi, rdi             # rsi: where to write
ba 00 40 00 00            mov edx, 16384           # edx: words to go
                        fill_word:
89 c5                     mov ebp, eax
c1 e5 0d                  shl ebp, 13
31 e8                     xor eax, ebp
89 c5                     mov ebp, eax
c1 ed 11                  shr ebp, 17
31 e8                     xor eax, ebp
89 c5                     mov ebp, eax
c1 e5 05                  shl ebp, 5
31 e8                     xor eax, ebp
89 06                     mov [rsi], eax
48 83 c6 04               add rsi, 4
ff ca                     dec edx
75 e1                     jnz fill_word
4c 01 c9                  add rcx, r9              # the next run of the walk
4c 39 c1                  cmp rcx, r8
72 03                     jb fill_next
4c 29 c1                  sub rcx, r8
                        fill_next:
49 ff ca                  dec r10
eb bd                     jmp fill_run
                        filled:
4d 89 e2                  mov r10, r12
4c 89 ea                  mov rdx, r13
48 8d 2d 02 00 00 00      lea rbp, [rip + resumed] # a return address without a stack:
eb 50                     jmp sum                  # low memory is never written

                        # Phase 2. The snapshot is taken after the second OUT of sum: a restored
                        # guest goes on with its jmp rbp, and arrives here.
                        resumed:
b8 48 45 4c 4f            mov eax, 0x4f4c4548      # "HELO"
ef                        out dx, eax              # dx: still the value port
4d 89 e2                  mov r10, r12
4c 89 ea                  mov rdx, r13
48 8d 2d 02 00 00 00      lea rbp, [rip + dirty]
eb 3b                     jmp sum

                        # Write one word in each page of the dirty walk.
                        dirty:
31 c9                     xor ecx, ecx             # rcx: which page
4c 89 fb                  mov rbx, r15             # rbx: pages to go
                        dirty_page:
48 89 ce                  mov rsi, rcx
48 c1 e6 0c               shl rsi, 12
89 c8                     mov eax, ecx
f7 d0                     not eax
89 44 37 08               mov [rdi + rsi + 8], eax
4c 01 f1                  add rcx, r14             # the next page of the walk
4c 39 d9                  cmp rcx, r11
72 03                     jb dirty_next
4c 29 d9                  sub rcx, r11
                        dirty_next:
48 ff cb                  dec rbx
75 e1                     jnz dirty_page
4d 89 f2                  mov r10, r14
4c 89 fa                  mov rdx, r15
48 8d 2d 02 00 00 00      lea rbp, [rip + stop]
eb 08                     jmp sum
                        stop:
ba f4 00 00 00            mov edx, 0xf4
ef                        out dx, eax
eb f8                     jmp stop

                        # Sum rdx pages of the walk with stride r10, OUT the result, go to rbp.
                        # The sum depends on the order: two lanes, lane = lane * prime + word.
                        sum:
45 31 c0                  xor r8d, r8d             # r8d: lane of the even words
45 31 c9                  xor r9d, r9d             # r9d: lane of the odd words
31 c9                     xor ecx, ecx             # rcx: which page
                        sum_page:
48 89 ce                  mov rsi, rcx
48 c1 e6 0c               shl rsi, 12
48 01 fe                  add rsi, rdi             # rsi: where to read
48 8d 9e 00 10 00 00      lea rbx, [rsi + 4096]    # rbx: the end of the page
                        sum_word:
45 69 c0 93 01 00 01      imul r8d, r8d, 0x01000193
45 69 c9 93 01 00 01      imul r9d, r9d, 0x01000193
44 03 06                  add r8d, [rsi]
44 03 4e 04               add r9d, [rsi + 4]
48 83 c6 08               add rsi, 8
48 39 de                  cmp rsi, rbx
72 e2                     jb sum_word
4c 01 d1                  add rcx, r10             # the next page of the walk
4c 39 d9                  cmp rcx, r11
72 03                     jb sum_next
4c 29 d9                  sub rcx, r11
                        sum_next:
48 ff ca                  dec rdx
75 c1                     jnz sum_page
ba e9 00 00 00            mov edx, 0xe9
44 89 c0                  mov eax, r8d
ef                        out dx, eax
44 89 c8                  mov eax, r9d
ef                        out dx, eax
ff e5                     jmp rbp
`;

/** The program as the CPU takes it, to be loaded at PROGRAM_ADDRESS. */
export const program: Uint8Array = Uint8Array.from(
  listing.split("\n").flatMap((line) => {
    const bytes = line.slice(0, BYTES_COLUMNS).trim();
    return bytes === "" ? [] : bytes.split(" ").map((byte) => Number.parseInt(byte, 16));
  }),
);

/** The right column: what `as` makes `program` from. */
export const programAssembly: string = listing
  .split("\n")
  .map((line) => line.slice(BYTES_COLUMNS))
  .join("\n");
