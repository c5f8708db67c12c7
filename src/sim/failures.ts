/** The two ways in which a simulated handler is wrong. The simulator throws them. PURE. */

/** A page has, or would get, other content than it must have. */
export class WrongPage extends Error {
  override readonly name = "WrongPage";

  constructor(page: number, what: string) {
    super(`page ${page} ${what}`);
  }
}

/** The handler did not do what it must, did what it must not, or gave up without a reason. */
export class HandlerFailure extends Error {
  override readonly name = "HandlerFailure";
}
