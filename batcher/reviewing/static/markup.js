// Brings the estimate, which the server writes as HTML, into the page.
// Invariant: only elements and attributes of these lists come through, rebuilt one by one: no script, no link, no
// address, no event, even if the server's own escaping should fail one day.

const SVG = "http://www.w3.org/2000/svg";
const TAGS = new Set(
  `div p span bdi strong em b i small br h2 h3 h4 ul ol li dl dt dd code pre table caption thead tbody tfoot tr th td
  colgroup col details summary figure figcaption section`.split(/\s+/),
);
const DRAWN = new Set(
  "svg g title desc rect circle ellipse line polyline polygon path text tspan defs clippath".split(" "),
);
const ATTRIBUTES = new Set(
  `class role dir lang scope overflow colspan rowspan span open aria-label aria-hidden title tabindex
  viewBox width height x y x1 y1 x2 y2 cx cy r rx ry d points dx dy transform preserveAspectRatio text-anchor
  dominant-baseline fill fill-opacity stroke stroke-width stroke-opacity stroke-dasharray stroke-linecap
  stroke-linejoin opacity font-size font-weight font-family vector-effect`.split(/\s+/),
);

function rebuilt(node) {
  if (node.nodeType === Node.TEXT_NODE) return document.createTextNode(node.data);
  if (node.nodeType !== Node.ELEMENT_NODE) return null;
  const name = node.localName;
  const isDrawn = node.namespaceURI === SVG;
  if (!(isDrawn ? DRAWN.has(name.toLowerCase()) : TAGS.has(name))) return null;
  const made = isDrawn ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const { name: attribute, value } of node.attributes) {
    if (attribute === "data-form") form(made, value);
    else if (ATTRIBUTES.has(attribute) && !/url\s*\(/i.test(value)) made.setAttribute(attribute, value);
  }
  for (const child of node.childNodes) {
    const copy = rebuilt(child);
    if (copy) made.append(copy);
  }
  return made;
}

/** Set an element's own form, property by property: the page's policy forbids the attribute. */
function form(element, text) {
  for (const part of text.split(";")) {
    const colon = part.indexOf(":");
    if (colon > 0 && !/url\s*\(/i.test(part))
      element.style.setProperty(part.slice(0, colon).trim(), part.slice(colon + 1).trim());
  }
  reachable(element);
}

/** Let the keyboard reach what scrolls. */
function reachable(element) {
  if (!["auto", "scroll"].includes(element.style.overflowX)) return;
  element.tabIndex = 0;
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", "Wide table");
}

/** Return nodes of the page's own for HTML of the server. */
export function fromServer(html) {
  const renamed = html.replace(/(<[^>]*?\s)style=/g, "$1data-form="); // else the parser would report each to the console
  const parsed = new DOMParser().parseFromString(renamed, "text/html");
  return [...parsed.body.childNodes].map(rebuilt).filter(Boolean);
}
