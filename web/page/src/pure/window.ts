// Which part of a table is drawn.

/** Returns the columns that fit into this width: the least important ones are left out, the order stays. */
export function fitting<C extends { width: number; priority: number }>(columns: C[], width: number): C[] {
  const kept = [...columns];
  let total = kept.reduce((sum, column) => sum + column.width, 0);
  while (total > width) {
    let worst = -1;
    kept.forEach((column, index) => {
      if (column.priority > 0 && (worst < 0 || column.priority >= kept[worst]!.priority)) worst = index;
    });
    if (worst < 0) break;
    total -= kept.splice(worst, 1)[0]!.width;
  }
  return kept;
}

/** Returns the rows to draw, from `first` up to but without `last`. */
export function rowWindow(top: number, height: number, row: number, count: number, overscan: number) {
  const most = Math.max(0, count - Math.ceil(height / row));
  const start = Math.min(Math.max(0, Math.floor(top / row)), most);
  return {
    first: Math.max(0, start - overscan),
    last: Math.min(count, start + Math.ceil(height / row) + overscan),
  };
}
