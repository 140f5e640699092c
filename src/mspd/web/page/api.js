// Calls to the server. A failure is an Error with the server's one line.

const NO_CONNECTION = "no connection to mspd; is it still running?";

export async function ask(what) {
  const answer = await fetch(`/api/${what}`).catch(() => {
    throw new Error(NO_CONNECTION);
  });
  if (!answer.ok) throw new Error(`mspd answered ${answer.status}`);
  return answer.json();
}

const UNREADABLE = "the file cannot be read: it is a folder, or was moved or changed meanwhile; choose it again";

// Post a form; `progress` is told what the server says of it meanwhile. `stop` aborts the call, and the server's work.
export async function call(what, fields, stop, progress) {
  const job = Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
  const form = new FormData();
  for (const [name, value] of Object.entries({ ...fields, job })) form.append(name, value);
  const timer = setInterval(async () => {
    const answer = await fetch(`/api/jobs/${job}`).catch(() => undefined);
    if (answer?.ok && !ended) progress(await answer.json());
  }, 300);
  let ended = false;
  try {
    const answer = await fetch(`/api/${what}`, { method: "POST", body: form, signal: stop.signal });
    if (answer.ok) return answer;
    const { error } = await answer.json().catch(() => ({}));
    throw new Error(error ?? `the server answered ${answer.status}`);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    const readable = await Promise.all(Object.values(fields).map((f) => f.arrayBuffer?.())).then(() => true, () => false);
    throw new Error(readable ? NO_CONNECTION : UNREADABLE);
  } finally {
    ended = true;
    clearInterval(timer);
  }
}

const STAGES = { waiting: "Waiting for its turn", loading: "Loading the models", protecting: "Protecting", attacking: "Attacking" };

export function line({ stage, done, of }) {
  return of ? `${STAGES[stage]}, ${done} of ${of} done` : STAGES[stage];
}
