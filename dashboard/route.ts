/**
 * What the part of the URL behind `#` says: a route such as `#/vm/web-1`, or the token that the
 * daemon put there. The token is taken out of the address bar at once; with `/first` behind it, the
 * first VM there is, or will be, is opened. PURE.
 */
export type Route =
  | { readonly kind: "overview" }
  | { readonly kind: "vm"; readonly id: string }
  | { readonly kind: "token"; readonly token: string; readonly opensFirst: boolean };

export function parseHash(hash: string): Route {
  const text = hash.replace(/^#/, "");
  const vm = /^\/vm\/([a-z0-9][a-z0-9-]{0,63})$/.exec(text);
  if (vm !== null) return { kind: "vm", id: vm[1]! };
  if (text === "" || text.startsWith("/")) return { kind: "overview" };
  const [token = "", rest] = text.split("/", 2);
  return { kind: "token", token, opensFirst: rest === "first" };
}

export function hashOfVm(id: string): string {
  return `#/vm/${id}`;
}
