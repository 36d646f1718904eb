(function () {
  "use strict";
  var root = document.documentElement, button = document.getElementById("theme"), tip = document.getElementById("tip");
  var names = { "": "Auto", light: "Light", dark: "Dark" }, order = ["", "light", "dark"], theme = "";
  function show(value) {
    theme = value in names ? value : "";
    if (theme) { root.setAttribute("data-theme", theme); } else { root.removeAttribute("data-theme"); }
    button.textContent = names[theme];
    button.setAttribute("aria-label", "Colours: " + names[theme].toLowerCase() + ". Change");
  }
  try { show(localStorage.getItem("understudy-theme") || ""); } catch (error) { show(""); }
  if (location.hash === "#dark" || location.hash === "#light") { show(location.hash.slice(1)); }
  button.hidden = false;
  button.addEventListener("click", function () {
    show(order[(order.indexOf(theme) + 1) % order.length]);
    try { localStorage.setItem("understudy-theme", theme); } catch (error) { /* a file may not store anything */ }
  });

  function nearest(svg, x, y) {
    var best = null, least = Infinity;
    svg.querySelectorAll("[data-tip]").forEach(function (point) {
      var dx = point.cx.baseVal.value - x, dy = point.cy.baseVal.value - y;
      var far = dx * dx * 4 + dy * dy;
      if (far < least) { least = far; best = point; }
    });
    return best;
  }
  document.querySelectorAll("figure svg").forEach(function (svg) {
    var cursor = svg.querySelector(".cursor"), here = null;
    function leave() {
      if (here) { here.classList.remove("here"); }
      here = null; tip.style.visibility = "hidden";
      if (cursor) { cursor.setAttribute("visibility", "hidden"); }
    }
    svg.addEventListener("pointermove", function (event) {
      var at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      var point = nearest(svg, at.x, at.y);
      if (!point) { return; }
      if (here) { here.classList.remove("here"); }
      here = point; here.classList.add("here");
      tip.textContent = point.getAttribute("data-tip");
      tip.style.visibility = "visible";
      var width = tip.offsetWidth, left = Math.min(event.clientX + 14, window.innerWidth - width - 8);
      tip.style.left = Math.max(8, left) + "px";
      tip.style.top = Math.max(8, event.clientY - tip.offsetHeight - 12) + "px";
      if (cursor) {
        cursor.setAttribute("x1", point.cx.baseVal.value); cursor.setAttribute("x2", point.cx.baseVal.value);
        cursor.setAttribute("visibility", "visible");
      }
    });
    svg.addEventListener("pointerleave", leave);
  });

  document.querySelectorAll(".copy").forEach(function (copy) {
    if (!navigator.clipboard) { return; }
    copy.hidden = false;
    copy.addEventListener("click", function () {
      navigator.clipboard.writeText(copy.parentNode.querySelector("pre").textContent).then(function () {
        copy.textContent = "Copied";
        setTimeout(function () { copy.textContent = "Copy"; }, 1500);
      });
    });
  });
})();
