// One line on how current everything on the page is, and why not.

import { delay, moment, period } from "../pure/format.ts";
import { verdict } from "../pure/verdict.ts";
import { beat, board, boardFailingSince, gap, health, isLive, now, pulse, session, stream, tape, unreachableSince } from "../store.ts";

export function HealthStrip() {
  const state = verdict({
    tier: session.value?.tier ?? 0,
    health: health.value,
    beat: beat.value,
    stream: stream.value,
    unreachableSinceMs: unreachableSince.value,
    boardFailingSinceMs: boardFailingSince.value,
    nowMs: now.value,
  });
  const { perMinute, lagMs } = pulse.value;
  const last = tape.value[0];
  const swept = beat.value?.sourceMs ?? health.value?.source?.swept_ms ?? null;
  return (
    <>
      <section class="strip" aria-label="State of the service">
        <span class={`state ${state.kind}`} role="status">
          <i aria-hidden="true" />
          {state.word}
        </span>
        {state.why !== "" && <span class="why">{state.why}</span>}
        {isLive.value && (
          <>
            <Fact label="Last order" value={last === undefined ? "–" : `${period(now.value - last.processedMs)} ago`} />
            <Fact
              label="Lag"
              title="Median time from the validator's order to this screen, over the newest orders"
              value={lagMs === null ? "–" : delay(lagMs)}
            />
            <Fact label="Orders" title="Orders of the last minute" value={`${perMinute} / min`} />
          </>
        )}
        <Fact
          label="Source"
          title="Time since the validator's files were last compared with the served state"
          value={swept === null ? "–" : `${period(now.value - swept)} ago`}
        />
        <Fact label="Miners" value={String(board.value?.miners.length ?? "–")} />
      </section>
      {gap.value !== "" && (
        <p class="banner warn" role="alert">
          {gap.value}
          <button type="button" class="button" onClick={() => (gap.value = "")}>
            Dismiss
          </button>
        </p>
      )}
      <AsOf />
    </>
  );
}

function Fact({ label, value, title }: { label: string; value: string; title?: string }) {
  return (
    <span class="fact" title={title}>
      <span class="muted">{label}</span> <b>{value}</b>
    </span>
  );
}

/** Below tier 100: in large letters, how old the data is. */
function AsOf() {
  const tier = session.value?.tier ?? 0;
  if (tier >= 100) return null;
  const late = board.value?.delay_ms || 86_400_000;
  const at = now.value - late;
  return (
    <p class="banner asof">
      <strong>As of {period(late).replace("1 d", "24 h")} ago</strong>
      <span>
        {moment(at)}
        {tier >= 30 && `, except ${tier} % of the positions, which are live`}
      </span>
    </p>
  );
}
