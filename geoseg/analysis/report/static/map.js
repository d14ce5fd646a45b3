"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { width, height, pixel, objects } = data;
  const crs = L.Util.extend({}, L.CRS.Simple, {
    distance: (a, b) => Math.hypot((a.lng - b.lng) * pixel[0], (a.lat - b.lat) * pixel[1]),
  });
  const bounds = [[-height, 0], [0, width]];
  const map = L.map("map", {
    crs, minZoom: -6, maxZoom: 6, zoomSnap: 0.25, attributionControl: false,
    maxBounds: L.latLngBounds(bounds).pad(0.5),
  }).fitBounds(bounds);
  if (data.unit === "m") L.control.scale({ imperial: false }).addTo(map);
  const overlays = {};
  const escape = (text) => {
    const element = document.createElement("span");
    element.textContent = text;
    return element.innerHTML;
  };
  const addPicture = (name, url) => {
    if (url) overlays[name] = L.imageOverlay(url, bounds).addTo(map);
  };
  addPicture("scene", data.scene);
  addPicture("smaller objects", data.painted);

  // Rings are differences of whole numbers, `data.steps` to a pixel; y grows downward.
  const ring = (steps) => {
    const points = [];
    for (let i = 0, x = 0, y = 0; i < steps.length; i += 2) {
      x += steps[i];
      y += steps[i + 1];
      points.push([-y / data.steps, x / data.steps]);
    }
    return points;
  };
  const number = (value, digits) =>
    value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const description = (i, center) => {
    const kind = data.classes[objects.kind[i]];
    const [a, b, c, d, e, f] = data.transform;
    const [column, row] = [center.lng, -center.lat];
    const lines = [
      `<b>${escape(kind.name)}</b> ${objects.id[i]}`,
      `${number(objects.area[i], 1)} ${data.unit}²`,
      `${number(objects.length[i], 1)} × ${number(objects.width[i], 1)} ${data.unit}, ` +
        `${number(objects.angle[i], 0)}°`,
      `x ${number(a * column + b * row + c, data.digits)}, ` +
        `y ${number(d * column + e * row + f, data.digits)}`,
    ];
    if (objects.confidence[i] !== null) {
      lines.splice(2, 0, `confidence ${number(objects.confidence[i], 2)}`);
    }
    return lines.join("<br>");
  };
  const renderer = L.canvas({ padding: 0.5, tolerance: 4 });
  const groups = data.classes.map(() => L.layerGroup());
  const shapes = objects.rings.map((parts, i) => {
    const shape = L.polygon(parts.map((rings) => rings.map(ring)), {
      renderer, color: data.classes[objects.kind[i]].color, weight: 1.5, fillOpacity: 0.3,
    });
    shape.bindPopup(() => description(i, shape.getBounds().getCenter()));
    groups[objects.kind[i]].addLayer(shape);
    return shape;
  });
  data.classes.forEach((kind, i) => {
    const swatch = `<span class="swatch" style="background:${kind.color}"></span>`;
    overlays[`${swatch}${escape(kind.name)} (${number(kind.count, 0)})`] = groups[i].addTo(map);
  });
  L.control.layers(null, overlays, { collapsed: false }).addTo(map);
  for (const figure of document.querySelectorAll("figure[data-object]")) {
    figure.addEventListener("click", () => {
      const shape = shapes[Number(figure.dataset.object)];
      groups[objects.kind[Number(figure.dataset.object)]].addTo(map);
      document.getElementById("map").scrollIntoView({ behavior: "instant" });
      map.fitBounds(shape.getBounds().pad(2), { animate: false });
      shape.openPopup();
    });
  }
})();
