/** Arguments that all clients share. */

import { AuthenticationError, SettingsError } from "./errors.js";

/** One name, or several, also separated by commas. */
export type Choice = string | readonly string[];

/** Returns a list; undefined means all. Throws SettingsError for an empty choice: it means neither all nor none. */
export function asList(choice: Choice | undefined): string[] | undefined {
  if (choice === undefined) return undefined;
  const texts = typeof choice === "string" ? [choice] : choice;
  const names = texts.flatMap((text) => text.split(",")).map((name) => name.trim());
  const chosen = [...new Set(names.filter((name) => name !== ""))];
  if (chosen.length === 0)
    throw new SettingsError("an empty choice of miners or trade pairs; leave it out to choose all");
  return chosen;
}

/**
 * Returns the key without surrounding white space, such as the line break at the end of a file. The error for
 * characters that a key cannot have does not repeat them.
 */
export function checkedKey(apiKey: string | undefined): string {
  const key = (apiKey ?? "").trim();
  if (!/^[\x21-\x7e]*$/.test(key))
    throw new AuthenticationError("the API key contains characters that no key has", "no_key");
  return key;
}

/** The same; throws AuthenticationError without a key. */
export function requiredKey(apiKey: string | undefined): string {
  const key = checkedKey(apiKey);
  if (key === "") throw new AuthenticationError("no API key: pass apiKey", "no_key");
  return key;
}

/** Returns the server's address with a path that ends in a slash; a relative one belongs to the browser's page. */
export function baseURL(text: string, protocols: readonly string[]): URL {
  let url: URL;
  try {
    url = new URL(text || "/", (globalThis as { location?: { href: string } }).location?.href);
  } catch {
    throw new SettingsError("not a URL: the server's address");
  }
  if (!protocols.includes(url.protocol))
    throw new SettingsError(`an address of ${protocols.join(" or ")} is needed, not ${url.protocol}`);
  if (url.username || url.password) throw new SettingsError("an address must not contain a user or password");
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url;
}

/** Returns a function that passes warnings on, to the callback or else the console, and never throws. */
export function warnings(onWarning: ((message: string) => void) | undefined): (message: string) => void {
  const warn = onWarning ?? ((message: string) => console.warn(`ptn-api-client: ${message}`));
  return (message) => {
    try {
      warn(message);
    } catch {
      // there is nowhere left to report it
    }
  };
}
