/** Returns what went wrong as a sentence for the user. */
export function errorSentence(error: unknown): string {
  if (!(error instanceof Error)) return "Something went wrong.";
  const { code } = error as { code?: unknown };
  if (code === "unreachable" || error instanceof TypeError) return "The server cannot be reached.";
  const text = error.message === "" ? "Something went wrong" : error.message;
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
