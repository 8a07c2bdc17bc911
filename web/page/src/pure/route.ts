// Where the user is: the URL's fragment, so that links and the back button work. Never contains the key.

export const VIEWS = ["miners", "orders", "pairs", "eliminations"] as const;
export type View = (typeof VIEWS)[number];
/** `item` is the hotkey or the trade pair whose page is shown. */
export type Route = { view: View; item: string | null };

export function parseRoute(hash: string): Route {
  const [view = "", item = ""] = hash.replace(/^#\/?/, "").split("/", 2);
  const known = VIEWS.find((name) => name === view) ?? "miners";
  let decoded = "";
  try {
    decoded = decodeURIComponent(item);
  } catch {
    // A fragment that was cut short shows the list.
  }
  const hasItems = known === "miners" || known === "pairs";
  return { view: known, item: hasItems && decoded !== "" ? decoded : null };
}

export function linkTo(view: View, item: string | null = null): string {
  return `#/${view}` + (item === null ? "" : `/${encodeURIComponent(item)}`);
}
