// The studio's JSON interface (docs/studio.md). Errors come as the command line's do: what, where, and what to do.

/** An answer that is no success. */
export class ApiError extends Error {
  constructor(status, { what, where, propose }) {
    super(what);
    Object.assign(this, { status, what, where, propose });
  }
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, { what: 'the studio does not answer', where: location.host, propose: 'look whether `graftling studio` still runs in its terminal, and reload this page' });
  }
  const text = await response.text();
  let body = null;
  try {
    body = text ? JSON.parse(text) : null;
  } catch {
    throw new ApiError(response.status, { what: `an answer that is not JSON: ${text.slice(0, 200)}`, where: path, propose: 'this is a fault of the studio; please report it with the line above' });
  }
  if (!response.ok) throw new ApiError(response.status, body?.error ?? { what: `status ${response.status}`, where: path });
  return body;
}

/** GET with parameters. */
export function get(path, parameters = {}, signal) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null)).toString();
  return ask(`/api/${path}${query ? `?${query}` : ''}`, { signal });
}

/** POST with a JSON body. */
export function post(path, body = {}, signal) {
  return ask(`/api/${path}`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body), signal });
}

const kept = new Map();
/** GET whose answer does not change while the studio runs: asked for once. */
export function once(path) {
  if (!kept.has(path)) {
    const answer = get(path);
    kept.set(path, answer);
    answer.catch(() => kept.delete(path));
  }
  return kept.get(path);
}

/** Forgets what was asked for once, since another model is open. */
export const forget = () => kept.clear();

/** Server-sent events: `handlers` by event name get the parsed data and the step; the browser reconnects and asks for what it missed. */
export function events(handlers, signal) {
  const source = new EventSource('/api/events');
  for (const [name, call] of Object.entries(handlers)) {
    source.addEventListener(name, (event) => {
      // The browser's own error event carries no data: it reconnects by itself.
      if (event.data !== undefined) call(JSON.parse(event.data), Number(event.lastEventId) || 0);
    });
  }
  signal?.addEventListener('abort', () => source.close());
  return source;
}
