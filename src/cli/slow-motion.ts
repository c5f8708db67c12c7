/**
 * Lets a process run for a moment at a time and stand still in between, so that eyes can follow
 * what it does. Nothing of it changes but when it happens: it is stopped and continued by signals.
 */

/** What it runs at a time: the shortest that a timer can tell. */
const RUN_MS = 1;

export class SlowMotion {
  readonly #pid: number;
  readonly #stillMs: number;
  #timer: NodeJS.Timeout | null = null;
  #isOver = false;

  /** `slowness`: how many times longer it takes, about. */
  constructor(pid: number, slowness: number) {
    this.#pid = pid;
    this.#stillMs = RUN_MS * Math.max(0, slowness - 1);
  }

  /** It may stand still already. */
  begin(): void {
    if (this.#stillMs > 0) this.#stop();
    else this.#signal("SIGCONT");
  }

  /** It runs as fast as it can from now on. */
  end(): void {
    this.#isOver = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#signal("SIGCONT");
  }

  #stop(): void {
    if (this.#isOver || !this.#signal("SIGSTOP")) return;
    this.#timer = setTimeout(() => {
      if (!this.#signal("SIGCONT")) return;
      this.#timer = setTimeout(() => this.#stop(), RUN_MS);
    }, this.#stillMs);
  }

  /** False: it is gone. */
  #signal(name: "SIGSTOP" | "SIGCONT"): boolean {
    try {
      return process.kill(this.#pid, name);
    } catch {
      this.#isOver = true;
      return false;
    }
  }
}
