// Look as Airflow does: it keeps "light", "dark" or "system" under this key, and this page is of the same origin.
function theme() {
  let chosen = null;
  try {
    chosen = window.localStorage.getItem("theme");
  } catch {
    // storage is switched off: as the system has it
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
}

theme();
window.addEventListener("storage", theme);

// Airflow shows the page in a frame that may open no window and lead its window nowhere; a link of Airflow's own
// document may.
function follow(event) {
  const link = event.target.closest("a[data-top], a[data-out]");
  if (!link || window.parent === window || event.button !== 0) return;
  event.preventDefault();
  const stand = window.parent.document.createElement("a");
  stand.href = link.href;
  stand.rel = "noopener";
  if ("out" in link.dataset || event.ctrlKey || event.metaKey) stand.target = "_blank";
  window.parent.document.body.append(stand);
  stand.click();
  stand.remove();
}

document.addEventListener("click", follow);

const TIMEOUT_SECONDS = 180;

function say(text, url) {
  const answer = document.getElementById("answer");
  answer.textContent = text;
  if (!url) return;
  const link = document.createElement("a");
  link.href = url;
  link.dataset.top = "";
  link.textContent = "See the run";
  answer.append(" ", link);
}

async function refusal(answer) {
  if (answer.status === 403) return "You may look, but not roll back: Airflow refuses it (403).";
  if (answer.status === 401) return "Your session is over: log in again (401).";
  const body = await answer.json().catch(() => ({}));
  return `Airflow refuses it (${answer.status}): ${typeof body.detail === "string" ? body.detail : "see its log"}`;
}

// The request goes to Airflow's own API with the cookie of the person, so that Airflow decides and keeps who did it.
async function rollBack(event) {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  const conf = { reason: form.reason.value.trim(), version: Number(form.version.value) };
  if (conf.reason.length < 3) return say("Say why in three letters or more.");
  button.disabled = true;
  say("Asking Airflow …");
  try {
    const answer = await fetch(form.dataset.runs, {
      method: "POST",
      credentials: "same-origin",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ logical_date: null, conf, note: conf.reason }),
    });
    if (!answer.ok) return say(await refusal(answer));
    const id = encodeURIComponent((await answer.json()).dag_run_id);
    await ended(form, id);
  } catch (error) {
    say(`Airflow does not answer: ${error.message}`);
  } finally {
    button.disabled = false;
  }
}

async function ended(form, id) {
  const run = form.dataset.page + id;
  const dag = form.dataset.dag;
  for (let second = 0; second < TIMEOUT_SECONDS; second += 1) {
    say(`${dag} runs …`, run);
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const answer = await fetch(`${form.dataset.runs}/${id}`, { credentials: "same-origin" });
    const state = answer.ok ? (await answer.json()).state : "";
    if (state === "failed") return say(`${dag} failed; the champion is as before.`, run);
    if (state === "success") return window.location.reload();
  }
  say(`${dag} has not ended yet.`, run);
}

document.addEventListener("DOMContentLoaded", () => {
  for (const heat of document.querySelectorAll(".wide:has(.heat)")) heat.scrollLeft = heat.scrollWidth; // to the newest
  document.getElementById("rollback")?.addEventListener("submit", rollBack);
});
