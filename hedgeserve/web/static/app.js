// What comes from the service is untrusted text: textContent only.

const headline = document.getElementById("headline");
const rows = document.getElementById("replicas");

function row(replica) {
  const line = document.createElement("tr");
  for (const text of [replica.id, replica.zone, replica.market, replica.state, replica.why]) {
    line.appendChild(document.createElement("td")).textContent = text;
  }
  return line;
}

async function look() {
  try {
    const answer = await fetch("/admin/v1/status");
    const status = await answer.json();
    if (!answer.ok) {
      headline.textContent = status.error.message;
    } else {
      headline.textContent =
        `${status.service}: ${status.ready} of ${status.target} ready · ${status.usd_per_hour.toFixed(2)} USD/h`;
      rows.replaceChildren(...status.replicas.map(row));
    }
  } catch {
    headline.textContent = "The service does not answer.";
  }
  setTimeout(look, 1000);
}

look();
