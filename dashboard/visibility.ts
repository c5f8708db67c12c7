/**
 * Whether anybody can see this tab. One that is hidden for a while lets go of its streams: the
 * daemon saves the work, and browsers open no more than six connections to one place.
 */

const REST_AFTER_MS = 20_000;

/** Resolves as soon as the tab is visible, or nobody cares any more. */
export function awake(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const look = (): void => {
      if (document.visibilityState === "hidden" && !signal.aborted) return;
      document.removeEventListener("visibilitychange", look);
      signal.removeEventListener("abort", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look);
    look();
  });
}

/** Calls `rest` when the tab has been hidden for a while. Returns what takes that back. */
export function whenResting(rest: () => void): () => void {
  let timer = 0;
  const look = (): void => {
    window.clearTimeout(timer);
    if (document.visibilityState === "hidden") timer = window.setTimeout(rest, REST_AFTER_MS);
  };
  document.addEventListener("visibilitychange", look);
  look();
  return () => {
    window.clearTimeout(timer);
    document.removeEventListener("visibilitychange", look);
  };
}
