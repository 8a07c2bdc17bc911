// Numbers and times as text. Every function takes values as the API sends them: factors, fractions, epoch ms.

const MINUS = "\u2212";
export const NOTHING = "\u2013";

/** Returns the number with a true minus sign, and a plus sign if `signed`. */
export function number(value: number, digits: number, signed = false): string {
  if (!Number.isFinite(value)) return NOTHING;
  const text = Math.abs(value).toLocaleString("en-US", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
  const isZero = !/[1-9]/.test(text);
  return (isZero ? "" : value < 0 ? MINUS : signed ? "+" : "") + text;
}

/** Returns a return factor as a percentage: 1.0432 is +4.32 %. */
export function gain(factor: number | null | undefined, digits = 2): string {
  return factor == null ? NOTHING : number((factor - 1) * 100, Math.abs(factor) >= 100 ? 0 : digits, true) + "%";
}

/** Returns a fraction as a percentage: 0.61 is 61 %. */
export function percent(fraction: number | null | undefined, digits = 0): string {
  return fraction == null ? NOTHING : number(fraction * 100, digits) + "%";
}

/** Returns leverage with its sign. */
export function leverage(value: number | null | undefined): string {
  return value == null ? NOTHING : number(value, Math.abs(value) >= 100 ? 1 : 3, true);
}

/** Returns a price with about six significant digits, so that a column of one pair stays aligned. */
export function price(value: number | null | undefined): string {
  if (value == null || !Number.isFinite(value)) return NOTHING;
  const size = Math.abs(value);
  const digits = size === 0 ? 0 : Math.min(8, Math.max(2, (size < 0.01 ? 3 : 5) - Math.floor(Math.log10(size))));
  return number(value, size >= 10_000 ? 1 : digits);
}

export function money(value: number | null | undefined, signed = false): string {
  return value == null ? NOTHING : number(value, Math.abs(value) >= 10_000 ? 0 : 2, signed);
}

/** Returns a period in its largest unit, such as 12 s, 4 min, 3 h or 2 d. */
export function period(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

/** Returns a delay that is usually below a second. */
export function delay(ms: number): string {
  return ms < 1000 ? `${Math.max(0, Math.round(ms))} ms` : ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : period(ms);
}

/** Returns the time of day in UTC. */
export function clock(ms: number): string {
  return isTime(ms) ? new Date(ms).toISOString().slice(11, 19) : NOTHING;
}

/** Returns date and minute in UTC. */
export function minute(ms: number | null | undefined): string {
  return ms != null && isTime(ms) ? new Date(ms).toISOString().slice(0, 16).replace("T", " ") : NOTHING;
}

/** Returns a date and time for a heading: 28 Nov 2026, 22:15 UTC. */
export function moment(ms: number): string {
  if (!isTime(ms)) return NOTHING;
  const [day, time] = [new Date(ms).toUTCString().slice(5, 16), new Date(ms).toISOString().slice(11, 16)];
  return `${day.replace(/^0/, "")}, ${time} UTC`;
}

function isTime(ms: number): boolean {
  return Number.isFinite(ms) && Math.abs(ms) <= 8.64e15;
}

/** Returns a hotkey's first and last characters. A subaccount keeps its number, which follows the hotkey. */
export function shortHotkey(hotkey: string): string {
  return hotkey.length <= 14 ? hotkey : `${hotkey.slice(0, 6)}\u2026${hotkey.slice(-5)}`;
}

/** Returns MAINCOMP as Main competition, and leaves an unknown bucket as it is. */
export function phase(bucket: string | null): string {
  const known: Record<string, string> = {
    MAINCOMP: "Main",
    CHALLENGE: "Challenge",
    PROBATION: "Probation",
    PLAGIARISM: "Plagiarism",
    ELIMINATED: "Eliminated",
    SUBACCOUNT_CHALLENGE: "Sub. challenge",
    SUBACCOUNT_FUNDED: "Sub. funded",
    SUBACCOUNT_ALPHA: "Sub. alpha",
    ENTITY: "Entity",
    UNKNOWN: "Unknown",
  };
  return bucket === null ? NOTHING : (known[bucket] ?? bucket);
}

/** Returns the sign of a number as it is written, as a class name of the style sheet: 0.0004 may be written 0. */
export function tone(text: string): "up" | "down" | "" {
  return text.startsWith("+") ? "up" : text.startsWith(MINUS) ? "down" : "";
}
