// The map of the model: rectangles whose areas are numbers of parameters. Layers stay in their order, so that the map can be read like a page:
// the embedding on top, then rows of layers; inside a layer attention on the left, MLP on the right.

/**
 * Rectangles {x, y, width, height, entry, kind: 'cell' | 'layer'} for `modules` ({site, layer, module, part, parameters}) in `width` x `height`.
 */
export function layout(modules, width, height) {
  const total = modules.reduce((sum, m) => sum + m.parameters, 0) || 1;
  const outside = modules.filter((m) => m.layer === null || m.layer === undefined);
  const layers = [];
  for (const m of modules) if (m.layer !== null && m.layer !== undefined) (layers[m.layer] ??= []).push(m);
  const cells = [];
  const weight = (list) => list.reduce((sum, m) => sum + m.parameters, 0);
  const unit = (width * height) / total;
  let y = 0;
  const band = (list) => {
    const rows = weight(list) * unit / width;
    let x = 0;
    for (const m of list) {
      const w = m.parameters * unit / rows;
      cells.push({ kind: 'cell', entry: m, x, y, width: w, height: rows });
      x += w;
    }
    y += rows;
  };
  const isHead = (m) => m.part === 'head' || m.module === 'lm_head';
  const before = outside.filter((m) => m.part === 'embedding');
  const after = outside.filter((m) => m.part !== 'embedding');
  if (before.length) band(before);
  const present = layers.map((list, layer) => ({ list, layer })).filter(({ list }) => list);
  // As many layers in a row as make cells of about 5 : 4.
  const room = weight(present.flatMap(({ list }) => list)) * unit;
  const each = room / Math.max(1, present.length);
  const per = Math.max(1, Math.min(present.length, Math.round(width / Math.sqrt(each * 1.25))));
  const rows = Math.ceil(present.length / per);
  const even = Math.ceil(present.length / rows);
  for (let at = 0; at < present.length; at += even) {
    const row = present.slice(at, at + even);
    // A last row that is not full would be lower than the others if it were as wide, so every row has the height of its own sum.
    const tall = weight(row.flatMap(({ list }) => list)) * unit / width;
    let x = 0;
    for (const { list, layer } of row) {
      const wide = weight(list) * unit / tall;
      cells.push({ kind: 'layer', layer, x, y, width: wide, height: tall, parameters: weight(list) });
      columns(list, x, y, wide, tall, unit, cells);
      x += wide;
    }
    y += tall;
  }
  if (after.length) band(after.sort((a, b) => Number(isHead(b)) - Number(isHead(a))));
  return cells;
}

function columns(list, x, y, width, height, unit, cells) {
  const parts = [list.filter((m) => m.part === 'attention'), list.filter((m) => m.part !== 'attention')];
  for (const part of parts.filter((p) => p.length)) {
    const wide = part.reduce((sum, m) => sum + m.parameters, 0) * unit / height;
    let top = y;
    for (const m of part) {
      const tall = m.parameters * unit / wide;
      cells.push({ kind: 'cell', entry: m, x, y: top, width: wide, height: tall });
      top += tall;
    }
    x += wide;
  }
}
