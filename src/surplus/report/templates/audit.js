(function () {
  "use strict";
  // The interpreter (ast) stands in for generated code, which the page's policy forbids.
  var options = {mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false,
                 tooltip: {disableDefaultStyle: true}};
  var specs = JSON.parse(document.getElementById("specs").textContent);
  var drawn = Object.keys(specs).map(function (id) {
    var place = document.getElementById("chart-" + id);
    return window.vegaEmbed(place, specs[id], options).catch(function (error) {
      place.textContent = "This chart could not be drawn; its numbers are in the table below.";
      place.closest("figure").querySelector("details").open = true;
      console.error(id, error);
    });
  });
  Promise.all(drawn).then(function () { document.documentElement.dataset.charts = "drawn"; });
})();
