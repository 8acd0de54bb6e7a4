// Talks to the server. The session travels in the Authorization header alone.

const KEY = "ctune-session";

export class Refused extends Error {
  constructor(status, why) { super(why); this.status = status; }
}

export async function call(path, options = {}) {
  const headers = { authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}`, ...options.headers };
  const answer = await fetch(`/api${path}`, { ...options, headers });
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, said.error ?? `the server answered ${answer.status}`);
  }
  return answer;
}

export const json = async (path, options) => (await call(path, options)).json();
export const post = (path, value) => json(path, { method: "POST", body: JSON.stringify(value ?? {}) });
export const bytes = async (path) => (await call(path)).arrayBuffer();

export async function signIn(token) {
  const found = await post("/session", { token });
  sessionStorage.setItem(KEY, found.session);
}

// Voxels are sent as gzip, X fastest, on the CT's own grid: no header, so no header can be wrong.
export async function sendDraft(id, name, voxels, round) {
  const packed = new Blob([voxels]).stream().pipeThrough(new CompressionStream("gzip"));
  const body = await new Response(packed).blob();
  return json(`/cases/${encodeURIComponent(id)}/drafts/${encodeURIComponent(name)}?round=${round}`, { method: "PUT", body });
}
