// Before the first paint: the person's choice of dark or light, where there is one; else the system's.
(() => {
  const chosen = localStorage.getItem("hedgeserve-theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
})();
