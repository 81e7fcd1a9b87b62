// Frames packed by klrlhf.explore.pack: a template, and a column for every leaf that changes,
// stored once per combination of the controls it really depends on.

/** Functions from control values to the nearest computed frame. */
export function unpack(pack, controls) {
  const axes = pack.axes.map(name => {
    const c = controls.find(control => control.name === name);
    return {
      name,
      grid: c.kind === "choice" ? c.options.map(o => o.value) : c.grid,
      log: c.scale === "log",
      choice: c.kind === "choice",
    };
  });
  const columns = pack.columns.map(column => ({ ...column, cache: new Map() }));
  const nearest = values =>
    axes.map(axis => {
      const value = values[axis.name];
      if (axis.choice) return Math.max(0, axis.grid.indexOf(value));
      const at = v => (axis.log ? Math.log(v) : v);
      let best = 0;
      axis.grid.forEach((v, i) => {
        if (Math.abs(at(v) - at(value)) < Math.abs(at(axis.grid[best]) - at(value))) best = i;
      });
      return best;
    });
  const cell = (column, indices) => {
    let position = 0;
    for (const a of column.on) position = position * axes[a].grid.length + indices[a];
    if (column.index) position = column.index[position];
    if (!column.cache.has(position))
      column.cache.set(position, decode(column, column.rows[position]));
    return column.cache.get(position);
  };
  const fill = (node, indices) => {
    if (Array.isArray(node)) return node.map(child => fill(child, indices));
    if (node === null || typeof node !== "object") return node;
    if ("$" in node) return cell(columns[node.$], indices);
    const out = {};
    for (const key in node) out[key] = fill(node[key], indices);
    return out;
  };
  return {
    settle: values =>
      Object.fromEntries(nearest(values).map((i, k) => [axes[k].name, axes[k].grid[i]])),
    frame: values => fill(pack.template, nearest(values)),
  };
}

function decode(column, row) {
  if (column.as === "plain") return row;
  if (column.as === "text") {
    const [which, ...parts] = row;
    return column.texts[which].replace(/\u0001/g, () => parts.shift());
  }
  // whole numbers of a step; an array holds differences along the curve, null marks a gap
  const value = k =>
    k === null
      ? null
      : column.log
        ? 10 ** (column.from + k * column.step)
        : column.from + k * column.step;
  if (!Array.isArray(row)) return value(row);
  let sum = 0;
  return row.map(k => (k === null ? null : value((sum += k))));
}
