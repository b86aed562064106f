// Paper is narrower than a screen: figures are redrawn for it, else the browser would cut them off.
const PAPER = 680; // pixels between the margins of A4
const redraw = how => document.querySelectorAll('.js-plotly-plot').forEach(plot => Plotly.relayout(plot, how));
addEventListener('beforeprint', () => redraw({ autosize: false, width: PAPER }));
addEventListener('afterprint', () => redraw({ autosize: true, width: null }));
