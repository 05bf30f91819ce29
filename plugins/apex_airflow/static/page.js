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
